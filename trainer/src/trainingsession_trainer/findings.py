"""What a training tells beside its figures: predictions, pictures, doubtful labels, a learning curve.

None of it decides the result, so one that cannot be made is said in the log and left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .errors import Stopped, StorageError
from .evaluation import wilson_interval
from .exports import pictures, predictions, probe

if TYPE_CHECKING:
    from .prepared import PreparedFeatures
    from .repeats import Trained

PROBABILITIES = "probabilities.npy"
MISTAKES, DOUBTS = 25, 50
LEARNING_PARTS = (0.1, 0.25, 0.5, 1.0)
_ROWS = 4096


@dataclass(frozen=True)
class Subject:
    """What the findings are about: a session by its title, its features and images, and the trained head."""

    title: str
    prepared: PreparedFeatures
    trained: Trained
    probabilities: npt.NDArray[Any] | None  # [test images, classes]

    @property
    def names(self) -> tuple[str, ...]:
        """The class names."""
        return self.prepared.class_names

    @cached_property
    def pooled_train(self) -> probe.Pooled:
        """The training features for the probe; passed over once for doubts and learning curve."""
        return probe.pool(self.prepared.train)


def room_for_probabilities(
    folder: Path, exports: Collection[str], images: int, classes: int
) -> npt.NDArray[Any] | None:
    """Make the file that takes the predictions, where an export needs them."""
    if not {"predictions", "pictures"} & set(exports):
        return None
    return predictions.open_probabilities(folder / PROBABILITIES, images, classes)


def write_findings(
    folder: Path, subject: Subject, exports: Collection[str], say: Callable[[str], None], stop: Callable[[], bool]
) -> list[Path]:
    """Write the findings that `exports` ask for and give their paths; raises Stopped, StorageError."""
    written: list[Path] = []
    for name, write in _WRITERS.items():
        if name not in exports:
            continue
        if stop():
            raise Stopped("Stopped before the result was published; the next attempt finds the features.")
        try:
            written += write(folder, subject)
        except (Stopped, StorageError):
            raise
        except Exception as error:  # noqa: BLE001 - the result is worth more than a picture of it
            words = " ".join(str(error).split())[:300]
            say(f"The export {name} could not be made ({type(error).__name__}: {words}); the session goes on without")
    return written


def _write_predictions(folder: Path, subject: Subject) -> list[Path]:
    path, prepared = folder / "predictions.npz", subject.prepared
    assert subject.probabilities is not None  # noqa: S101 - made where this export is asked for
    predictions.write_predictions(
        path, subject.probabilities, prepared.test.labels, prepared.digests["test"], subject.names
    )
    return [path]


def _write_events(folder: Path, subject: Subject) -> list[Path]:
    from .exports import events

    path = folder / events.FILE
    events.write_events(path, subject.trained.history.epochs)
    return [path]


def _write_pictures(folder: Path, subject: Subject) -> list[Path]:
    history, evaluation = subject.trained.history, subject.trained.evaluation
    paths = [folder / name for name in ("curves.png", "confusion.png", "worst_mistakes.json")]
    pictures.draw_curves(paths[0], history.epochs, history.kept, f"{subject.title}: loss and accuracy")
    pictures.draw_confusion(paths[1], evaluation.confusion, subject.names, f"{subject.title}: confusion matrix")
    mistakes = _worst_mistakes(subject)
    _write_json(paths[2], mistakes)
    title = f"{subject.title}: the surest mistakes on the test images"
    return paths + _draw(folder / "worst_mistakes.png", subject, "test", mistakes, title)


def _worst_mistakes(subject: Subject) -> list[dict[str, Any]]:
    """Give the wrong predictions of the highest probability."""
    labels, given = subject.prepared.test.labels, subject.probabilities
    assert given is not None  # noqa: S101 - made where this export is asked for
    worst: list[tuple[float, int, int]] = []
    for low in range(0, len(labels), _ROWS):
        part = np.asarray(given[low : low + _ROWS])
        named = part.argmax(axis=1)
        wrong = np.flatnonzero(named != labels[low : low + _ROWS])
        worst += [(float(part[row, named[row]]), low + int(row), int(named[row])) for row in wrong]
        worst = sorted(worst, key=lambda one: (-one[0], one[1]))[:MISTAKES]
    digests = subject.prepared.digests["test"]
    return [
        {
            "image": row,
            "digest": digests[row].hex(),
            "class": subject.names[labels[row]],
            "takenFor": subject.names[named],
            "probability": round(probability, 6),
        }
        for probability, row, named in worst
    ]


def _write_doubts(folder: Path, subject: Subject) -> list[Path]:
    prepared = subject.prepared
    pooled = subject.pooled_train
    found = probe.doubtful(pooled, len(subject.names), DOUBTS)
    digests = prepared.digests["train"]
    doubts = [
        {
            "image": row,
            "digest": digests[row].hex(),
            "class": subject.names[pooled.labels[row]],
            "takenFor": subject.names[named],
            "margin": round(margin, 6),
        }
        for row, named, margin in found
    ]
    path = folder / "doubtful_labels.json"
    _write_json(path, {"examined": len(pooled.labels), "images": doubts})
    title = f"{subject.title}: training labels that other images contradict most"
    return [path, *_draw(folder / "doubtful_labels.png", subject, "train", doubts, title)]


def _write_learning_curve(folder: Path, subject: Subject) -> list[Path]:
    prepared = subject.prepared
    train, test = subject.pooled_train, probe.pool(prepared.test)
    points = []
    for images, right in probe.learning_curve(train, test, len(subject.names), LEARNING_PARTS):
        low, high = wilson_interval(right, len(test.labels))
        points.append({"images": images, "accuracy": right / len(test.labels), "low": low, "high": high})
    paths = [folder / "learning_curve.json", folder / "learning_curve.png"]
    _write_json(paths[0], {"testImages": len(test.labels), "points": points})
    pictures.draw_learning_curve(paths[1], points, f"{subject.title}: accuracy of a linear probe")
    return paths


def _draw(path: Path, subject: Subject, part: str, found: Sequence[dict[str, Any]], title: str) -> list[Path]:
    """Draw images with their class and what they are taken for; nothing where no image is at hand."""
    from PIL import Image

    images = subject.prepared.pictures(part, [one["image"] for one in found])
    if all(image is None for image in images):
        return []
    captioned = []
    for one, image in zip(found, images):
        measure = f"{100 * one['probability']:.1f} %, " if "probability" in one else ""
        lines = (f"{one['class']}, not {one['takenFor']}?", f"{measure}image {one['image']}")
        if part == "test":
            lines = (f"{one['class']}, taken for {one['takenFor']}", lines[1])
        captioned.append(pictures.Captioned(None if image is None else Image.fromarray(image), lines))
    pictures.draw_images(path, captioned, title)
    return [path]


def _write_json(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", "utf-8")


_WRITERS: dict[str, Callable[[Path, Subject], list[Path]]] = {
    "predictions": _write_predictions,
    "tensorBoard": _write_events,
    "pictures": _write_pictures,
    "doubtfulLabels": _write_doubts,
    "learningCurve": _write_learning_curve,
}
