"""The course of training, decided from numbers alone: the learning rate of a step, the weights of classes, the end.

Every function here depends on nothing but its arguments, so an attempt that goes on from a checkpoint decides as the
one before it did.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .errors import SpecError
from .structure import shown

if TYPE_CHECKING:
    from .snapshot import Epoch
    from .spec import ClassWeights, EarlyStopping, LearningRate, Training

_LARGEST_WEIGHT = 1_000_000
_NEEDED = {"constant": (), "step": ("factor", "stepEpochs"), "exponential": ("factor",), "cosine": ()}
_ACCEPTED = {**_NEEDED, "cosine": ("minimumFactor",)}


def check_schedule(training: Training) -> None:
    """Hold the fields of `training.learningRate` and `training.classWeights` against each other; raises SpecError."""
    rate, path = training.learning_rate, "spec.training.learningRate"
    if rate is not None:
        given = {"factor": rate.factor, "stepEpochs": rate.step_epochs, "minimumFactor": rate.minimum_factor}
        for name, value in given.items():
            if value is None and name in _NEEDED[rate.schedule]:
                raise SpecError(f"{path}.{name} is missing; schedule {rate.schedule} needs it.")
            if value is not None and name not in _ACCEPTED[rate.schedule]:
                raise SpecError(f"{path}.{name} is {value}; schedule {rate.schedule} has no use for it, remove it.")
        if rate.warmup_epochs >= training.epochs:
            raise SpecError(
                f"{path}.warmupEpochs is {rate.warmup_epochs}; it must be less than spec.training.epochs, "
                f"which is {training.epochs}."
            )
    weights, path = training.class_weights, "spec.training.classWeights"
    if weights is not None:
        if weights.balanced == (weights.weights is not None):
            found = "both" if weights.balanced else "neither"
            raise SpecError(f"{path} has {found} of balanced: true and weights; set exactly one.")
        for name, value in (weights.weights or {}).items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 <= value <= _LARGEST_WEIGHT:
                raise SpecError(
                    f"{path}.weights has {shown(value)} for {shown(name)}; "
                    f"it must be a number from 0 to {_LARGEST_WEIGHT:,}."
                )


def check_classes(weights: ClassWeights | None, class_names: Sequence[str]) -> None:
    """Hold the names in `classWeights.weights` against the data set's; raises SpecError."""
    for name in (weights.weights or {}) if weights is not None else ():
        if name not in class_names:
            listed = ", ".join(class_names[:10]) + (", …" if len(class_names) > 10 else "")
            raise SpecError(
                f"spec.training.classWeights.weights names {shown(name)}, which is no class of the data set; "
                f"its classes are {listed}."
            )


def rate_factor(rate: LearningRate, epochs: int, epoch: int, step: int, steps: int) -> float:
    """Give what the optimizer's learning rate is multiplied by in one step; epochs and steps count from 0.

    Warm-up grows in equal parts per step and reaches 1 with its last one. After it, with u epochs since its end:
    step factor^⌊u / stepEpochs⌋, exponential factor^u, cosine m + (1 - m)(1 + cos(πu / (epochs - warmupEpochs))) / 2
    with m = minimumFactor (Loshchilov and Hutter (2017), SGDR, without restarts).
    """
    if epoch < rate.warmup_epochs:
        return (epoch * steps + step + 1) / (rate.warmup_epochs * steps)
    passed = epoch - rate.warmup_epochs + step / steps
    if rate.schedule == "step":
        return float((rate.factor or 1.0) ** ((epoch - rate.warmup_epochs) // (rate.step_epochs or 1)))
    if rate.schedule == "exponential":
        return float((rate.factor or 1.0) ** passed)
    if rate.schedule == "cosine":
        low = rate.minimum_factor or 0.0
        return low + (1 - low) * (1 + math.cos(math.pi * passed / (epochs - rate.warmup_epochs))) / 2
    return 1.0


def class_weights(
    weights: ClassWeights, labels: npt.NDArray[np.int32], class_names: Sequence[str]
) -> npt.NDArray[np.float32]:
    """Give the weight of each class, float32 [classes]; a class that is not named counts 1.

    balanced is n / (k · images of the class), with k the classes that have images (King and Zeng (2001), Logistic
    regression in rare events data): every class counts alike, and an image counts 1 on average.
    """
    if weights.weights is not None:
        return np.array([weights.weights.get(name, 1.0) for name in class_names], np.float32)
    counts = np.bincount(labels, minlength=len(class_names))
    present = np.count_nonzero(counts)
    return np.where(counts > 0, len(labels) / (present * np.maximum(counts, 1)), 1.0).astype(np.float32)


def ends_early(stopping: EarlyStopping | None, epochs: Sequence[Epoch]) -> bool:
    """Whether the last `patience` epochs were all no better, by more than `minDelta`, than the best before them."""
    if stopping is None:
        return False
    sign = -1 if stopping.monitor == "accuracy" else 1
    best, waited = math.inf, 0
    for epoch in epochs:
        value = sign * epoch.figures[f"val_{stopping.monitor}"]
        waited = 0 if value < best - stopping.min_delta else waited + 1
        best = value if waited == 0 else best
    return waited >= stopping.patience
