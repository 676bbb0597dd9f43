"""The second phase of training: the head and the last layers of the base model, on images.

As Keras's guide to transfer learning has it: only after the head has converged, at a small learning rate, and with
BatchNormalization in inference mode, whose statistics would otherwise be lost to small batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import keras

from .base_models import BaseModel
from .epochs import Loop, run_epochs
from .errors import HostMemoryError, SpecError
from .image_examples import BATCHES_IN_MEMORY
from .schedule import class_weights
from .snapshot import Snapshot
from .spec import Training
from .training import History

if TYPE_CHECKING:
    from .checkpoints import Checkpoints
    from .image_examples import ImageExamples
    from .reporting import Reporter

_FIELD = "spec.training.fineTune"
_BUDGET_SHARE = 0.5
# Three snapshots of a float32, the best one and two figures of the optimizer's, and these themselves.
_BYTES_PER_WEIGHT = 4 * 4 * 4


@dataclass(frozen=True)
class TunedModel:
    """A model of images [n, *input_size, 3] -> probabilities, whose head and base are trained in place."""

    model: keras.Model
    history: History


def check_fine_tuning(training: Training, base: BaseModel, budget: int) -> None:
    """Check what only the base model tells, before any image is read; `budget` is in bytes, for all examples.

    Raises SpecError.
    """
    if training.fine_tune is None:
        return
    if base.precision == "float16":
        raise SpecError(
            f"{_FIELD} cannot train in spec.baseModel.precision float16, in which small gradients vanish; "
            "use bfloat16 or float32."
        )
    layers = _last_layers(base.network, training.fine_tune.layers)
    left = int(_BUDGET_SHARE * budget)
    trained = sum(math.prod(weight.shape) for layer in layers for weight in layer.weights)
    left -= _BYTES_PER_WEIGHT * trained
    if left < 0:
        raise HostMemoryError(
            f"{_FIELD}.layers is {training.fine_tune.layers}, which have {trained:,} weights: training them and its "
            f"checkpoints take {_BYTES_PER_WEIGHT * trained >> 20:,} MiB; lower layers or raise spec.resources.memory."
        )
    image = BATCHES_IN_MEMORY * 4 * 3 * math.prod(base.input_size)
    if training.batch_size * image > left:
        raise HostMemoryError(
            f"spec.training.batchSize is {training.batch_size}, and {_FIELD} trains on batches of images of "
            f"{base.input_size[0]} x {base.input_size[1]} pixels, of which {left // image} fit into memory; "
            "lower batchSize or raise spec.resources.memory."
        )


def fine_tune(
    head: keras.Model,
    base: BaseModel,
    training: Training,
    train: ImageExamples,
    validation: ImageExamples,
    fit: Callable[[], History],
    *,
    class_names: Sequence[str],
    checkpoints: Checkpoints,
    reporter: Reporter,
    stop: Callable[[], bool],
) -> TunedModel:
    """Train the head by `fit`, then head and base model; or go on from a checkpoint of that second phase.

    Both are changed in place. The head as `fit` left it is among those of which the best epoch is chosen. Raises as
    run_epochs does.
    """
    settings = training.fine_tune
    if settings is None:
        raise ValueError("nothing says how to fine-tune")
    optimizer = {**training.optimizer.config, "learning_rate": settings.learning_rate}
    ours = replace(
        training,
        optimizer=replace(training.optimizer, config=optimizer),
        learning_rate=None,
        early_stopping=None,
    )
    base.network.trainable = True
    for layer in base.network.layers[: -settings.layers]:
        layer.trainable = False
    pixels = keras.Input((*base.input_size, 3), dtype="float32")
    model = keras.Model(pixels, head(_InferenceMode(base.resized_model())(pixels)), name="tuned")
    counted = training.class_weights
    weights = class_weights(counted, train.labels, class_names) if counted is not None else None
    loop, snapshot = Loop(model, ours, stop, weights, head=head), None
    head_epochs = checkpoints.fine_tuned_after()
    if head_epochs is not None:
        checkpoints.enter_fine_tuning(head_epochs)
        snapshot = checkpoints.load(loop.state(), loop.kept, head_epochs + settings.epochs)
    if snapshot is not None and head_epochs is not None:
        loop.restore(snapshot.state)
        reporter.info(f"Going on after epoch {snapshot.epoch}, in fine-tuning, which an earlier attempt has reached")
    else:
        checkpoints.leave_fine_tuning()
        before = fit()
        # Anew: some optimizers begin with a copy of the weights.
        loop, head_epochs = Loop(model, ours, stop, weights, head=head), len(before.epochs)
        snapshot = _first(before, loop, training)
        checkpoints.enter_fine_tuning(head_epochs)
        checkpoints.offer(snapshot)
        reporter.info(
            f"Fine-tuning the last {settings.layers} layers of {base.name} with the head: "
            f"{sum(math.prod(weight.shape) for weight in model.trainable_weights):,} weights, {settings.epochs} epochs"
        )
    ours = replace(ours, epochs=head_epochs + settings.epochs)
    snapshot = run_epochs(loop, snapshot, ours, train, validation, checkpoints=checkpoints, reporter=reporter)
    base.network.trainable = False
    return TunedModel(model, History.of(snapshot))


class _InferenceMode(keras.layers.Layer):  # type: ignore[misc]
    """A network as it predicts, also while it is trained.

    A functional model hands the mode that it is called in on to every layer, whatever was said when it was built.
    """

    def __init__(self, network: keras.Model) -> None:
        super().__init__(dtype="float32")
        self.network = network

    def call(self, pixels: Any) -> Any:
        return self.network(pixels, training=False)


def _first(before: History, loop: Loop, training: Training) -> Snapshot:
    """Give the snapshot that this phase starts from: the head as it was kept, with the base model as it came."""
    state = loop.state()
    if training.restore_best and "val_loss" in before.kept_epoch.figures:
        return Snapshot(before.epochs, state, before.kept, state[: loop.kept])
    return Snapshot(before.epochs, state)


def _last_layers(network: keras.Model, count: int) -> list[keras.Layer]:
    path = f"{_FIELD}.layers"
    if count > len(network.layers):
        raise SpecError(f"{path} is {count}; the base model has {len(network.layers)} layers.")
    layers: list[keras.Layer] = network.layers[-count:]
    if not any(layer.weights for layer in layers):
        needed = next(place for place, layer in enumerate(reversed(network.layers), 1) if layer.weights)
        raise SpecError(f"{path} is {count}; the last {count} layers have no weights: use at least {needed}.")
    return layers
