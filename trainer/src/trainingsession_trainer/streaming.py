"""Features for the training of a head: in memory where they fit, else read from the store again for every epoch.

What is read again is shuffled in three steps: the order of images inside a set follows no class, the shards come in
another order each epoch, and the images of as many shards as fit into the window are mixed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Batch = tuple[Array, npt.NDArray[np.int32]]


class StreamedExamples:
    """Features [n, *feature_shape] and labels [n] of which only a window is in memory; see `Examples`."""

    def __init__(
        self,
        read: Callable[[int], Array],
        rows: Sequence[npt.NDArray[np.int64]],
        labels: npt.NDArray[np.int32],
        feature_shape: tuple[int, ...],
        dtype: np.dtype[Any],
        window_shards: int,
    ) -> None:
        """`read` gives a shard [k, *feature_shape]; `rows` are those of each shard that count, in order."""
        self.labels = labels
        self._read = read
        self._rows = rows
        self._starts = np.cumsum([0, *(len(some) for some in rows)])
        self._shape = feature_shape
        self._dtype = dtype
        self._window = max(1, window_shards)

    def __len__(self) -> int:
        return len(self.labels)

    def blocks(self) -> Iterator[Array]:
        """Give the features in their order, a shard at a time; a block is valid until the next one."""
        for features, _ in self._windows(np.arange(len(self._rows)), 1):
            yield features

    def batches(self, batch_size: int, order: tuple[int, int] | None) -> Iterator[Batch]:
        """Give batches in the order of (seed, epoch), or in the stored one; all but the last are full."""
        shards = np.arange(len(self._rows))
        random = None if order is None else np.random.default_rng(order)
        if random is not None:
            shards = random.permutation(shards)
        left: Batch = (np.empty((0, *self._shape), self._dtype), np.empty(0, np.int32))
        for features, labels in self._windows(shards, self._window):
            turns = np.arange(len(labels)) if random is None else random.permutation(len(labels))
            first = batch_size - len(left[1])
            cuts = [0, *range(first, len(labels) + 1, batch_size)]
            for low, high in pairwise(cuts):
                taken = turns[low:high]
                batch = (features[taken], labels[taken])
                if len(left[1]):
                    batch = (np.concatenate([left[0], batch[0]]), np.concatenate([left[1], batch[1]]))
                    left = (left[0][:0], left[1][:0])
                yield batch
            rest = turns[cuts[-1] :]
            left = (np.concatenate([left[0], features[rest]]), np.concatenate([left[1], labels[rest]]))
        if len(left[1]):
            yield left

    def _windows(self, shards: npt.NDArray[np.int64], size: int) -> Iterator[Batch]:
        """Read `size` shards into one buffer while the other is in use."""
        groups = [shards[start : start + size].tolist() for start in range(0, len(shards), size)]
        most = max((sum(len(self._rows[shard]) for shard in group) for group in groups), default=0)
        buffers = [np.empty((most, *self._shape), self._dtype) for _ in range(min(2, len(groups)))]
        with ThreadPoolExecutor(1, "shards") as thread:
            coming = None
            for turn, group in enumerate(groups):
                here = coming.result() if coming is not None else self._fill(buffers[0], group)
                if turn + 1 < len(groups):
                    coming = thread.submit(self._fill, buffers[(turn + 1) % 2], groups[turn + 1])
                yield here

    def _fill(self, buffer: Array, shards: Sequence[int]) -> Batch:
        filled = 0
        labels = []
        for shard in shards:
            rows = self._rows[shard]
            if len(rows):
                buffer[filled : filled + len(rows)] = self._read(shard)[rows]
            labels.append(self.labels[self._starts[shard] : self._starts[shard + 1]])
            filled += len(rows)
        return buffer[:filled], np.concatenate(labels)
