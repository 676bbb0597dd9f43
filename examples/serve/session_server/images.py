"""Pictures from strangers to pixels: checked before they are decoded, and brought to RGB as the trainer does it."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from .errors import NoPicture, PictureError, TooLarge

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
"""Pillow goes by content: without these, it would also run PostScript."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings a picture upright, by its EXIF orientation."""

Pixels = npt.NDArray[np.uint8]


def decode(data: bytes, most_pixels: int) -> Pixels:
    """Decode a picture to uint8 [height, width, 3]; raises PictureError."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image, most_pixels)
            upright = _UPRIGHT.get(_orientation(image))
            return np.asarray(_rgb(image if upright is None else image.transpose(upright)))
    except PictureError:
        raise
    except UnidentifiedImageError as error:
        raise NoPicture("The body is no JPEG, PNG, BMP, GIF or WebP picture; send the file's bytes.") from error
    # A damaged file makes a decoder fail in any way that there is.
    except Exception as error:
        words = " ".join(str(error).split())[:200] or type(error).__name__
        raise PictureError(f"The picture cannot be read ({words}); send another.") from error


def resize(pixels: Pixels, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Resize uint8 [h, w, 3] to float32 [*size, 3], 0 to 255: bilinear, antialiased where it shrinks, not rounded."""
    resized = [
        np.asarray(
            Image.fromarray(pixels[..., channel].astype(np.float32)).resize(size[::-1], Image.Resampling.BILINEAR)
        )
        for channel in range(3)
    ]
    return np.stack(resized, axis=-1)


def _check_size(image: Image.Image, most_pixels: int) -> None:
    # Known from the header: a small file may unpack to gigabytes.
    if image.width * image.height > most_pixels:
        raise TooLarge(f"The picture has {image.width} x {image.height} pixels; send one of at most {most_pixels:,}.")


def _orientation(image: Image.Image) -> Any:
    try:
        # Not image.getexif(), which for PNG decodes the pixels, and not exif_transpose, which fails for odd EXIF.
        return Image.Image.getexif(image).get(0x0112)
    except Exception:  # noqa: BLE001 - EXIF that cannot be read says nothing
        return None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16-bit grey; 257 maps 65,535 to 255.
        grey: npt.NDArray[Any] = np.clip(np.asarray(image, np.int64) / 257, 0, 255)
        return Image.fromarray(np.rint(grey).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        opaque = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque).convert("RGB")
    return image.convert("RGB")
