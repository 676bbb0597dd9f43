"""Training of the head: the compiled model, the reproducible recipe, the epochs and what is kept of them.

The recipe makes every epoch a function of (seed, epoch, weights at its start): the order of images comes from
default_rng([seed, epoch]), and every random layer is set anew from SeedSequence([seed, epoch, layer]). An epoch can
therefore be repeated bit for bit on the same processor with the same number of threads.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import numpy.typing as npt

from .arguments import check_arguments, keras_words
from .config import Loss, Optimizer, Training
from .errors import SpecError, Stopped
from .reporting import Reporter
from .structure import shown

if TYPE_CHECKING:
    from .batches import LabelledFeatures

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
# Fewer returns to Python; more gains nothing and makes a stop or a divergence noticed later.
STEPS_PER_EXECUTION = 8
EVALUATION_BATCH = 256
_WHOLE_NUMBERS = ("gradient_accumulation_steps", "ema_overwrite_frequency")
_MOST = 1_000_000


@dataclass(frozen=True)
class Epoch:
    """Figures of one epoch, counted from 1: loss, accuracy and, with validation images, val_loss and val_accuracy."""

    number: int
    seconds: float
    figures: Mapping[str, float]


@dataclass(frozen=True)
class History:
    """All epochs, and the number of the one whose weights the head has now."""

    epochs: tuple[Epoch, ...]
    kept: int

    @property
    def kept_epoch(self) -> Epoch:
        """The epoch whose weights were kept."""
        return self.epochs[self.kept - 1]


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


def fit_head(
    head: keras.Model,
    training: Training,
    train: LabelledFeatures,
    validation: LabelledFeatures,
    *,
    reporter: Reporter,
    stop: Callable[[], bool],
) -> History:
    """Train `head` in place and leave it with the weights that are kept; raises Stopped, SpecError on divergence."""
    one_hot = training.loss.name != "sparse_categorical_crossentropy"
    classes = int(head.output_shape[-1])
    metric = keras.metrics.CategoricalAccuracy if one_hot else keras.metrics.SparseCategoricalAccuracy
    head.compile(
        optimizer=build_optimizer(training.optimizer),
        loss=build_loss(training.loss),
        metrics=[metric(name="accuracy")],
        steps_per_execution=STEPS_PER_EXECUTION,
        jit_compile=False,
    )
    batches = Batches(train, training.batch_size, classes if one_hot else None)
    held_back = Batches(validation, max(training.batch_size, EVALUATION_BATCH), classes if one_hot else None)
    watch = _Watch(training, batches, reporter, stop)
    callbacks: list[keras.callbacks.Callback] = [watch]
    best = keras.callbacks.EarlyStopping(
        monitor="val_loss", mode="min", patience=training.epochs, restore_best_weights=True
    )
    keep_best = training.restore_best and len(validation.labels) > 0
    if keep_best:
        callbacks.append(best)
    head.fit(
        batches,
        epochs=training.epochs,
        validation_data=held_back if len(validation.labels) else None,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )
    watch.raise_for_end()
    return History(tuple(watch.epochs), int(best.best_epoch) + 1 if keep_best else training.epochs)


class Batches(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches of features in the order of the present epoch, without a copy of the whole.

    Features stay in their stored type (float16 halves the memory); the model casts a batch to float32.
    """

    def __init__(self, data: LabelledFeatures, batch_size: int, one_hot: int | None) -> None:
        super().__init__()
        self._data = data
        self._batch_size = batch_size
        self._one_hot = one_hot
        self._order: npt.NDArray[np.int64] = np.arange(len(data.labels))

    def __len__(self) -> int:
        return math.ceil(len(self._order) / self._batch_size)

    def __getitem__(self, index: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        rows = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        labels = self._data.labels[rows]
        if self._one_hot is None:
            return self._data.features[rows], labels
        encoded = np.zeros((len(rows), self._one_hot), np.float32)
        encoded[np.arange(len(rows)), labels] = 1.0
        return self._data.features[rows], encoded

    @property
    def images(self) -> int:
        """Images of an epoch."""
        return len(self._order)

    def permute(self, seed: int, epoch: int) -> None:
        """Take the order of an epoch, counted from 0."""
        self._order = np.random.default_rng([seed, epoch]).permutation(len(self._data.labels))


class _Watch(keras.callbacks.Callback):  # type: ignore[misc]
    """Sets the recipe before each epoch, reports after it, and ends training on a stop or on divergence."""

    def __init__(self, training: Training, batches: Batches, reporter: Reporter, stop: Callable[[], bool]) -> None:
        super().__init__()
        self.epochs: list[Epoch] = []
        self._training = training
        self._batches = batches
        self._reporter = reporter
        self._stop = stop
        self._started = 0.0
        self._end: Exception | None = None

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        del logs
        self._batches.permute(self._training.seed, epoch)
        set_random_layers(self.model, self._training.seed, epoch)
        self._started = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        del batch
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            self._finish(self._diverged(loss))
        elif self._stop():
            self._finish(Stopped(f"Stopped in epoch {len(self.epochs) + 1} of {self._training.epochs}; {RESTARTS}."))

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        if self._end is not None:
            return
        figures = {key: float(value) for key, value in (logs or {}).items()}
        if not all(math.isfinite(value) for value in figures.values()):
            self._finish(self._diverged(next(value for value in figures.values() if not math.isfinite(value))))
            return
        figures = {key: figures[key] for key in ("loss", "accuracy", "val_loss", "val_accuracy") if key in figures}
        seconds = time.monotonic() - self._started
        self.epochs.append(Epoch(epoch + 1, seconds, figures))
        self._reporter.epoch(epoch + 1, self._training.epochs, figures, seconds, self._batches.images)

    def raise_for_end(self) -> None:
        """Raise what ended the training early, if anything did."""
        if self._end is not None:
            raise self._end

    def _finish(self, end: Exception) -> None:
        self._end = end
        self.model.stop_training = True

    def _diverged(self, loss: float) -> SpecError:
        rate = float(self.model.optimizer.learning_rate)
        return SpecError(
            f"Training diverged: the loss became {loss} in epoch {len(self.epochs) + 1}; lower "
            f"spec.training.optimizer.config.learning_rate (now {rate:g}) or set clipnorm."
        )


RESTARTS = "the next attempt finds the features and trains from the start"


def set_random_layers(model: keras.Model, seed: int, epoch: int) -> None:
    """Set the state of every random layer from (seed, epoch, position of the layer)."""
    for position, layer in enumerate(model.layers):
        for value in vars(layer).values():
            if isinstance(value, keras.random.SeedGenerator):
                value.state.assign(np.random.SeedSequence([seed, epoch, position]).generate_state(2))


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
