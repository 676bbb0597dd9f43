"""The order of a split's images: made from their content alone, so that every subset is a prefix of it.

The images of a class are sorted by a digest of class and content, and the classes are merged so that every prefix holds
each of them in the data set's proportion, to within less than one image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from decimal import ROUND_CEILING, Decimal
from fractions import Fraction
from heapq import heappop, heappush
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


def order(labels: NDArray[np.int32], digests: Sequence[bytes]) -> NDArray[np.int64]:
    """Give the indices of the images in order.

    labels [n]: class numbers; digests: n image digests. The same images of a class keep no order of their own.
    """
    classes = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label).tolist()
        prefix = int(label).to_bytes(4, "big")
        keys = {i: hashlib.sha256(prefix + digests[i]).digest() for i in members}
        classes.append(sorted(members, key=keys.__getitem__))
    turns = [iter(members) for members in classes]
    merged = (next(turns[chosen]) for chosen in merge([len(members) for members in classes]))
    return np.fromiter(merged, np.int64, len(labels))


def merge(sizes: Sequence[int]) -> Iterator[int]:
    """Give the class of every place, for classes of these sizes: each prefix is within one image of the proportions.

    Image r of a class of s, of n in all, may stand from place floor(r n / s) + 1 on and must stand by place
    ceil((r + 1) n / s); of those that may, the most urgent is taken. That this always succeeds, and what it is for:
    Tijdeman, R. (1980), The chairman assignment problem, Discrete Mathematics 32.
    """
    n = sum(sizes)
    done = [0] * len(sizes)
    waiting = [(1, c) for c in range(len(sizes))]  # by the first place that they may take
    urgent: list[tuple[int, int]] = []  # by the last
    for place in range(1, n + 1):
        while waiting and waiting[0][0] <= place:
            _, c = heappop(waiting)
            heappush(urgent, (-(-(done[c] + 1) * n // sizes[c]), c))
        _, c = heappop(urgent)
        yield c
        done[c] += 1
        if done[c] < sizes[c]:
            heappush(waiting, (done[c] * n // sizes[c] + 1, c))


def prefix(n: int, subset: Decimal) -> int:
    """Give the number of images that `subset` of `n` means, rounded up in decimal arithmetic, at least 1."""
    return max(1, int((n * subset).to_integral_value(ROUND_CEILING)))


def validation_mask(labels: NDArray[np.int32], split: Decimal) -> NDArray[np.bool_]:
    """Say which images are held back for validation; `labels` [n] are those of the first n images in order.

    Image r of its class is, where floor((r + 1) * split) > floor(r * split). Counted within the class, every class
    gives its share: in the merged order the classes follow each other too regularly for that. And since r does not
    depend on n, an image stays on its side when the subset grows.
    """
    share = Fraction(split)
    steps = [(r * share.numerator) // share.denominator for r in range(len(labels) + 1)]
    held = np.array([after > before for before, after in pairwise(steps)], np.bool_)
    mask = np.zeros(len(labels), np.bool_)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        mask[members] = held[: len(members)]
    return mask


def order_digest(class_names: Sequence[str], labels: NDArray[np.int32], digests: Sequence[bytes]) -> str:
    """Name the ordered split by its content: class names, labels and image digests."""
    digest = hashlib.sha256()
    for name in class_names:
        encoded = name.encode()
        digest.update(len(encoded).to_bytes(4, "big") + encoded)
    digest.update(labels.astype(">i4").tobytes())
    for item in digests:
        digest.update(item)
    return digest.hexdigest()
