"""Pictures: what must be seen is in them, also where there is little or much to show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainingsession_trainer.exports import canvas, pictures
from trainingsession_trainer.snapshot import Epoch


def colours(path: Path) -> set[tuple[int, int, int]]:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}


def epochs(count: int, *, validation: bool = True) -> list[Epoch]:
    figures = {"loss": 1.0, "accuracy": 0.5} | ({"val_loss": 2.0, "val_accuracy": 0.4} if validation else {})
    return [Epoch(n + 1, 1.0, {name: value / (n + 1) for name, value in figures.items()}) for n in range(count)]


def test_the_curves_show_training_validation_and_the_kept_epoch(tmp_path) -> None:
    path = tmp_path / "curves.png"
    pictures.draw_curves(path, epochs(20), 7, "team-a/digits")
    assert {canvas.BLUE, canvas.ORANGE, canvas.GREEN} <= colours(path)


def test_without_validation_images_there_is_no_curve_of_them(tmp_path) -> None:
    path = tmp_path / "curves.png"
    pictures.draw_curves(path, epochs(20, validation=False), 20, "team-a/digits")
    assert canvas.ORANGE not in colours(path)


def test_a_loss_below_0_stays_on_the_sheet(tmp_path, monkeypatch) -> None:
    places = []
    draw = canvas.Canvas.line
    monkeypatch.setattr(
        canvas.Canvas, "line", lambda self, points, *style: places.extend(points) or draw(self, points, *style)
    )
    for losses in ((-0.2, -0.9), (0.0, -1.0), (1.5, -0.5)):
        told = [Epoch(n + 1, 1.0, {"loss": loss, "accuracy": 0.5}) for n, loss in enumerate(losses)]
        pictures.draw_curves(tmp_path / "curves.png", told, 2, "")
    with Image.open(tmp_path / "curves.png") as image:
        assert all(0 <= across <= image.width and 0 <= down <= image.height for across, down in places)


@pytest.mark.parametrize("count", [1, 2, 10_000])
def test_any_number_of_epochs_is_drawn(tmp_path, count) -> None:
    path = tmp_path / "curves.png"
    pictures.draw_curves(path, epochs(count), count, "a \x00 title " * 40)
    assert canvas.GREEN in colours(path)
    assert path.stat().st_size < 300_000


@pytest.mark.parametrize("classes", [1, 2, 30, 31, 1000])
def test_a_confusion_matrix_of_any_size_is_drawn(tmp_path, classes) -> None:
    path = tmp_path / "confusion.png"
    confusion = np.eye(classes, dtype=np.int64) * 40
    confusion[0, -1] += 3
    pictures.draw_confusion(path, confusion, [f"klasse\u202e {n}" for n in range(classes)], "team-a/digits")
    with Image.open(path) as image:
        assert max(image.size) < 1000
    assert path.stat().st_size < 500_000


def test_a_class_without_test_images_is_white(tmp_path) -> None:
    path = tmp_path / "confusion.png"
    pictures.draw_confusion(path, np.zeros((3, 3), np.int64), ["a", "b", "c"], "")
    assert canvas.BLUE not in colours(path)


def test_the_largest_mistakes_of_more_classes_than_pixels_stay_in_sight() -> None:
    parts = np.zeros((5000, 5000), np.float32)
    parts[1234, 4321] = 0.9
    assert pictures._merged(parts).max() == np.float32(0.9)


def test_images_keep_their_shape_and_one_that_is_missing_is_a_grey_field(tmp_path) -> None:
    path = tmp_path / "images.png"
    wide = Image.new("RGB", (300, 100), (255, 0, 0))
    pictures.draw_images(path, [pictures.Captioned(wide, ("a", "b")), pictures.Captioned(None, ("c", ""))], "title")
    assert {(255, 0, 0), canvas.LIGHT} <= colours(path)
    with Image.open(path) as image:
        red = np.all(np.asarray(image) == (255, 0, 0), axis=-1)
    assert (red.any(axis=0).sum(), red.any(axis=1).sum()) == (150, 50)


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (1, 20, [5, 10, 15, 20]),
        (0.91, 0.93, [0.91, 0.915, 0.92, 0.925, 0.93]), (3, 3, [3]),
    ],
)  # fmt: skip
def test_ticks_are_round_numbers(low, high, wanted) -> None:
    assert canvas.ticks(low, high) == pytest.approx(wanted)
