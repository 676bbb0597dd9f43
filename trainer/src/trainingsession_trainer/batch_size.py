"""How many images go through the base model at once: found while it works, on images that must be computed anyway."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

SMALLEST = 16
"""From here on processors give an image the same bits in a batch of any size; for fewer, some kernels differ."""
_LARGEST = 512
_STEPS = 3
_ROUNDS = 5
_SECONDS = 1.0
_GAIN = 1.05
"""By how much a smaller size must be faster than a larger one; less is noise."""


def batch_sizes(pixels: int, pixels_at_once: int) -> tuple[int, ...]:
    """Give the sizes to try, smallest first: the three largest powers of two that `pixels_at_once` has room for."""
    largest = min(_LARGEST, 1 << (max(1, pixels_at_once // pixels).bit_length() - 1))
    return tuple(size for step in range(_STEPS - 1, -1, -1) if (size := largest >> step) >= SMALLEST) or (largest,)


class BatchSize:
    """Tells the size of each batch: the possible ones in turn, until it is known which is the fastest.

    In turn, because a machine's speed changes meanwhile: so all sizes are timed over the same period.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = list(sizes)
        self._turn = 0
        self._rates: dict[int, list[float]] = {}  # images per second by size, without the first
        self._seconds = 0.0

    @property
    def found(self) -> bool:
        """Whether every batch has the same size from now on, and need not be observed."""
        return len(self._sizes) == 1

    def next(self) -> int:
        """Give the size of the next batch."""
        self._turn += 1
        return self._sizes[self._turn % len(self._sizes)]

    def observe(self, images: int, seconds: float) -> str | None:
        """Take note of the time that one batch took alone; gives a line for the log when the size is found."""
        if self.found or images not in self._sizes:
            return None
        if images not in self._rates:
            self._rates[images] = []  # this one went into finding kernels and memory for the size
            return None
        self._rates[images].append(images / seconds)
        self._seconds += seconds
        if self._seconds < _SECONDS or any(len(self._rates.get(size, ())) < _ROUNDS for size in self._sizes):
            return None
        rates = {size: median(self._rates[size]) for size in self._sizes}
        best = self._sizes[-1]
        for size in reversed(self._sizes[:-1]):
            best = size if rates[size] > _GAIN * rates[best] else best
        self._sizes = [best]
        tried = ", ".join(f"{rate:.0f} with {size}" for size, rate in rates.items())
        return f"Computing batches of {best} images (images/s: {tried})"

    def limit(self, size: int) -> bool:
        """Give no larger size from now on, as memory ran out; False when that is no news."""
        if size >= max(self._sizes):
            return False
        self._sizes = [known for known in self._sizes if known <= size] or [size]
        return True
