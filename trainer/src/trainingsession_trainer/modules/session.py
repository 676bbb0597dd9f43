"""A session whose head and training are a user's own Python: from features or images to the published result."""

from __future__ import annotations

import csv
import json
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trainingsession_trainer import artifacts
from trainingsession_trainer.base_models import check_base_model
from trainingsession_trainer.datasets import Split, open_dataset
from trainingsession_trainer.datasets.files import check_stop, free_bytes
from trainingsession_trainer.datasets.order import prefix, validation_mask
from trainingsession_trainer.errors import DataError, SpecError, Stopped
from trainingsession_trainer.evaluation import wilson_interval
from trainingsession_trainer.records import Published, Result, SessionRecord

from . import handover, process, requirements
from .git import fetch_code

if TYPE_CHECKING:
    from pymongo.database import Database

    from trainingsession_trainer.config import Module, Session
    from trainingsession_trainer.features import PreparedFeatures
    from trainingsession_trainer.mongodb import Document
    from trainingsession_trainer.reporting import Reporter

GIT_SECRET = Path("/etc/trainingsession/module-secret")
# TensorFlow's notes on its processor, which no setting silences.
_NOTES = re.compile(r"WARNING: All log messages before absl::InitializeLog|I0000 \S+ +\d+ port\.cc")
_IMAGES_AT_ONCE = 1 << 23
"""Bytes of images that are decoded and written together."""
Labels = npt.NDArray[np.int32]


@dataclass
class Handed:
    """What the module's process was given, as far as the trainer needs it afterwards."""

    class_names: tuple[str, ...]
    test_labels: Labels
    samples: dict[str, int]
    shape: tuple[int, ...]


@dataclass
class Running:
    """A module's run: where it stands, and the epochs that it has told."""

    session: Session
    module: Module
    folder: Path
    reporter: Reporter
    stop: Callable[[], bool]
    hidden: tuple[Path, ...]
    epochs: list[process.Epoch] = field(default_factory=list)

    @property
    def files(self) -> Path:
        """Folder of what is handed over and back."""
        return self.folder / "handover"

    @property
    def workdir(self) -> Path:
        """Folder in which the module may write."""
        return self.folder / "workdir"

    @property
    def code(self) -> Path:
        """Folder of the module's own files."""
        return self.folder / "code"

    @property
    def packages(self) -> Path:
        """Folder of what its lock asks for."""
        return self.folder / "packages"


def fetch(running: Running) -> None:
    """Have the module's code and packages in place, before any image is read; raises SpecError, DataError, Stopped."""
    for folder in (running.files, running.workdir, running.code, running.packages):
        folder.mkdir()
    git = running.module.git
    if git is None:
        running.reporter.info("The module is part of the image")
        return
    credentials = _git_credentials() if git.secret_name is not None else None
    fetch_code(git.url, git.revision, git.path, running.code, credentials, running.reporter, running.stop)
    requirements.install(running.code, running.packages, running.reporter, running.stop)


def _git_credentials() -> tuple[str, str]:
    name, password = GIT_SECRET / "username", GIT_SECRET / "password"
    if not (name.is_file() and password.is_file()):
        raise SpecError("The Secret of spec.module.git.secretName must have the keys username and password; add them.")
    return name.read_text("utf-8").strip(), password.read_text("utf-8").strip()


def hand_features(running: Running, prepared: PreparedFeatures) -> Handed:
    """Write the features for the module; raises DataError when they do not fit on the disk."""
    parts = (prepared.train, prepared.validation, prepared.test)
    samples = dict(zip(handover.PARTS, map(len, parts)))
    _check_room(running, sum(samples.values()) * math.prod(prepared.feature_shape) * 4)
    for name, part in zip(handover.PARTS, parts):
        labels = None if name == "test" else part.labels
        handover.write_part(running.files, name, _watched(part.blocks(), running.stop), len(part), labels)
    return Handed(prepared.class_names, prepared.test.labels, samples, prepared.feature_shape)


def hand_images(running: Running) -> Handed:
    """Read, resize and write the images for the module; raises DataError naming an image, SpecError."""
    spec = running.session.spec
    _, _, size = check_base_model(spec.base_model)
    dataset = open_dataset(spec.dataset, running.folder, running.reporter, running.stop)
    train_labels = dataset.train.labels[: prefix(len(dataset.train), spec.dataset.subset)]
    held = validation_mask(train_labels, spec.dataset.validation_split)
    test = np.arange(prefix(len(dataset.test), spec.dataset.test_subset))
    chosen = {"train": np.flatnonzero(~held), "validation": np.flatnonzero(held), "test": test}
    shape = (*size, 3)
    samples = {name: len(rows) for name, rows in chosen.items()}
    _check_room(running, sum(samples.values()) * math.prod(shape))
    running.reporter.info(f"Reading {sum(samples.values()):,} images at {size[0]}x{size[1]} for the module")
    for name, rows in chosen.items():
        split = dataset.test if name == "test" else dataset.train
        blocks = _images(split, rows.tolist(), shape, running.stop)
        labels = None if name == "test" else split.labels[rows]
        handover.write_part(running.files, name, blocks, len(rows), labels)
        running.reporter.extraction(name, len(rows), len(rows))
    return Handed(dataset.class_names, dataset.test.labels[test], samples, shape)


def train(running: Running, handed: Handed) -> npt.NDArray[np.float32]:
    """Run the module; gives the probabilities of the test images [n, classes]; raises SpecError, Stopped."""
    module, training = running.module, running.session.spec.training
    base = running.session.spec.base_model
    order = handover.Order(
        entry_point=module.entry_point,
        code=str(running.code),
        packages=str(running.packages),
        input=module.input,
        class_names=handed.class_names,
        parameters=module.parameters,
        base_model={"name": base.name, "arguments": base.arguments, "inputSize": base.input_size},
        epochs=training.epochs,
        batch_size=training.batch_size,
        restore_best=training.restore_best,
        seed=training.seed,
        hidden=tuple(str(path) for path in running.hidden),
    )
    handover.write_order(running.files, order)
    running.reporter.info(f"Running {module.entry_point} in a process without credentials")
    began = time.monotonic()

    def epoch(told: process.Epoch) -> None:
        nonlocal began
        now = time.monotonic()
        seconds, began = now - began, now
        running.epochs.append(told)
        running.reporter.epoch(
            told.number, max(training.epochs, told.number), told.figures, seconds, handed.samples["train"]
        )

    _run(running, epoch)
    return _predictions(running, handed)


def publish(
    running: Running,
    handed: Handed,
    predictions: npt.NDArray[np.float32],
    base: Callable[[], Any] | None,
    database: Database[Document],
    record: SessionRecord,
) -> None:
    """Evaluate, write the artifacts, publish; `base` builds the base model's network of raw pixels."""
    accuracy, figures, confusion = measure(predictions, handed.test_labels)
    reporter = running.reporter
    reporter.info(
        f"Accuracy {accuracy:.4f} on {len(predictions):,} test images (95 % interval "
        f"{figures['test_accuracy_low']:.4f} to {figures['test_accuracy_high']:.4f})"
    )
    if running.epochs:
        told = running.epochs[-1].figures
        figures |= {f"module_{name}": value for name, value in told.items()}
    reporter.result({"test_accuracy": accuracy, **figures})
    record.measured(accuracy)
    reporter.phase("Publishing")
    paths = list(_write(running, handed, predictions, confusion, {"accuracy": accuracy, **figures}))
    paths += _complete_model(running, base)
    if running.stop():
        raise Stopped("Stopped before the result was published; the next attempt runs the module again.")
    uploaded = artifacts.upload(database, running.session, paths, running.stop)
    if artifacts.publish(database, record, Result(accuracy, figures, uploaded)) is Published.BY_US:
        reporter.published(paths)
        reporter.info(f"Published the accuracy and {len(uploaded)} artifacts; done")
    else:
        reporter.info("An earlier attempt has published the result already; this one's is dropped")


def measure(
    predictions: npt.NDArray[np.float32], labels: Labels
) -> tuple[float, dict[str, float], npt.NDArray[np.int64]]:
    """Count accuracy, figures and confusion of probabilities [n, classes] against labels [n]."""
    total, classes = predictions.shape
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, predictions.argmax(axis=1)), 1)
    correct = int(np.trace(confusion))
    low, high = wilson_interval(correct, total)
    given = np.clip(predictions[np.arange(total), labels].astype(np.float64), 1e-7, 1.0)
    loss = float(-np.log(given).mean())
    return correct / total, {"test_loss": loss, "test_accuracy_low": low, "test_accuracy_high": high}, confusion


def _run(running: Running, epoch: Callable[[process.Epoch], None], *, join: bool = False) -> None:
    listener = process.Listener(
        epoch=epoch,
        line=lambda line: running.reporter.info(f"module | {line}") if line and not _NOTES.match(line) else None,
        note=running.reporter.info,
    )
    process.run(running.files, running.workdir, running.module.entry_point, listener, running.stop, join=join)


def _predictions(running: Running, handed: Handed) -> npt.NDArray[np.float32]:
    """Read what the module gave; the file may hold anything."""
    file, wanted = running.files / handover.PREDICTIONS, (len(handed.test_labels), len(handed.class_names))
    subject = f"spec.module: {running.module.entry_point}"
    try:
        if file.is_symlink() or file.stat().st_size > math.prod(wanted) * 4 + 4096:
            raise SpecError(f"{subject} left a file of predictions that is none; return the predictions instead.")
        found = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise SpecError(f"{subject} left no predictions that can be read ({error}); return them.") from error
    if not isinstance(found, np.ndarray) or found.dtype != np.float32:
        raise SpecError(f"{subject} left a file of predictions that is none; return the predictions instead.")
    if message := handover.why_no_probabilities(found, *wanted):
        raise SpecError(f"{subject} {message}.")
    return found


def _write(
    running: Running,
    handed: Handed,
    predictions: npt.NDArray[np.float32],
    confusion: npt.NDArray[np.int64],
    figures: dict[str, float],
) -> Iterator[Path]:
    for name in (handover.ARCHITECTURE, handover.WEIGHTS):
        path = running.files / name
        if path.is_file() and not path.is_symlink():
            yield path
    names = running.folder / "class_names.json"
    names.write_text(json.dumps(list(handed.class_names), ensure_ascii=False, indent=1) + "\n", "utf-8")
    yield names
    if running.epochs:
        yield _write_log(running.folder / "training_log.csv", running.epochs)
    metrics = running.folder / "metrics.json"
    document = {
        "accuracy": figures.pop("accuracy"),
        "metrics": figures,
        "class_names": list(handed.class_names),
        "confusion": confusion.tolist(),
    }
    metrics.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    yield metrics
    kept = running.folder / "predictions.npz"
    np.savez_compressed(kept, probabilities=predictions, labels=handed.test_labels)
    yield kept


def _write_log(path: Path, epochs: Sequence[process.Epoch]) -> Path:
    columns = list(dict.fromkeys(name for epoch in epochs for name in epoch.figures))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["epoch", *columns])
        for epoch in epochs:
            writer.writerow([epoch.number, *(repr(epoch.figures[c]) if c in epoch.figures else "" for c in columns)])
    return path


def _complete_model(running: Running, base: Callable[[], Any] | None) -> list[Path]:
    """Have a process like the module's join base model and head: a file that user code wrote is never loaded here."""
    head, model = running.files / handover.HEAD, running.files / handover.MODEL
    if not head.is_file() or head.is_symlink():
        return []
    if base is None:
        head.replace(model)
        return [model]
    base().save(running.files / handover.BASE)
    try:
        _run(running, lambda epoch: None, join=True)
    except SpecError as error:
        running.reporter.info(f"model.keras is left out, because base model and head cannot be joined: {error}")
        return []
    return [model] if model.is_file() and not model.is_symlink() else []


def _images(
    split: Split, rows: Sequence[int], shape: tuple[int, int, int], stop: Callable[[], bool]
) -> Iterator[npt.NDArray[np.uint8]]:
    """Decode images, and resize them as tf.image.resize does it for features; rounded to whole numbers."""
    import tensorflow as tf

    step = max(1, _IMAGES_AT_ONCE // math.prod(shape))
    for start in range(0, len(rows), step):
        check_stop(stop, "images were read")
        some = rows[start : start + step]
        block = np.empty((len(some), *shape), np.uint8)
        for place, row in enumerate(some):
            image = split.image(row)
            if image.shape != shape:
                shrinks = image.shape[0] > shape[0] or image.shape[1] > shape[1]
                with tf.device("/CPU:0"):
                    image = np.rint(tf.image.resize(image, shape[:2], antialias=shrinks).numpy()).astype(np.uint8)
            block[place] = image
        yield block


def _watched(blocks: Iterable[Any], stop: Callable[[], bool]) -> Iterator[Any]:
    for block in blocks:
        check_stop(stop, "features were written for the module")
        yield block


def _check_room(running: Running, size: int) -> None:
    free = free_bytes(running.folder)
    if size > free:
        raise DataError(
            f"The inputs of spec.module need up to {size:,} bytes on the disk, and {free:,} may be written; "
            "lower spec.dataset.subset or spec.baseModel.inputSize, or use a node with a larger disk."
        )
