"""What a module gets: the contract with a user's own Python, which docs/own-python.md describes. It stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Part:
    """One part of the data set, in an order of which every prefix holds the classes in their proportions.

    `inputs` are features, float16 or float32 [n, *feature_shape], or images, uint8 [n, height, width, 3] (RGB); they
    are mapped from a file and read only, so that taking a part of them takes memory for that part alone. `labels` are
    int32 [n], indices into the class names; the test part has none.
    """

    inputs: npt.NDArray[Any]
    labels: npt.NDArray[np.int32] | None

    def __len__(self) -> int:
        return len(self.inputs)

    def batches(
        self, batch_size: int, seed: int | None = None
    ) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.int32] | None]]:
        """Give every image once, as float32 [b, ...] with labels [b]; in stored order, or shuffled by `seed`."""
        rows = np.arange(len(self)) if seed is None else np.random.default_rng(seed).permutation(len(self))
        for start in range(0, len(self), batch_size):
            chosen = rows[start : start + batch_size]
            yield self.inputs[chosen].astype(np.float32), None if self.labels is None else self.labels[chosen]


@dataclass(frozen=True)
class Task:
    """One call of a module's function."""

    train: Part
    validation: Part
    test: Part
    class_names: tuple[str, ...]
    parameters: Mapping[str, Any]
    """`spec.module.parameters`, with the types that they have there."""
    epochs: int
    batch_size: int
    seed: int
    """`spec.training.seed`. Python, NumPy and Keras are seeded with it before the function is called."""
    base_model: Mapping[str, Any]
    """`spec.baseModel`: name, arguments, inputSize and so on. With `input: images` nobody has built it."""
    workdir: Path
    """The only folder that can be written; it goes with the pod."""
    _tell: Callable[[Mapping[str, Any]], None] = field(repr=False)

    def report(self, epoch: int, **figures: float) -> None:
        """Tell an epoch's figures for log and status, such as loss=0.5 and val_accuracy=0.9; epochs count from 1."""
        self._tell({"epoch": epoch, "figures": {name: float(value) for name, value in figures.items()}})
