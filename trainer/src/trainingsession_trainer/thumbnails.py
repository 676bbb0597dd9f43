"""Small pictures of a feature set's images, made while features are computed, so that findings can show images later.

A shard's thumbnails are one file: their number, where each of them ends (uint32, little-endian), then the JPEGs. They
are no part of what the features' key is made of: a set from before there were any is as good, only without pictures.
"""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

Picture = npt.NDArray[np.uint8]
"""[h, w, 3], RGB."""

SIDE = 64
"""Pixels of the longer side; a smaller image stays as it is."""
MOST = {"train": 16_384, "test": 65_536}
"""Images of a split that have one, the first of its order: 2 KB each at most, so 32 and 128 MB."""
_QUALITY = 75
_LARGEST_BYTES = 16_384


class Thumbnails:
    """Those of one shard, whose images may come in any order and from several threads."""

    def __init__(self, split: str, low: int, high: int) -> None:
        """Take those of the images [low, high) that have one."""
        self._low = low
        self._made: list[bytes] = [b""] * max(0, min(high, MOST.get(split, 0)) - low)

    def see(self, index: int, image: Picture) -> None:
        """Make the thumbnail of image `index` of the split, if it has one."""
        if 0 <= index - self._low < len(self._made):
            self._made[index - self._low] = reduced(image)

    def packed(self) -> bytes:
        """Give them as they are stored; nothing where no image of the shard has one."""
        if not self._made:
            return b""
        first = 4 * (1 + len(self._made))
        ends = first + np.cumsum([len(one) for one in self._made])
        return np.array([len(self._made), *ends], "<u4").tobytes() + b"".join(self._made)


def reduced(image: Picture) -> bytes:
    """Give a thumbnail of an RGB image, as JPEG."""
    picture = Image.fromarray(image)
    picture.thumbnail((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def largest_file(images: int) -> int:
    """Bytes that a file of so many thumbnails may have at most; a larger one was not made here."""
    return 4 + images * (4 + _LARGEST_BYTES)


def picture_in(data: bytes | memoryview, place: int) -> Picture | None:
    """Decode the thumbnail of a shard's image; None where there is none that can be read."""
    count = int.from_bytes(data[:4], "little")
    first = 4 * (1 + count)
    if not 0 <= place < count or len(data) < first:
        return None
    ends = [first, *np.frombuffer(data[4:first], "<u4").tolist()]
    try:
        with Image.open(io.BytesIO(data[ends[place] : ends[place + 1]]), formats=("JPEG",)) as picture:
            # Known from its head, before anything is decoded.
            return np.asarray(picture.convert("RGB")) if max(picture.size) <= SIDE else None
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
