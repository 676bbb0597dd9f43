"""What the trained head is worth on images it has never seen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import keras
import numpy as np
import numpy.typing as npt

from .training import EVALUATION_BATCH, History, build_loss

if TYPE_CHECKING:
    from .batches import LabelledFeatures
    from .config import Training

_Z_95 = 1.959963984540054


@dataclass(frozen=True)
class Evaluation:
    """Figures on the test images; `confusion[i][j]` counts images of class i that were taken for class j."""

    accuracy: float
    loss: float
    interval: tuple[float, float]
    confusion: npt.NDArray[np.int64]


def evaluate(head: keras.Model, training: Training, test: LabelledFeatures) -> Evaluation:
    """Predict every test image once and count."""
    classes = int(head.output_shape[-1])
    probabilities = np.concatenate(
        [
            np.asarray(head.predict_on_batch(test.features[start : start + EVALUATION_BATCH].astype(np.float32)))
            for start in range(0, len(test.labels), EVALUATION_BATCH)
        ]
    )
    predicted = probabilities.argmax(axis=1)
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (test.labels, predicted), 1)
    correct, total = int(np.trace(confusion)), len(test.labels)
    labels: npt.NDArray[np.int32] | npt.NDArray[np.float32] = test.labels
    if training.loss.name != "sparse_categorical_crossentropy":
        labels = np.eye(classes, dtype=np.float32)[test.labels]
    loss = float(build_loss(training.loss)(labels, probabilities))
    return Evaluation(correct / total, loss, wilson_interval(correct, total), confusion)


def metrics_of(evaluation: Evaluation, history: History) -> dict[str, float]:
    """Name the further figures that are published beside the accuracy."""
    figures = history.kept_epoch.figures
    named = {
        "test_loss": evaluation.loss,
        "test_accuracy_low": evaluation.interval[0],
        "test_accuracy_high": evaluation.interval[1],
        "train_accuracy": figures["accuracy"],
        "train_loss": figures["loss"],
        "kept_epoch": float(history.kept),
    }
    if "val_loss" in figures:
        named["validation_accuracy"] = figures["val_accuracy"]
        named["validation_loss"] = figures["val_loss"]
    return named


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
