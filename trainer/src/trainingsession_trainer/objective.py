"""What is minimised, how, and what is measured: Keras losses, optimizers and metrics by name.

Arguments are held against their types. Left out of the losses, because they say nothing of one image's classes: Dice
and Tversky (one figure of a whole batch), Circle (for embeddings), CTC (for sequences), MeanAbsolutePercentageError
(divides by labels that are 0), and the binary crossentropies (given a softmax, Keras takes its logits for those of
sigmoids while it trains, and so minimises another figure than it evaluates). Left out of the optimizers:
LossScaleOptimizer and MultiOptimizer, which hold other optimizers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras

from .arguments import check_arguments, keras_words
from .errors import SpecError
from .schedule import check_schedule
from .spec import Loss, Optimizer, Training
from .structure import shown

LOSS_CLASSES = {
    "categorical_crossentropy": keras.losses.CategoricalCrossentropy,
    "sparse_categorical_crossentropy": keras.losses.SparseCategoricalCrossentropy,
    "categorical_focal_crossentropy": keras.losses.CategoricalFocalCrossentropy,
    "categorical_generalized_cross_entropy": keras.losses.CategoricalGeneralizedCrossEntropy,
    "categorical_hinge": keras.losses.CategoricalHinge,
    "kl_divergence": keras.losses.KLDivergence,
    "mean_squared_error": keras.losses.MeanSquaredError,
    "cosine_similarity": keras.losses.CosineSimilarity,
    "hinge": keras.losses.Hinge,
    "huber": keras.losses.Huber,
    "log_cosh": keras.losses.LogCosh,
    "mean_absolute_error": keras.losses.MeanAbsoluteError,
    "mean_squared_logarithmic_error": keras.losses.MeanSquaredLogarithmicError,
    "poisson": keras.losses.Poisson,
    "squared_hinge": keras.losses.SquaredHinge,
}
OPTIMIZER_CLASSES = {
    "adadelta": keras.optimizers.Adadelta,
    "adafactor": keras.optimizers.Adafactor,
    "adagrad": keras.optimizers.Adagrad,
    "adam": keras.optimizers.Adam,
    "adamax": keras.optimizers.Adamax,
    "adamw": keras.optimizers.AdamW,
    "ftrl": keras.optimizers.Ftrl,
    "lamb": keras.optimizers.Lamb,
    "lion": keras.optimizers.Lion,
    "muon": keras.optimizers.Muon,
    "nadam": keras.optimizers.Nadam,
    "rmsprop": keras.optimizers.RMSprop,
    "schedulefreeadamw": keras.optimizers.ScheduleFreeAdamW,
    "sgd": keras.optimizers.SGD,
}
# The labels of these are numbers of classes; every other loss compares with one number per class.
_SPARSE_LOSSES = ("sparse_categorical_crossentropy", "categorical_generalized_cross_entropy")
_METRICS: dict[str, Callable[[int], keras.metrics.Metric]] = {
    "auc": lambda classes: keras.metrics.AUC(multi_label=True, num_labels=classes, name="auc"),
    "categorical_crossentropy": lambda _: keras.metrics.CategoricalCrossentropy(name="categorical_crossentropy"),
    "f1_score": lambda _: keras.metrics.F1Score(average="macro", name="f1_score"),
    "mean_squared_error": lambda _: keras.metrics.MeanSquaredError(name="mean_squared_error"),
    "precision": lambda _: keras.metrics.Precision(name="precision"),
    "recall": lambda _: keras.metrics.Recall(name="recall"),
    "top_3_accuracy": lambda classes: keras.metrics.TopKCategoricalAccuracy(min(3, classes), name="top_3_accuracy"),
    "top_5_accuracy": lambda classes: keras.metrics.TopKCategoricalAccuracy(min(5, classes), name="top_5_accuracy"),
}
_WHOLE_NUMBERS = ("gradient_accumulation_steps", "ema_overwrite_frequency")
_MOST = 1_000_000


def check_training(training: Training) -> None:
    """Build loss and optimizer once, so that a bad argument ends the session before any image is read."""
    build_loss(training.loss)
    build_optimizer(training.optimizer)
    check_schedule(training)
    if training.optimizer.config.get("use_ema") and training.restore_best:
        raise SpecError(
            "spec.training.optimizer.config.use_ema ends with averaged weights, which spec.training.restoreBest would "
            "replace by those of the best epoch; set one of them to false."
        )


def build_loss(loss: Loss) -> keras.losses.Loss:
    """Make the loss; raises SpecError naming the argument."""
    owner, path = LOSS_CLASSES[loss.name], "spec.training.loss.config"
    check_arguments(owner, loss.config, path, refused=("name", "dtype", "axis", "from_logits", "reduction"))
    for key, value in loss.config.items():
        _check_scalar(owner, key, value, f"{path}.{key}")
    try:
        return owner(**loss.config)
    except (TypeError, ValueError) as error:
        raise SpecError(f"{path} does not fit {loss.name} ({keras_words(error)}); correct it.") from error


def build_optimizer(optimizer: Optimizer) -> keras.optimizers.Optimizer:
    """Make the optimizer; raises SpecError naming the argument."""
    owner, path = OPTIMIZER_CLASSES[optimizer.name], "spec.training.optimizer.config"
    check_arguments(owner, optimizer.config, path, refused=("name",))
    for key, value in optimizer.config.items():
        _check_scalar(owner, key, value, f"{path}.{key}")
    rate = optimizer.config.get("learning_rate")
    if rate is not None and rate <= 0:
        raise SpecError(f"{path}.learning_rate is {shown(rate)}; it must be above 0.")
    try:
        return owner(**{key: value for key, value in optimizer.config.items() if value is not None})
    except (TypeError, ValueError) as error:
        raise SpecError(f"{path} does not fit {optimizer.name} ({keras_words(error)}); correct it.") from error


def wants_one_hot(loss: Loss) -> bool:
    """Whether the loss compares with one number per class, rather than with the number of the class."""
    return loss.name not in _SPARSE_LOSSES


def build_metrics(training: Training, classes: int) -> list[keras.metrics.Metric]:
    """Make the metrics that the spec names: their labels are as those of the loss, predictions are probabilities."""
    metrics = [_METRICS[name](classes) for name in dict.fromkeys(training.metrics)]
    return metrics if wants_one_hot(training.loss) else [_OfNumbers(metric, classes) for metric in metrics]


class _OfNumbers(keras.metrics.Metric):  # type: ignore[misc]
    """A metric over one number per class, fed with numbers of classes; no encoded labels are kept."""

    def __init__(self, metric: keras.metrics.Metric, classes: int) -> None:
        super().__init__(name=metric.name)
        self._metric = metric
        self._classes = classes

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        labels = keras.ops.reshape(keras.ops.cast(y_true, "int32"), (-1,))
        self._metric.update_state(keras.ops.one_hot(labels, self._classes), y_pred, sample_weight)

    def result(self) -> Any:
        return self._metric.result()

    def reset_state(self) -> None:
        self._metric.reset_state()


def _check_scalar(owner: type, key: str, value: object, path: str) -> None:
    """Hold a value against the type of the argument's default; Keras itself would fail much later, or never."""
    default = inspect.signature(owner).parameters[key].default
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise SpecError(f"{path} is {shown(value)}; it must be true or false.")
        return
    if key in _WHOLE_NUMBERS and value is not None and (type(value) is not int or not 1 <= value <= _MOST):
        raise SpecError(f"{path} is {shown(value)}; it must be a whole number from 1 to {_MOST:,}.")
    optional = default is None and value is None
    if not optional and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise SpecError(f"{path} is {shown(value)}; it must be a number.")
