"""What the trained head is worth on images it has never seen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import keras
import numpy as np
import numpy.typing as npt

from .epochs import evaluation_batch
from .objective import build_loss, build_metrics, wants_one_hot
from .training import History

if TYPE_CHECKING:
    from .batches import Examples
    from .config import Training

_Z_95 = 1.959963984540054


@dataclass(frozen=True)
class Evaluation:
    """Figures on the test images; `confusion[i][j]` counts images of class i that were taken for class j."""

    accuracy: float
    loss: float
    interval: tuple[float, float]
    confusion: npt.NDArray[np.int64]
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Those that the spec names."""


def evaluate(head: keras.Model, training: Training, test: Examples) -> Evaluation:
    """Predict every test image once and count."""
    classes = int(head.output_shape[-1])
    loss_of, one_hot = build_loss(training.loss), wants_one_hot(training.loss)
    confusion = np.zeros((classes, classes), np.int64)
    measures = build_metrics(training, classes)
    losses = 0.0
    for features, labels in test.batches(evaluation_batch(training.batch_size), None):
        probabilities = np.asarray(head.predict_on_batch(features.astype(np.float32)))
        np.add.at(confusion, (labels, probabilities.argmax(axis=1)), 1)
        truth = np.eye(classes, dtype=np.float32)[labels] if one_hot else labels
        losses += float(loss_of(truth, probabilities)) * len(labels)
        for measure in measures:
            measure.update_state(truth, probabilities)
    correct, total = int(np.trace(confusion)), len(test)
    named = {measure.name: float(measure.result()) for measure in measures}
    return Evaluation(correct / total, losses / total, wilson_interval(correct, total), confusion, named)


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
    named |= {f"test_{name}": value for name, value in evaluation.metrics.items()}
    named |= {f"validation_{name}": figures[f"val_{name}"] for name in evaluation.metrics if "val_loss" in figures}
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
