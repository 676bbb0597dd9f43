"""Epochs: what a step of training is, what is looked at, and what of it is kept in checkpoints.

The recipe makes every epoch a function of (seed, epoch, state at its start): the order of images comes from
default_rng([seed, epoch]), and every random layer is set anew from SeedSequence([seed, epoch, layer]). An epoch can
therefore be repeated bit for bit on the same processor with the same number of threads, also by another attempt that
starts from a snapshot of the state.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from .errors import DivergedError, GpuMemoryError, HostMemoryError, SpecError, Stopped
from .objective import build_loss, build_metrics, build_optimizer, wants_one_hot
from .records import Replaced
from .schedule import ends_early, rate_factor
from .snapshot import Epoch, Snapshot

if TYPE_CHECKING:
    from .batches import Examples
    from .checkpoints import Checkpoints
    from .reporting import Reporter
    from .spec import Training

# Looking at the loss waits for the accelerator, which would otherwise have its next steps queued already.
STEPS_PER_LOOK = 8
_EVALUATION_BATCH = 256


def evaluation_batch(batch_size: int) -> int:
    """Images that are predicted at once: more than are trained on, but less when those are made less."""
    return max(batch_size, min(_EVALUATION_BATCH, 8 * batch_size))


def run_epochs(
    loop: Loop,
    snapshot: Snapshot,
    training: Training,
    train: Examples,
    validation: Examples,
    *,
    checkpoints: Checkpoints,
    reporter: Reporter,
) -> Snapshot:
    """Train on from a snapshot up to epoch `training.epochs` or early stopping, and leave the weights that are kept.

    Raises Stopped after the last whole epoch is in a checkpoint, and SpecError on divergence and when a batch does not
    fit into memory.
    """
    try:
        while snapshot.epoch < training.epochs and not ends_early(training.early_stopping, snapshot.epochs):
            epoch = loop.run_epoch(snapshot.epoch, train, validation)
            snapshot = _after(snapshot, epoch, loop.state(), loop.kept, keep_best=training.restore_best)
            rate = epoch.learning_rate if training.learning_rate is not None else None
            reporter.epoch(epoch.number, training.epochs, epoch.figures, epoch.seconds, len(train), learning_rate=rate)
            checkpoints.offer(snapshot)
        if training.early_stopping is not None and snapshot.epoch < training.epochs:
            reporter.info(
                f"Training ends after epoch {snapshot.epoch} of {training.epochs}: the validation "
                f"{training.early_stopping.monitor} has not improved for {training.early_stopping.patience} epochs"
            )
    except Replaced:
        raise
    except Stopped as error:
        where = f"Stopped in epoch {snapshot.epoch + 1} of {training.epochs}"
        raise Stopped(f"{where}; {checkpoints.save_latest()}.") from error
    except SpecError:
        checkpoints.remove()
        raise
    except tf.errors.ResourceExhaustedError as error:
        checkpoints.remove()
        raise out_of_memory(training.batch_size, on_gpu=bool(tf.config.list_logical_devices("GPU"))) from error
    loop.finish(snapshot.best)
    return snapshot


class Loop:
    """A compiled model with its state.

    Keras gives what a step is: losses with their regularizers, metrics, and the optimizer with clipping, averaging and
    accumulation. Its `fit` is not used: fed by a Python generator it takes longer, and it cannot be resumed.
    """

    def __init__(
        self,
        model: keras.Model,
        training: Training,
        stop: Callable[[], bool],
        weights: npt.NDArray[np.float32] | None = None,
        *,
        head: keras.Model | None = None,
    ) -> None:
        """Compile `model`; `weights` are those of the classes.

        `head` is the part of it with the random layers, where that is not the whole: then only the head's weights and
        those that are trained are in its state.
        """
        one_hot = wants_one_hot(training.loss)
        classes = int(model.output_shape[-1])
        metric = keras.metrics.CategoricalAccuracy if one_hot else keras.metrics.SparseCategoricalAccuracy
        model.compile(
            optimizer=build_optimizer(training.optimizer),
            loss=build_loss(training.loss),
            metrics=[metric(name="accuracy"), *build_metrics(training, classes)],
            jit_compile=False,
        )
        model.optimizer.build(model.trainable_variables)

        def truth(labels: tf.Tensor) -> tf.Tensor:
            return tf.one_hot(labels, classes) if one_hot else labels

        def train_step(features: tf.Tensor, labels: tf.Tensor) -> Mapping[str, Any]:
            counted = () if weights is None else (tf.gather(tf.constant(weights), labels),)
            return model.train_step((features, truth(labels), *counted))  # type: ignore[no-any-return]

        self._model = model
        self._random = head or model
        fine_tunes = head is not None
        self._rate_field = "fineTune.learningRate" if fine_tunes else "optimizer.config.learning_rate"
        self._training = training
        self._stop = stop
        self._base_rate = float(model.optimizer.learning_rate)
        self._train_step = tf.function(train_step, reduce_retracing=True)
        self._test_step = tf.function(lambda x, y: model.test_step((x, truth(y))), reduce_retracing=True)
        whole = model.weights if head is None else [*head.weights, *_others(model.trainable_weights, head.weights)]
        self.kept = len(whole)
        """Variables at the beginning of the state that are the model's and not the optimizer's."""
        self._variables = [*whole, *model.optimizer.variables]

    def state(self) -> tuple[npt.NDArray[Any], ...]:
        """Copy the weights and the optimizer's variables."""
        return tuple(np.asarray(variable.value.numpy()) for variable in self._variables)

    def restore(self, state: Sequence[npt.NDArray[Any]]) -> None:
        """Take over a state."""
        for variable, value in zip(self._variables, state, strict=True):
            variable.assign(value)

    def finish(self, best: Sequence[npt.NDArray[Any]]) -> None:
        """Leave the model with the weights `best`, or where there are none, with those that the optimizer ends with."""
        self._model.optimizer.finalize_variable_values(self._model.trainable_weights)
        for variable, value in zip(self._variables, best):
            variable.assign(value)

    def run_epoch(self, index: int, train: Examples, validation: Examples) -> Epoch:
        """Train on every image once and validate; epochs count from 0 here. Raises Stopped, DivergedError."""
        training, started = self._training, time.monotonic()
        set_random_layers(self._random, training.seed, index)
        batches = train.batches(training.batch_size, (training.seed, index))
        figures = self._pass(index, self._train_step, self._at_its_rate(index, batches, len(train)))
        # A float32's own digits, not those that a longer number adds.
        rate = float(f"{float(self._model.optimizer.learning_rate):.6g}")
        if len(validation):
            found = self._pass(index, self._test_step, validation.batches(evaluation_batch(training.batch_size), None))
            figures |= {f"val_{name}": value for name, value in found.items()}
        return Epoch(index + 1, time.monotonic() - started, figures, rate)

    def _at_its_rate(self, index: int, batches: Iterable[tuple[Any, Any]], images: int) -> Iterator[tuple[Any, Any]]:
        """Set the learning rate before each batch is handed on, where it has a schedule."""
        rate, steps = self._training.learning_rate, -(-images // self._training.batch_size)
        for step, batch in enumerate(batches):
            if rate is not None:
                factor = rate_factor(rate, self._training.epochs, index, step, steps)
                self._model.optimizer.learning_rate = self._base_rate * factor
            yield batch

    def _pass(
        self, index: int, step: Callable[[Any, Any], Mapping[str, Any]], batches: Iterable[tuple[Any, Any]]
    ) -> dict[str, float]:
        self._model.reset_metrics()
        logs: Mapping[str, Any] = {}
        for number, (features, labels) in enumerate(batches):
            logs = step(features, labels)
            if number % STEPS_PER_LOOK == 0:
                self._check(index, float(logs["loss"]))
            if self._stop():
                raise Stopped("Stopped within an epoch.")
        figures = {name: float(logs[name]) for name in ("loss", "accuracy", *self._training.metrics)}
        self._check(index, figures["loss"])
        return figures

    def _check(self, index: int, loss: float) -> None:
        """Hold on to nothing that is not a number: the running mean of the loss keeps one bad batch in sight."""
        if not math.isfinite(loss):
            rate = float(self._model.optimizer.learning_rate)
            raise DivergedError(
                f"Training diverged: the loss became {loss} in epoch {index + 1}; lower "
                f"spec.training.{self._rate_field} (now {rate:g}) or set clipnorm."
            )


def out_of_memory(batch_size: int, *, on_gpu: bool) -> SpecError:
    """Make the error for a batch that does not fit."""
    kind, where = (GpuMemoryError, "the GPU's memory") if on_gpu else (HostMemoryError, "memory")
    return kind(
        f"spec.training.batchSize is {batch_size}, for which {where} is too small; lower it or make the head smaller."
    )


def _others(some: Sequence[Any], known: Sequence[Any]) -> list[Any]:
    return [variable for variable in some if not any(variable is other for other in known)]


def set_random_layers(model: keras.Model, seed: int, epoch: int) -> None:
    """Set the state of every random layer from (seed, epoch, position of the layer)."""
    for position, layer in enumerate(model.layers):
        for value in vars(layer).values():
            if isinstance(value, keras.random.SeedGenerator):
                value.state.assign(np.random.SeedSequence([seed, epoch, position]).generate_state(2))


def _after(
    snapshot: Snapshot, epoch: Epoch, state: tuple[npt.NDArray[Any], ...], weights: int, *, keep_best: bool
) -> Snapshot:
    """Give the snapshot after one more epoch; where the loss is as low as before, the earlier epoch stays the best."""
    epochs = (*snapshot.epochs, epoch)
    if not keep_best or "val_loss" not in epoch.figures:
        return Snapshot(epochs, state)
    best = snapshot.best_epoch
    if best is None or epoch.figures["val_loss"] < snapshot.epochs[best - 1].figures["val_loss"]:
        return Snapshot(epochs, state, epoch.number, state[:weights])
    return Snapshot(epochs, state, best, snapshot.best)
