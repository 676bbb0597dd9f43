"""Images read by threads while the model computes: in order, each once, in bounded memory."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_BATCHES_AHEAD = 2
DECODED_PIXELS = 1 << 25
"""Decoded at once, at 7 bytes a pixel, or three times as much for images that must be rotated or flattened."""


def processors() -> int:
    """Count the processors that the trainer may use; a pod's limit comes as TensorFlow's own setting."""
    return int(os.environ.get("TF_NUM_INTRAOP_THREADS") or 0) or len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class ReadAhead:
    """Fills arrays of images, a part of each in every thread."""

    fill: Callable[[int, Array], None]
    """Reads image `low` and those after it into an array [n, *shape], until it is full."""
    shape: tuple[int, ...]
    dtype: npt.DTypeLike
    threads: int

    def batches(self, low: int, high: int, size: Callable[[], int]) -> Generator[tuple[Array, int], None, None]:
        """Give images [low, high) in arrays [size, *shape], each with how many count; raises what `fill` raises.

        `size` is asked when the reading of a batch begins. An array keeps its content until the second one after
        it is asked for, so that two can be in the model's hands; at most four are in memory.
        """
        reading: deque[tuple[list[Future[None]], Array, int]] = deque()
        given: deque[Array] = deque()
        free: list[Array] = []
        with ThreadPoolExecutor(self.threads, "images") as pool:
            try:
                while low < high or reading:
                    while low < high and len(reading) < _BATCHES_AHEAD:
                        wanted = size()
                        count = min(wanted, high - low)
                        array = free.pop() if free else None
                        if array is None or len(array) < wanted:
                            array = np.zeros((wanted, *self.shape), self.dtype)
                        array = array[:wanted]
                        reading.append((self._begin(pool, low, array[:count]), array, count))
                        low += count
                    parts, array, count = reading.popleft()
                    for part in parts:
                        part.result()
                    yield array, count
                    given.append(array)
                    if len(given) == _BATCHES_AHEAD:
                        free.append(given.popleft())
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _begin(self, pool: ThreadPoolExecutor, low: int, array: Array) -> list[Future[None]]:
        step = -(-len(array) // self.threads)
        return [
            pool.submit(self.fill, low + start, array[start : start + step]) for start in range(0, len(array), step)
        ]


class Room:
    """Bounds what is decoded at the same time, in pixels; an image that is larger than all of it gets it alone."""

    def __init__(self, pixels: int) -> None:
        self._pixels = pixels
        self._taken = 0
        self._changed = threading.Condition()

    @contextmanager
    def of(self, pixels: int) -> Iterator[None]:
        """Wait for so much room and keep it meanwhile."""
        with self._changed:
            self._changed.wait_for(lambda: self._taken == 0 or self._taken + pixels <= self._pixels)
            self._taken += pixels
        try:
            yield
        finally:
            with self._changed:
                self._taken -= pixels
                self._changed.notify_all()
