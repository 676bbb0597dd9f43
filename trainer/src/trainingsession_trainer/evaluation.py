"""What the trained head is worth on images it has never seen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import numpy.typing as npt

from .epochs import evaluation_batch
from .objective import build_loss, build_metrics, wants_one_hot
from .training import History

if TYPE_CHECKING:
    from .batches import Examples, Labels
    from .spec import Training

CALIBRATION_BINS = 15
_Z_95 = 1.959963984540054


@dataclass(frozen=True)
class ClassFigures:
    """Figures of one class; 0 where nothing was counted, as scikit-learn's zero_division=0."""

    precision: float
    recall: float
    f1: float
    images: int


@dataclass(frozen=True)
class Evaluation:
    """Figures on the test images; `confusion[i][j]` counts images of class i that were taken for class j.

    `baseline` is the accuracy of always naming the class that most training images have.
    """

    accuracy: float
    loss: float
    interval: tuple[float, float]
    confusion: npt.NDArray[np.int64]
    baseline: float
    calibration_error: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Those that the spec names."""

    @property
    def classes(self) -> list[ClassFigures]:
        """Figures by class."""
        hits, taken, images = self.confusion.diagonal(), self.confusion.sum(axis=0), self.confusion.sum(axis=1)
        return [
            ClassFigures(_ratio(hit, named), _ratio(hit, there), _ratio(2 * hit, named + there), int(there))
            for hit, named, there in zip(hits, taken, images)
        ]

    @property
    def macro_f1(self) -> float:
        """Mean of F1 over the classes that the test images have or were taken for."""
        seen = self.confusion.sum(axis=0) + self.confusion.sum(axis=1) > 0
        return float(np.mean([figures.f1 for figures, there in zip(self.classes, seen) if there]))

    def sentence(self) -> str:
        """Say the accuracy as the log does."""
        low, high = self.interval
        return (
            f"Accuracy {self.accuracy:.4f} on {int(self.confusion.sum()):,} test images (95 % interval {low:.4f} to "
            f"{high:.4f}; {self.baseline:.4f} for always naming the commonest class)"
        )

    def short(self) -> dict[str, float]:
        """Give what the status shows beside the accuracy."""
        return {
            "accuracyLow": self.interval[0],
            "accuracyHigh": self.interval[1],
            "baseline": self.baseline,
            "macroF1": self.macro_f1,
            "calibrationError": self.calibration_error,
            "loss": self.loss,
        }


class Calibration:
    """Expected calibration error with 15 bins of equal width over the probability of the class that was named.

    Guo, Pleiss, Sun and Weinberger (2017), On calibration of modern neural networks: the mean distance between
    confidence and accuracy of a bin, weighted by its images.
    """

    def __init__(self) -> None:
        self._sums = np.zeros((3, CALIBRATION_BINS))  # images, confidence, hits

    def add(self, confidence: npt.NDArray[Any], hit: npt.NDArray[np.bool_]) -> None:
        """Count images [n] with the probability of the class that was named, and whether that was right."""
        bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
        for row, weights in zip(self._sums, (np.ones_like(confidence), confidence, hit)):
            np.add.at(row, bins, weights)

    def error(self) -> float:
        """Give the error of all images counted."""
        images, confidence, hits = self._sums
        return float(np.abs(confidence - hits).sum() / images.sum())


class Tally:
    """Counts predictions batch by batch."""

    def __init__(self, classes: int) -> None:
        self._confusion = np.zeros((classes, classes), np.int64)
        self._calibration = Calibration()

    def add(self, probabilities: npt.NDArray[Any], labels: Labels) -> None:
        """Count images with probabilities [n, classes] and labels [n]."""
        named = probabilities.argmax(axis=1)
        np.add.at(self._confusion, (labels, named), 1)
        self._calibration.add(probabilities.max(axis=1), named == labels)

    def evaluation(self, loss: float, commonest: int, metrics: Mapping[str, float] | None = None) -> Evaluation:
        """Give the figures of all images counted; `commonest` is the class that most training images have."""
        correct, total = int(np.trace(self._confusion)), int(self._confusion.sum())
        return Evaluation(
            accuracy=correct / total,
            loss=loss,
            interval=wilson_interval(correct, total),
            confusion=self._confusion,
            baseline=int(self._confusion[commonest].sum()) / total,
            calibration_error=self._calibration.error(),
            metrics=metrics or {},
        )


def commonest_class(labels: Labels) -> int:
    """Give the class that most of the images have."""
    return int(np.bincount(labels).argmax())


def evaluate(
    head: keras.Model,
    training: Training,
    test: Examples,
    *,
    train_labels: Labels | None = None,
    probabilities: npt.NDArray[Any] | None = None,
) -> Evaluation:
    """Predict every test image once and count.

    Without `train_labels` the baseline is that of the test images. `probabilities` [n, classes] takes what is
    predicted, in the order of the images; it may be a file that is mapped into memory.
    """
    classes = int(head.output_shape[-1])
    loss_of, one_hot = build_loss(training.loss), wants_one_hot(training.loss)
    measures = build_metrics(training, classes)
    tally, losses, done = Tally(classes), 0.0, 0
    for features, labels in test.batches(evaluation_batch(training.batch_size), None):
        found = np.asarray(head.predict_on_batch(features.astype(np.float32)))
        tally.add(found, labels)
        truth = np.eye(classes, dtype=np.float32)[labels] if one_hot else labels
        losses += float(loss_of(truth, found)) * len(labels)
        if probabilities is not None:
            probabilities[done : done + len(labels)] = found
        done += len(labels)
        for measure in measures:
            measure.update_state(truth, found)
    commonest = commonest_class(test.labels if train_labels is None else train_labels)
    named = {measure.name: float(measure.result()) for measure in measures}
    return tally.evaluation(losses / len(test), commonest, named)


def metrics_of(evaluation: Evaluation, history: History) -> dict[str, float]:
    """Name the further figures that are published beside the accuracy."""
    figures = history.kept_epoch.figures
    named = test_figures(evaluation) | {
        "train_accuracy": figures["accuracy"],
        "train_loss": figures["loss"],
        "kept_epoch": float(history.kept),
    }
    named |= {f"test_{name}": value for name, value in evaluation.metrics.items()}
    named |= {f"validation_{name}": figures[f"val_{name}"] for name in evaluation.metrics if "val_loss" in figures}
    if "val_loss" in figures:
        named["validation_accuracy"] = figures["val_accuracy"]
        named["validation_loss"] = figures["val_loss"]
    return named


def test_figures(evaluation: Evaluation) -> dict[str, float]:
    """Name the further figures that only the test images tell."""
    return {
        "test_loss": evaluation.loss,
        "test_accuracy_low": evaluation.interval[0],
        "test_accuracy_high": evaluation.interval[1],
        "test_macro_f1": evaluation.macro_f1,
        "test_calibration_error": evaluation.calibration_error,
        "baseline_accuracy": evaluation.baseline,
    }


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval of an accuracy counted on `total` images.

    Wilson, E. B. (1927), Probable inference, the law of succession, and statistical inference: stays within 0 and 1
    and is honest for small test sets and accuracies near 1.
    """
    rate = correct / total
    square = _Z_95**2 / total
    center = (rate + square / 2) / (1 + square)
    margin = _Z_95 * math.sqrt(rate * (1 - rate) / total + square / (4 * total)) / (1 + square)
    return max(0.0, center - margin), min(1.0, center + margin)


def _ratio(part: int, whole: int) -> float:
    return float(part / whole) if whole else 0.0
