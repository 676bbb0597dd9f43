"""Test images that are nearly a training image: resized, compressed again, a little cropped or brightened.

Every image is reduced to 32x32 grey pixels. Its difference hash (dHash: N. Krawetz, "Kind of Like That", 2013,
hackerfactor.com) has 64 bits: in 8 rows of 9 reduced pixels, which one is brighter than its left neighbour. The
training image whose hash differs least from a test image's, in `MOST_BITS` at most, counts as its near duplicate if
their grey pixels also have a Pearson correlation of at least `LEAST_CORRELATION`: few bits say little of drawings.

Of 300 CIFAR-10 images, all that were enlarged, 96 % made a fifth brighter and 85 % compressed again as JPEG with
quality 50 are found so; images cropped by a pixel on each side hardly ever are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from trainingsession_trainer.read_ahead import DECODED_PIXELS, Room, processors

from .files import Stop, check_stop
from .splits import Grey, Split

MOST_BITS = 10
LEAST_CORRELATION = 0.98
MOST_COMPARISONS = 10_000_000_000
"""Half a minute of one processor. More training times test images than this are not compared."""
SMALLEST = 16
"""Images with fewer pixels on a side say too little; the first test image speaks for all."""
_BLOCK = 256
_AT_ONCE = 4096
_DOING = "near duplicates were looked for"

Pairs = NDArray[np.int32]
"""[n, 2]: place of the training and of the test image, each in its split's order."""


def near_duplicates(train: Split, test: Split, counts: tuple[int, int], stop: Stop) -> Pairs | None:
    """Find at most one training image for each test image, among the first of each split in order.

    `counts` says how many of the training and of the test images. None where those are too many to compare.
    Memory: 8 bytes an image. Identical files are left out: their digests tell. Raises DataError, Stopped.
    """
    if counts[0] * counts[1] > MOST_COMPARISONS:
        return None
    if not all(counts) or min(test.shape(0)[:2]) < SMALLEST:
        return np.empty((0, 2), np.int32)
    known = set(train.digests[: counts[0]])
    new = np.array([place for place, digest in enumerate(test.digests[: counts[1]]) if digest not in known], np.int32)
    if not len(new):
        return np.empty((0, 2), np.int32)
    hashes = _hashes(train, np.arange(counts[0], dtype=np.int32), stop)
    nearest, bits = _nearest(_hashes(test, new, stop), hashes, stop)
    close = np.flatnonzero(bits <= MOST_BITS)
    pairs = np.stack([nearest[close], new[close]], axis=1).astype(np.int32)
    alike = [_correlation(train.grey(int(a)), test.grey(int(b))) >= LEAST_CORRELATION for a, b in _each(pairs, stop)]
    found: Pairs = pairs[np.array(alike, bool)]
    return found


def difference_hash(grey: Grey) -> int:
    """Give the 64 bits of an image's 32x32 grey pixels."""
    small = np.asarray(Pillow.fromarray(grey).resize((9, 8), Pillow.Resampling.BOX)).astype(np.int16)
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes(), "big")


def _hashes(split: Split, places: NDArray[np.int32], stop: Stop) -> NDArray[np.uint64]:
    """Hash images of a split; Pillow decodes beside us, so threads help."""
    hashes, room = np.empty(len(places), np.uint64), Room(DECODED_PIXELS)

    def hashed(place: int) -> int:
        with room.of(math.prod(split.shape(place)[:2])):
            return difference_hash(split.grey(place))

    with ThreadPoolExecutor(processors(), "hashes") as threads:
        for start in range(0, len(places), _AT_ONCE):
            check_stop(stop, _DOING)
            part = places[start : start + _AT_ONCE].tolist()
            hashes[start : start + len(part)] = list(threads.map(hashed, part))
    return hashes


def _nearest(
    wanted: NDArray[np.uint64], among: NDArray[np.uint64], stop: Stop
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Give for each hash the first of `among` that differs in the fewest bits, and in how many."""
    nearest, bits = np.zeros(len(wanted), np.int64), np.full(len(wanted), 64, np.uint8)
    width = max(1, 16_000_000 // _BLOCK)
    for low in range(0, len(wanted), _BLOCK):
        for start in range(0, len(among), width):
            check_stop(stop, _DOING)
            differing = np.bitwise_count(wanted[low : low + _BLOCK, None] ^ among[None, start : start + width])
            best = differing.argmin(axis=1)
            least = differing[np.arange(len(best)), best]
            better = least < bits[low : low + _BLOCK]
            nearest[low : low + _BLOCK][better] = best[better] + start
            bits[low : low + _BLOCK][better] = least[better]
    return nearest, bits


def _correlation(one: Grey, other: Grey) -> float:
    """Pearson's correlation of two images; 0 where one has a single colour."""
    first, second = (grey.astype(np.float64).ravel() - grey.mean() for grey in (one, other))
    length = float(np.sqrt((first @ first) * (second @ second)))
    return float(first @ second) / length if length else 0.0


def _each(pairs: Pairs, stop: Stop) -> Iterator[tuple[int, int]]:
    for train, test in pairs.tolist():
        check_stop(stop, _DOING)
        yield train, test
