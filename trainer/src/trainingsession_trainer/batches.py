"""Examples for a head: features with their labels, given in batches, from memory or from wherever they are kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float16] | npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]
Order = tuple[int, int]


class Blocks(Protocol):
    """Features that are passed over in their stored order, as often as wished."""

    def blocks(self) -> Iterator[Floats]:
        """Give all features, in arrays [k, *feature_shape]."""


class Examples(Blocks, Protocol):
    """Features and labels of the images of one part."""

    @property
    def labels(self) -> Labels:
        """Labels [n] in stored order."""

    def __len__(self) -> int:
        """Count the images."""

    def batches(self, batch_size: int, order: Order | None) -> Iterator[tuple[Floats, Labels]]:
        """Give every image once: features [b, *feature_shape] with labels [b]; only the last batch may be smaller.

        `order` is (seed, epoch), and what default_rng([seed, epoch]) makes of it is always the same; None is the
        stored order.
        """


@dataclass(frozen=True)
class LabelledFeatures:
    """Features [n, *feature_shape] in memory (float16, which halves it, or float32) and labels [n]."""

    features: Floats
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def blocks(self) -> Iterator[Floats]:
        """Give all features at once."""
        yield self.features

    def batches(self, batch_size: int, order: Order | None) -> Iterator[tuple[Floats, Labels]]:
        """Give batches, of which one at a time is copied."""
        rows = None if order is None else np.random.default_rng(order).permutation(len(self))
        for start in range(0, len(self), batch_size):
            part = slice(start, start + batch_size)
            chosen = part if rows is None else rows[part]
            yield self.features[chosen], self.labels[chosen]
