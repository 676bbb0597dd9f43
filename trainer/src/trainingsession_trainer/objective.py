"""What is minimised and how: Keras losses and optimizers by name, with arguments that are held against their types."""

from __future__ import annotations

import inspect

import keras

from .arguments import check_arguments, keras_words
from .config import Loss, Optimizer, Training
from .errors import SpecError
from .structure import shown

LOSS_CLASSES = {
    "categorical_crossentropy": keras.losses.CategoricalCrossentropy,
    "sparse_categorical_crossentropy": keras.losses.SparseCategoricalCrossentropy,
    "categorical_focal_crossentropy": keras.losses.CategoricalFocalCrossentropy,
    "categorical_hinge": keras.losses.CategoricalHinge,
    "kl_divergence": keras.losses.KLDivergence,
    "mean_squared_error": keras.losses.MeanSquaredError,
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
    "nadam": keras.optimizers.Nadam,
    "rmsprop": keras.optimizers.RMSprop,
    "sgd": keras.optimizers.SGD,
}
_WHOLE_NUMBERS = ("gradient_accumulation_steps", "ema_overwrite_frequency")
_MOST = 1_000_000


def check_training(training: Training) -> None:
    """Build loss and optimizer once, so that a bad argument ends the session before any image is read."""
    build_loss(training.loss)
    build_optimizer(training.optimizer)
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
    return not loss.name.startswith("sparse_")


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
