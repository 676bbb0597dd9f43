"""Images themselves as examples to train on: decoded and resized anew for every epoch, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import numpy as np
import numpy.typing as npt

from .base_models import BaseModel
from .batches import Labels, Order
from .datasets import Dataset, Split
from .datasets.order import prefix, validation_mask
from .errors import Stopped
from .extractor import resize_function
from .read_ahead import DECODED_PIXELS, ReadAhead, Room, processors
from .spec import Dataset as DatasetSpec

Floats = npt.NDArray[np.float32]

_EVALUATED_BYTES = 1 << 25  # in a batch that is only predicted, whose size changes no result
BATCHES_IN_MEMORY = 6
"""Four of ReadAhead's, the one that is handed on, and what the model makes of it first."""


class ImageExamples:
    """Images [n, *input_size, 3] float32, 0 to 255, and labels [n]; see `Examples`.

    What reads them raises DataError naming an image, and Stopped.
    """

    def __init__(self, split: Split, rows: npt.NDArray[np.int64], base: BaseModel, stop: Callable[[], bool]) -> None:
        """Take those of a split whose places in its order are `rows`."""
        self.labels: Labels = split.labels[rows].astype(np.int32)
        self._split = split
        self._rows = rows
        self._shape = (*base.input_size, 3)
        self._resize = resize_function(base)
        self._room = Room(DECODED_PIXELS)
        self._stop = stop

    def __len__(self) -> int:
        return len(self._rows)

    def blocks(self) -> Iterator[Floats]:
        """Give all images in stored order."""
        for images, _ in self.batches(len(self), None):
            yield images

    def batches(self, batch_size: int, order: Order | None) -> Iterator[tuple[Floats, Labels]]:
        """Give batches, of which few are in memory; those in stored order may be smaller than asked for."""
        if order is None:
            batch_size = min(batch_size, max(1, _EVALUATED_BYTES // (4 * math.prod(self._shape))))
        turns = np.arange(len(self)) if order is None else np.random.default_rng(order).permutation(len(self))

        def fill(low: int, out: npt.NDArray[Any]) -> None:
            for place, turn in enumerate(turns[low : low + len(out)]):
                if self._stop():
                    raise Stopped("Stopped while images were read.")
                row = int(self._rows[turn])
                with self._room.of(math.prod(self._split.shape(row)[:2])):
                    out[place] = self._resize(self._split.image(row)).numpy()

        ahead = ReadAhead(fill, self._shape, np.float32, processors())
        done = 0
        with closing(ahead.batches(0, len(self), lambda: batch_size)) as batches:
            for array, count in batches:
                # A device may still read what it was handed while the array is filled again.
                yield array[:count].copy(), self.labels[turns[done : done + count]]
                done += count


def images_by_part(
    dataset: Dataset, spec: DatasetSpec, base: BaseModel, stop: Callable[[], bool]
) -> tuple[ImageExamples, ImageExamples, ImageExamples]:
    """Give the images of training, validation and test, in the order in which their features are loaded."""
    held_back = validation_mask(dataset.train.labels[: prefix(len(dataset.train), spec.subset)], spec.validation_split)
    tested = np.arange(prefix(len(dataset.test), spec.test_subset))
    return (
        ImageExamples(dataset.train, np.flatnonzero(~held_back), base, stop),
        ImageExamples(dataset.train, np.flatnonzero(held_back), base, stop),
        ImageExamples(dataset.test, tested, base, stop),
    )
