"""Image files to RGB pixels.

What is not RGB is brought there by one rule each: grey is repeated, palettes are looked up, CMYK is converted, 16 bits
are scaled to 8, transparency is composited on white, the EXIF orientation is applied, an animation gives its first
frame. Pillow decodes: its version is pinned, and other decoders differ in most values.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from trainingsession_trainer.errors import DataError

from .splits import GREY_SIZE, Grey, Image, Images, Shape, reduced

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp"})
MOST_PIXELS = 100_000_000
"""An image that says it has more is refused before it is decoded."""
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
"""Pillow goes by content: without these, a PostScript file named .png would be run."""
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Pillow.Transpose.FLIP_LEFT_RIGHT,
    3: Pillow.Transpose.ROTATE_180,
    4: Pillow.Transpose.FLIP_TOP_BOTTOM,
    5: Pillow.Transpose.TRANSPOSE,
    6: Pillow.Transpose.ROTATE_270,
    7: Pillow.Transpose.TRANSVERSE,
    8: Pillow.Transpose.ROTATE_90,
}
"""What brings an image upright, by its EXIF orientation."""
_ROTATED = frozenset({5, 6, 7, 8})
_FAILURES = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    MemoryError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    struct.error,
    UnidentifiedImageError,
    Pillow.DecompressionBombError,
)


class FileImages(Images):
    """Images in files; `names` are what an error calls them."""

    def __init__(self, paths: list[Path], names: list[str]) -> None:
        self._paths = paths
        self._names = names

    def read(self, index: int) -> Image:
        """Decode one file."""
        return decode(self._paths[index], self._names[index])

    def grey(self, index: int) -> Grey:
        """Decode one file no finer than needed, where it is a JPEG, and reduce it."""
        with _opened(self._paths[index], self._names[index]) as image:
            image.draft("RGB", (2 * GREY_SIZE[0], 2 * GREY_SIZE[1]))
            return reduced(_upright(image))

    def shape(self, index: int) -> Shape:
        """Read the size from the file's header, as it is after rotation."""
        with _opened(self._paths[index], self._names[index]) as image:
            width, height = image.size
            return (width, height, 3) if _orientation(image) in _ROTATED else (height, width, 3)


def decode(path: Path, name: str) -> Image:
    """Decode one file to uint8 [height, width, 3]; raises DataError naming it."""
    with _opened(path, name) as image:
        return np.asarray(_upright(image))


def _upright(image: Pillow.Image) -> Pillow.Image:
    # Asked before the pixels are loaded, as `shape` does: loading can bring up more metadata.
    method = _UPRIGHT.get(_orientation(image))
    return _rgb(image if method is None else image.transpose(method))


@contextmanager
def _opened(path: Path, name: str) -> Iterator[Pillow.Image]:
    """Open one file without decoding it; what goes wrong meanwhile becomes a DataError naming it."""
    try:
        with Pillow.open(path, formats=_FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise DataError(
                    f"{name} has {image.width} x {image.height} pixels, more than {MOST_PIXELS:,}; make it smaller."
                )
            yield image
    except _FAILURES as error:
        raise _unreadable(name, error) from error


def _orientation(image: Pillow.Image) -> int:
    """Give the EXIF orientation; EXIF that cannot be read says nothing.

    ImageOps.exif_transpose would write the rest of the EXIF anew, which fails for many cameras' and editors' files.
    """
    try:
        # Not image.getexif(): for PNG, that one decodes the pixels to find a chunk behind them.
        value = Pillow.Image.getexif(image).get(_ORIENTATION)
        return int(value) if value in _UPRIGHT else 1
    except _FAILURES:
        return 1


def _rgb(image: Pillow.Image) -> Pillow.Image:
    if image.mode.startswith("I"):
        # 16-bit grey; 257 maps 65,535 to 255.
        grey = np.clip(np.asarray(image, np.int64) / 257, 0, 255)
        return Pillow.fromarray(np.rint(grey).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        opaque = image.convert("RGBA")
        return Pillow.alpha_composite(Pillow.new("RGBA", opaque.size, "white"), opaque).convert("RGB")
    # `convert` would copy an image that is RGB already.
    return image if image.mode == "RGB" else image.convert("RGB")


def _unreadable(name: str, error: BaseException) -> DataError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    # Pillow puts the whole path into its message; the name inside the data set is said already.
    if isinstance(error, UnidentifiedImageError):
        reason = "it is no JPEG, PNG, BMP, GIF or WebP file"
    return DataError(f"{name} cannot be read ({reason}); repair or remove it.")
