"""Training of a compiled Keras model that a module returned, in the module's own process."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from trainingsession_trainer.module_api import Part, Task

from . import handover
from .handover import ModuleError

_VALUES = 1 << 22
"""Predicted at once."""


class Batches(keras.utils.PyDataset):  # type: ignore[misc]
    """A part in batches, shuffled anew for every epoch by (seed, epoch); only one batch is in memory."""

    def __init__(self, part: Part, task: Task, classes: int | None, *, shuffled: bool) -> None:
        super().__init__()
        self._part, self._task, self._classes, self._shuffled = part, task, classes, shuffled
        self._epoch = 0
        self._rows = self._order()

    def __len__(self) -> int:
        return math.ceil(len(self._part) / self._task.batch_size)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        size = self._task.batch_size
        rows = self._rows[index * size : (index + 1) * size]
        labels = self._part.labels
        assert labels is not None  # noqa: S101 - only train and validation are given
        truth = labels[rows] if self._classes is None else np.eye(self._classes, dtype=np.float32)[labels[rows]]
        return self._part.inputs[rows].astype(np.float32), truth

    def on_epoch_end(self) -> None:
        """Take the next epoch's order."""
        self._epoch += 1
        self._rows = self._order()

    def _order(self) -> Any:
        if not self._shuffled:
            return np.arange(len(self._part))
        return np.random.default_rng([self._task.seed, self._epoch]).permutation(len(self._part))


class Watch(keras.callbacks.Callback):  # type: ignore[misc]
    """Tells each epoch's figures, ends a training that diverges, and remembers the best weights."""

    def __init__(self, tell: Callable[[Mapping[str, Any]], None], *, keep_best: bool) -> None:
        super().__init__()
        self._tell, self._keep_best = tell, keep_best
        self._lowest = math.inf
        self._best: list[Any] | None = None

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Tell the epoch."""
        figures = {name: float(value) for name, value in (logs or {}).items()}
        if not math.isfinite(figures.get("loss", 0.0)):
            raise ModuleError("diverged", f"the loss became {figures['loss']} in epoch {epoch + 1}")
        self._tell({"epoch": epoch + 1, "figures": figures})
        if self._keep_best and figures.get("val_loss", math.inf) < self._lowest:
            self._lowest, self._best = figures["val_loss"], self.model.get_weights()

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        """Go back to the best epoch."""
        if self._best is not None:
            self.model.set_weights(self._best)


def fit(model: keras.Model, task: Task, order: handover.Order, tell: Callable[[Mapping[str, Any]], None]) -> None:
    """Train for the spec's epochs with its batch size; labels are one-hot unless the loss is a sparse one."""
    if not model.compiled:
        raise ModuleError("result", "returned a Keras model that is not compiled; call its compile(optimizer, loss)")
    classes = None if "sparse" in _loss_name(model.loss) else len(task.class_names)
    first = np.asarray(task.train.inputs[:1], np.float32)
    shape = tuple(np.asarray(model(first, training=False)).shape)
    if shape != (1, len(task.class_names)):
        raise ModuleError(
            "result",
            f"returned a model that gives {'x'.join(map(str, shape[1:]))} values for an image; "
            f"it must give {len(task.class_names)}, a probability for each class",
        )
    validation = Batches(task.validation, task, classes, shuffled=False) if len(task.validation) else None
    model.fit(
        Batches(task.train, task, classes, shuffled=True),
        epochs=task.epochs,
        validation_data=validation,
        shuffle=False,
        verbose=0,
        callbacks=[Watch(tell, keep_best=order.restore_best)],
    )


def predict(model: keras.Model, part: Part, classes: int, file: Path) -> Any:
    """Write the probabilities of a part's images; gives them, mapped from the file."""
    out = np.lib.format.open_memmap(file, "w+", dtype=np.float32, shape=(len(part), classes))
    done = 0
    at_once = min(256, max(1, _VALUES // math.prod(part.inputs.shape[1:])))
    for inputs, _ in part.batches(at_once):
        out[done : done + len(inputs)] = model.predict_on_batch(inputs)
        done += len(inputs)
    out.flush()
    return out


def save(model: keras.Model, folder: Path) -> str:
    """Save what of the model can be saved; gives a line about what cannot."""
    # An optimizer without state: the trained one's would make the files three times as large.
    model.compile(optimizer="sgd")
    model.save_weights(folder / handover.WEIGHTS)
    try:
        (folder / handover.ARCHITECTURE).write_text(model.to_json(), "utf-8")
        model.save(folder / handover.HEAD)
    except Exception as error:  # noqa: BLE001 - a user's layers can fail in every way
        (folder / handover.HEAD).unlink(missing_ok=True)
        (folder / handover.ARCHITECTURE).unlink(missing_ok=True)
        return f"The model itself cannot be saved ({type(error).__name__}: {error}); its weights are"
    return ""


def _loss_name(loss: Any) -> str:
    return str(loss if isinstance(loss, str) else getattr(loss, "name", None) or getattr(loss, "__name__", ""))
