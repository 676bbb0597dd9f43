"""From stored features to what a head is trained on: in memory where it fits the budget, else streamed."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from .batches import Examples, LabelledFeatures
from .datasets.order import validation_mask
from .errors import StorageError
from .feature_sets import FeatureSet
from .feature_store import FeatureStore
from .reporting import Reporter
from .streaming import StreamedExamples

Array = npt.NDArray[Any]

MEMORY_SHARE = 0.6
"""Part of the pod's memory that features may take; TensorFlow and the head need the rest."""
_MIB = 1 << 20


class DamagedFeatures(StorageError):  # noqa: N818 - an end with a name of its own
    """A stored shard is damaged or missing. It was dropped: whoever needs it next computes it."""


@dataclass(frozen=True)
class Part:
    """The features of one split that a session uses: the first images of a set, with their labels int32 [needed].

    `digests` are those of the images, 32 bytes each.
    """

    found: FeatureSet
    labels: npt.NDArray[np.int32]
    digests: tuple[bytes, ...] = ()

    @property
    def shards(self) -> int:
        """Shards that hold them."""
        return self.found.shards_for(len(self.labels))

    @property
    def total(self) -> int:
        """Images in those shards: whole shards are computed."""
        return self.found.bounds(self.shards - 1)[1] if self.shards else 0


def memory_budget(limit: int | None = None) -> int:
    """Bytes that features may take in memory: a share of the pod's limit, or of the machine where there is no pod."""
    return int(MEMORY_SHARE * (limit or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")))


@dataclass(frozen=True)
class _Side:
    """Some of a part's images: those where `mask` [needed] is true."""

    part: Part
    mask: npt.NDArray[np.bool_]
    dtype: np.dtype[Any]

    @property
    def bytes(self) -> int:
        return int(self.mask.sum()) * math.prod(self.part.found.feature_shape) * self.dtype.itemsize

    @property
    def labels(self) -> npt.NDArray[np.int32]:
        return self.part.labels[self.mask]

    def rows(self, index: int) -> npt.NDArray[np.int64]:
        """Give the rows of a shard that belong to it."""
        low, high = self.part.found.bounds(index)
        return np.flatnonzero(self.mask[low:high])


class Loader:
    """Reads the parts of one session; raises DamagedFeatures, StorageError, Stopped."""

    def __init__(self, store: FeatureStore, budget: int, reporter: Reporter) -> None:
        self._store = store
        self._budget = budget
        self._reporter = reporter

    def load(self, train: Part, test: Part, validation_split: Decimal) -> tuple[Examples, Examples, Examples]:
        """Give the examples to train on, those held back for validation, and those of the test."""
        held_back = validation_mask(train.labels, validation_split)
        types = self._type(train), self._type(test)
        training, validation = _Side(train, ~held_back, types[0]), _Side(train, held_back, types[0])
        testing = _Side(test, np.ones(len(test.labels), bool), types[1])
        needed = training.bytes + validation.bytes + testing.bytes
        if needed <= self._budget:
            loaded = self._in_memory(training, validation)
            return loaded[0], loaded[1], self._in_memory(testing)[0]
        self._reporter.info(
            f"The features take {needed // _MIB:,} MiB, more than the {self._budget // _MIB:,} MiB of memory that they "
            "may have; they are read from MongoDB again for every epoch"
        )
        quarter = self._budget // 4
        held = self._in_memory(validation)[0] if validation.bytes <= quarter else self._streamed(validation, quarter)
        return self._streamed(training, 2 * quarter), held, self._streamed(testing, quarter)

    def _in_memory(self, *sides: _Side) -> Sequence[Examples]:
        """Read the sides of one part at once; the next shard is read while one is sorted in."""
        part = sides[0].part
        shape = part.found.feature_shape
        arrays = [np.empty((len(side.labels), *shape), side.dtype) for side in sides]
        filled = [0] * len(sides)
        for index, features in self._read_all(part):
            for number, side in enumerate(sides):
                rows = side.rows(index)
                arrays[number][filled[number] : filled[number] + len(rows)] = features[rows]
                filled[number] += len(rows)
        return [LabelledFeatures(array, side.labels) for array, side in zip(arrays, sides)]

    def _streamed(self, side: _Side, budget: int) -> Examples:
        part = side.part
        # Of the window there are two, and a shard that is being unpacked twice.
        shard = math.prod(part.found.shape(0)) * side.dtype.itemsize
        return StreamedExamples(
            lambda index: self._read(part, index),
            [side.rows(index) for index in range(part.shards)],
            side.labels,
            part.found.feature_shape,
            side.dtype,
            max(1, (budget // max(shard, 1) - 2) // 2),
        )

    def _read_all(self, part: Part) -> Iterator[tuple[int, Array]]:
        """Give the shards in order; when some are damaged, all are dropped before the first is raised."""
        damage: DamagedFeatures | None = None
        with ThreadPoolExecutor(1, "shards") as thread:
            coming = deque(thread.submit(self._read, part, index) for index in range(min(2, part.shards)))
            for index in range(part.shards):
                try:
                    features = coming.popleft().result()
                except DamagedFeatures as error:
                    damage = damage or error
                if index + 2 < part.shards:
                    coming.append(thread.submit(self._read, part, index + 2))
                if damage is None:
                    yield index, features
        if damage is not None:
            raise damage

    def _read(self, part: Part, index: int) -> Array:
        document = self._store.find(part.found, index)
        features = None if document is None else self._store.read(part.found, index, document)
        if features is not None:
            return features
        if document is not None:
            self._store.drop(part.found, index, document)
        raise DamagedFeatures(
            f"Shard {index} of the {part.found.split} features is {'damaged' if document else 'missing'}; "
            "it has to be computed again."
        )

    def _type(self, part: Part) -> np.dtype[Any]:
        """Give the type that holds every stored shard of a part."""
        names = {str(document["dtype"]) for document in self._store.finished(part.found, part.shards).values()}
        return np.dtype(np.float32 if "float32" in names else np.float16)
