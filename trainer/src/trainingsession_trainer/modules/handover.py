"""The files through which the trainer hands a task to the module's process, and gets its answer.

task.json            the whole task        predictions.npy   float32 [test images, classes]
<part>.inputs.npy    features or images    validation.predictions.npy   of the validation images, where given
<part>.labels.npy    not of the test       head.keras, architecture.json, head.weights.h5   of a Keras model
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainingsession_trainer.module_api import Part, Task

PARTS = ("train", "validation", "test")
TASK = "task.json"
PREDICTIONS = {"test": "predictions.npy", "validation": "validation.predictions.npy"}
HEAD, ARCHITECTURE, WEIGHTS = "head.keras", "architecture.json", "head.weights.h5"
BASE, MODEL = "base.keras", "model.keras"
Array = npt.NDArray[Any]


class ModuleError(Exception):
    """The module did not keep to its contract; `stage` says where."""

    def __init__(self, stage: str, message: str) -> None:
        super().__init__(message)
        self.stage = stage


@dataclass(frozen=True)
class Order:
    """What the module's process is told, besides the arrays; all paths are absolute."""

    entry_point: str
    code: str
    packages: str
    input: str
    class_names: tuple[str, ...]
    parameters: Mapping[str, Any]
    base_model: Mapping[str, Any]
    epochs: int
    batch_size: int
    restore_best: bool
    seed: int
    hidden: tuple[str, ...]


def write_part(folder: Path, name: str, blocks: Iterator[Array], count: int, labels: Array | None) -> None:
    """Write the inputs [count, ...] block by block, so that memory does not grow with them; raises OSError."""
    written = 0
    out: Any = None
    for block in blocks:
        if out is None:
            out = np.lib.format.open_memmap(
                folder / f"{name}.inputs.npy", "w+", dtype=block.dtype, shape=(count, *block.shape[1:])
            )
        out[written : written + len(block)] = block
        written += len(block)
    if out is not None:
        out.flush()
    if labels is not None:
        np.save(folder / f"{name}.labels.npy", labels.astype(np.int32), allow_pickle=False)


def read_part(folder: Path, name: str, shape: tuple[int, ...]) -> Part:
    """Map a part as it was written; one without images has `shape`."""
    file = folder / f"{name}.inputs.npy"
    inputs = np.load(file, mmap_mode="r", allow_pickle=False) if file.is_file() else np.empty((0, *shape), np.float32)
    labels = folder / f"{name}.labels.npy"
    return Part(inputs, np.load(labels, allow_pickle=False) if labels.is_file() else None)


def write_order(folder: Path, order: Order) -> None:
    """Write all but the arrays."""
    (folder / TASK).write_text(json.dumps(asdict(order)), "utf-8")


def read_order(folder: Path) -> Order:
    """Read what write_order wrote."""
    found = json.loads((folder / TASK).read_text("utf-8"))
    return Order(**{**found, "class_names": tuple(found["class_names"]), "hidden": tuple(found["hidden"])})


def read_task(folder: Path, order: Order, workdir: Path, tell: Callable[[Mapping[str, Any]], None]) -> Task:
    """Make what the module's function is called with."""
    train = read_part(folder, "train", ())
    rest = {name: read_part(folder, name, train.inputs.shape[1:]) for name in PARTS[1:]}
    return Task(
        train=train,
        validation=rest["validation"],
        test=rest["test"],
        class_names=order.class_names,
        parameters=order.parameters,
        epochs=order.epochs,
        batch_size=order.batch_size,
        seed=order.seed,
        base_model=order.base_model,
        workdir=workdir,
        _tell=tell,
    )


def why_no_probabilities(predictions: Array, images: int, classes: int, part: str = "test") -> str:
    """Say why an array is not the probabilities of a part's images; empty where it is."""
    if predictions.ndim != 2 or predictions.shape != (images, classes):
        shape = "x".join(str(size) for size in predictions.shape)
        return f"gave predictions of shape {shape}; they must be {images}x{classes}: a row for each {part} image"
    for start in range(0, images, 4096):
        rows = predictions[start : start + 4096].astype(np.float64)
        if not np.isfinite(rows).all():
            return "gave predictions that are not finite"
        if rows.min(initial=0) < -1e-6:
            return f"gave predictions below 0 ({rows.min():.4g}); they must be probabilities, as softmax makes them"
        sums = rows.sum(axis=1)
        worst = int(np.argmax(np.abs(sums - 1)))
        if abs(sums[worst] - 1) > 1e-3:
            return (
                f"gave predictions whose rows do not sum to 1 (row {start + worst} sums to {sums[worst]:.4g}); "
                "they must be probabilities, as softmax makes them"
            )
    return ""
