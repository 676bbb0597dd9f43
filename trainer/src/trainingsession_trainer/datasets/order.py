"""The order of a split's images: made from their content alone, so that every subset is a prefix of it.

The images of a class are sorted by a digest of class and content, image r of n stands at (r + 1/2) / n, and the classes
are merged by position. Every prefix then holds a class with share p of the images, one of k classes, to within
1/2 + p * (k - 2) / 2 images of its proportion: one image where no class has more than 1 / (k - 2) of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from decimal import ROUND_CEILING, Decimal
from fractions import Fraction
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


def order(labels: NDArray[np.int32], digests: Sequence[bytes]) -> NDArray[np.int64]:
    """Give the indices of the images in order.

    labels [n]: class numbers; digests: n image digests. The same images of a class keep no order of their own.
    """
    positions = np.empty(len(labels), np.float64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        prefix = int(label).to_bytes(4, "big")
        keys = [hashlib.sha256(prefix + digests[int(i)]).digest() for i in members]
        members = members[sorted(range(len(members)), key=keys.__getitem__)]
        # A division is rounded correctly, so equal fractions of different classes are equal here too.
        positions[members] = (2 * np.arange(len(members)) + 1) / (2 * len(members))
    return np.lexsort((labels, positions)).astype(np.int64)


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
