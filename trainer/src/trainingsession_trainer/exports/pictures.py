"""Pictures of a training: its curves, its confusion matrix, its worst mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from .canvas import BLACK, BLUE, GREEN, GREY, LIGHT, ORANGE, WHITE, Canvas, Colour, ticks

if TYPE_CHECKING:
    from ..snapshot import Epoch

NAMED_CLASSES = 30
"""Classes up to which the confusion matrix has names and numbers."""
_SIDE = 720


def draw_curves(path: Path, epochs: Sequence[Epoch], kept: int, title: str) -> None:
    """Draw loss and accuracy of every epoch, and mark the one whose weights were kept."""
    canvas = Canvas(1000, 420)
    canvas.text(20, 14, canvas.fitting(title, 960, 16), size=16)
    for left, figure in ((70, "loss"), (570, "accuracy")):
        lines = [
            (name, colour, [epoch.figures[key] for epoch in epochs])
            for key, name, colour in ((figure, "training", BLUE), (f"val_{figure}", "validation", ORANGE))
            if key in epochs[0].figures
        ]
        _chart(canvas, left, figure, lines, [epoch.number for epoch in epochs], kept)
    canvas.save(path)


def _chart(
    canvas: Canvas,
    left: int,
    title: str,
    lines: list[tuple[str, Colour, list[float]]],
    numbers: list[int],
    kept: int,
) -> None:
    top, width, height = 84, 400, 270
    values = [value for _, _, line in lines for value in line]
    low, high = min(values), max(values)
    room = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    # A loss such as cosine_similarity's lies below 0; where nothing does, the axis ends there.
    low, high = (low - room if low < 0 else max(low - room, 0.0)), high + room
    first, last = numbers[0], max(numbers[-1], numbers[0] + 1)

    def across(number: float) -> float:
        return left + width * (number - first) / (last - first)

    def up(value: float) -> float:
        return top + height * (high - value) / (high - low)

    for tick in ticks(low, high, 7):
        canvas.line([(left, up(tick)), (left + width, up(tick))], LIGHT)
        canvas.text(left - 8, up(tick), f"{tick:g}", size=11, colour=GREY, anchor="rm")
    for tick in ticks(first, last, 8):
        if tick == int(tick):
            canvas.text(across(tick), top + height + 8, f"{tick:g}", size=11, colour=GREY, anchor="ma")
    canvas.text(left + width / 2, top + height + 28, "epoch", size=12, colour=GREY, anchor="ma")
    canvas.line([(across(kept), top), (across(kept), top + height)], GREEN, 2)
    canvas.text(left, top - 30, title, size=14)
    words = float(left + width)
    for name, colour, _ in reversed(lines):
        words -= canvas.width_of(name) + 10
        canvas.text(words, top - 28, name, colour=colour)
    words -= canvas.width_of(f"kept: epoch {kept}") + 16
    canvas.text(words, top - 28, f"kept: epoch {kept}", colour=GREEN)
    for _, colour, line in lines:
        points = [(across(number), up(value)) for number, value in zip(numbers, line)]
        if len(points) > 1:
            canvas.line(points, colour, 2)
        if len(points) <= 40:
            for point in points:
                canvas.dot(*point, 2.5, colour)
    canvas.line([(left, top), (left, top + height), (left + width, top + height)], GREY)


def draw_confusion(path: Path, confusion: npt.NDArray[np.int64], class_names: Sequence[str], title: str) -> None:
    """Draw the confusion matrix, each row as parts of the class's test images; names and counts where they fit."""
    classes = len(class_names)
    named = classes <= NAMED_CLASSES
    margin, size = (150, max(9.0, min(13.0, 330 / classes))) if named else (60, 12.0)
    canvas = Canvas(_SIDE + margin + 30, _SIDE + margin + 70)
    canvas.text(20, 14, canvas.fitting(title, _SIDE + margin - 10, 16), size=16)
    left, top = margin + 10, 60
    parts = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    if classes > _SIDE:
        parts = _merged(parts)
    # The square root lifts rare mistakes into sight.
    heat = np.sqrt(parts)[..., None]
    shades = (255 - heat * (255 - np.array(BLUE))).round().astype(np.uint8)
    canvas.picture(Image.fromarray(shades), left, top, _SIDE, _SIDE, smooth=False)
    if named:
        step = _SIDE / classes
        for index, name in enumerate(class_names):
            short, middle = canvas.fitting(_printable(name), margin - 16, size), (index + 0.5) * step
            canvas.text(left - 8, top + middle, short, size=size, anchor="rm")
            width = canvas.width_of(short, size)
            canvas.upright(left + middle, top + _SIDE + 10 + width, short, size=size)
            for other in range(classes):
                if confusion[index, other]:
                    colour = WHITE if heat[index, other, 0] > 0.6 else BLACK
                    where = (left + (other + 0.5) * step, top + middle)
                    canvas.text(*where, f"{confusion[index, other]}", size=size, colour=colour, anchor="mm")
    else:
        for tick in ticks(0, classes - 1):
            place = (tick + 0.5) * _SIDE / classes
            canvas.text(left - 8, top + place, f"{tick:g}", size=size, colour=GREY, anchor="rm")
            canvas.text(left + place, top + _SIDE + 8, f"{tick:g}", size=size, colour=GREY, anchor="ma")
    canvas.text(left, 40, "rows: the image's class; columns: the class it was taken for", size=12, colour=GREY)
    canvas.save(path)


def _merged(parts: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Take several classes together where there are more than pixels; the largest part of each stays in sight."""
    starts = np.linspace(0, len(parts), _SIDE, endpoint=False).astype(int)
    return np.maximum.reduceat(np.maximum.reduceat(parts, starts, axis=0), starts, axis=1)


@dataclass(frozen=True)
class Captioned:
    """An image (None where it is not at hand) with two lines below it."""

    image: Image.Image | None
    lines: tuple[str, str]


def draw_images(path: Path, images: Sequence[Captioned], title: str, columns: int = 5) -> None:
    """Draw images in rows, each with its lines."""
    side, gap, below = 150, 16, 42
    rows = -(-len(images) // columns) or 1
    canvas = Canvas(gap + columns * (side + gap), 50 + rows * (side + below + gap))
    canvas.text(gap, 14, canvas.fitting(title, columns * (side + gap) - gap, 16), size=16)
    for index, one in enumerate(images):
        left = gap + index % columns * (side + gap)
        top = 50 + index // columns * (side + below + gap)
        if one.image is None:
            canvas.box(left, top, left + side, top + side, LIGHT)
        else:
            width, height = one.image.size
            scale = side / max(width, height)
            size = (max(1, round(width * scale)), max(1, round(height * scale)))
            place = (left + (side - size[0]) // 2, top + (side - size[1]) // 2)
            canvas.picture(one.image, *place, *size, smooth=max(width, height) > 48)
        for number, (line, colour) in enumerate(zip(one.lines, (BLACK, GREY))):
            canvas.text(left, top + side + 4 + 18 * number, canvas.fitting(line, side, 12), colour=colour)
    canvas.save(path)


def draw_learning_curve(path: Path, points: Sequence[Mapping[str, Any]], title: str) -> None:
    """Draw accuracy over training images with its intervals; `points` have images, accuracy, low and high."""
    canvas = Canvas(640, 420)
    canvas.text(20, 14, canvas.fitting(title, 600, 16), size=16)
    left, top, width, height = 70, 60, 530, 290
    low, high = min(point["low"] for point in points), max(point["high"] for point in points)
    most = points[-1]["images"]

    def across(images: float) -> float:
        return float(left + width * images / most)

    def up(value: float) -> float:
        return float(top + height * (high - value) / max(high - low, 1e-9))

    for tick in ticks(low, high, 7):
        canvas.line([(left, up(tick)), (left + width, up(tick))], LIGHT)
        canvas.text(left - 8, up(tick), f"{tick:g}", size=11, colour=GREY, anchor="rm")
    for point in points:
        place = across(point["images"])
        canvas.line([(place, up(point["low"])), (place, up(point["high"]))], BLUE)
        canvas.dot(place, up(point["accuracy"]), 4, BLUE)
        canvas.text(place, top + height + 8, f"{point['images']:,}", size=11, colour=GREY, anchor="ma")
    canvas.line([(across(point["images"]), up(point["accuracy"])) for point in points], BLUE, 2)
    canvas.text(left + width / 2, top + height + 30, "training images", colour=GREY, anchor="ma")
    canvas.line([(left, top), (left, top + height), (left + width, top + height)], GREY)
    canvas.save(path)


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)
