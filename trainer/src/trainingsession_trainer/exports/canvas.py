"""A sheet to draw charts on, with Pillow, which the trainer has anyway; a library for charts would weigh 70 MB."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import cast

from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Point = tuple[float, float]

BLACK, GREY, LIGHT, WHITE = (30, 30, 30), (110, 110, 110), (225, 225, 225), (255, 255, 255)
# Okabe and Ito's colours, which colour-blind people can tell apart.
BLUE, ORANGE, GREEN = (0, 114, 178), (213, 94, 0), (0, 158, 115)
_SCALE = 2  # drawn twice as large and shrunk at the end: smooth lines


class Canvas:
    """A white sheet; all measures are pixels of the finished picture."""

    def __init__(self, width: int, height: int) -> None:
        self.size = (width, height)
        self._image = Image.new("RGB", (width * _SCALE, height * _SCALE), WHITE)
        self._draw = ImageDraw.Draw(self._image)

    def line(self, points: Sequence[Point], colour: Colour, width: float = 1.0) -> None:
        """Draw a line through points."""
        scaled = [(x * _SCALE, y * _SCALE) for x, y in points]
        self._draw.line(scaled, fill=colour, width=max(1, round(width * _SCALE)), joint="curve")

    def dot(self, x: float, y: float, radius: float, colour: Colour) -> None:
        """Draw a filled circle."""
        box = [(x - radius) * _SCALE, (y - radius) * _SCALE, (x + radius) * _SCALE, (y + radius) * _SCALE]
        self._draw.ellipse(box, fill=colour)

    def box(self, left: float, top: float, right: float, bottom: float, fill: Colour) -> None:
        """Fill a rectangle."""
        corners = [round(left * _SCALE), round(top * _SCALE), round(right * _SCALE) - 1, round(bottom * _SCALE) - 1]
        if corners[2] >= corners[0] and corners[3] >= corners[1]:
            self._draw.rectangle(corners, fill=fill)

    def text(
        self, x: float, y: float, text: str, *, size: float = 12, colour: Colour = BLACK, anchor: str = "la"
    ) -> None:
        """Write one line; `anchor` is Pillow's: l m r, then a (ascender) m s (baseline) d."""
        self._draw.text((x * _SCALE, y * _SCALE), text, fill=colour, font=_font(size * _SCALE), anchor=anchor)

    def upright(self, x: float, y: float, text: str, *, size: float = 12, colour: Colour = BLACK) -> None:
        """Write upwards, the line's middle at x, its beginning at y."""
        font = _font(size * _SCALE)
        left, top, right, bottom = (math.ceil(edge) for edge in font.getbbox(text))
        sheet = Image.new("RGB", (max(1, right - left), max(1, bottom - top)), WHITE)
        ImageDraw.Draw(sheet).text((-left, -top), text, fill=colour, font=font)
        turned = sheet.rotate(90, expand=True)
        self._image.paste(turned, (round(x * _SCALE - turned.width / 2), round(y * _SCALE - turned.height)))

    def picture(self, image: Image.Image, left: int, top: int, width: int, height: int, *, smooth: bool) -> None:
        """Put an image on the sheet."""
        kind = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
        self._image.paste(
            image.convert("RGB").resize((width * _SCALE, height * _SCALE), kind), (left * _SCALE, top * _SCALE)
        )

    def width_of(self, text: str, size: float = 12) -> float:
        """Measure a line."""
        return float(_font(size * _SCALE).getlength(text)) / _SCALE

    def fitting(self, text: str, width: float, size: float = 12) -> str:
        """Shorten a line to a width."""
        if self.width_of(text, size) <= width:
            return text
        while text and self.width_of(text + "…", size) > width:
            text = text[:-1]
        return text + "…"

    def save(self, path: Path) -> None:
        """Write the picture as PNG."""
        self._image.reduce(_SCALE).save(path, format="PNG", optimize=True)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Give round numbers within [low, high], at most `most`."""
    if not high > low:
        return [low]
    step = (high - low) / max(1, most - 1)
    power = 10.0 ** math.floor(math.log10(step))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= step * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(first * step + number * step, 12) for number in range(math.floor(high / step + 1e-9) - first + 1)]


@lru_cache(maxsize=16)
def _font(size: float) -> ImageFont.FreeTypeFont:
    # Always this kind where Pillow was built with FreeType, as its wheels are.
    return cast("ImageFont.FreeTypeFont", ImageFont.load_default(size))
