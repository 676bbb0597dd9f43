"""The files that a session leaves behind: written to the work folder, then streamed to GridFS with their digests."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from bson import ObjectId
from gridfs import GridFSBucket
from pymongo.database import Database
from pymongo.errors import PyMongoError

from .evaluation import Evaluation, metrics_of
from .exports import MODEL_FILES, ExportError
from .mongodb import Document, patiently
from .records import Artifact, Published, Replaced, Result, SessionRecord
from .spec import Session
from .training import History

if TYPE_CHECKING:
    from .base_models import BaseModel

BUCKET = "artifacts"
_PIECE_BYTES = 1 << 20
_WHOLE_CONFUSION = 300
"""Classes up to which the confusion matrix is written whole; it grows with their square, what is not 0 with images."""


def write_artifacts(
    folder: Path,
    *,
    head: keras.Model,
    base: Callable[[], BaseModel],
    class_names: Sequence[str],
    history: History,
    evaluation: Evaluation,
    exports: Collection[str],
    say: Callable[[str], None],
    repeats: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write what every session leaves and the `exports` asked for into `folder`; gives paths in the order listed.

    `base` is called only where one of them needs the base model, which takes seconds to build. A form that the model
    does not have is told to `say` and left out: the result does not depend on it.
    """
    plain = uncompiled(head)
    architecture = folder / "architecture.json"
    architecture.write_text(json.dumps(json.loads(plain.to_json()), indent=1) + "\n", "utf-8")
    weights = folder / "head.weights.h5"
    plain.save_weights(weights)
    names = folder / "class_names.json"
    names.write_text(json.dumps(list(class_names), ensure_ascii=False, indent=1) + "\n", "utf-8")
    models = write_models(folder, lambda: complete_model(base().pixels_model(), plain), class_names, exports, say)
    log = folder / "training_log.csv"
    _write_log(log, history)
    metrics = folder / "metrics.json"
    metrics.write_text(metrics_text(class_names, evaluation, metrics_of(evaluation, history), repeats), "utf-8")
    return [architecture, weights, names, *models, log, metrics]


def write_models(
    folder: Path,
    build: Callable[[], keras.Model],
    class_names: Sequence[str],
    exports: Collection[str],
    say: Callable[[str], None],
) -> list[Path]:
    """Write the complete model in the forms asked for; `build` makes it with a layer that resizes, see `exports`."""
    wanted = [name for name in MODEL_FILES if name in exports]
    if not wanted:
        return []
    model = build()
    written = []
    for name in wanted:
        path = folder / MODEL_FILES[name]
        if name == "keras":
            model.save(path)
        elif name == "savedModel":
            from .exports.saved_model import write_saved_model

            write_saved_model(model, class_names, path)
        else:
            from .exports.onnx_model import write_onnx

            try:
                worst = write_onnx(model, class_names, path)
            except ExportError as error:
                say(f"No {path.name} is made. {error}")
                continue
            say(f"{path.name} gives Keras's probabilities within {worst:.1g}")
        written.append(path)
    return written


def uncompiled(head: keras.Model) -> keras.Model:
    """Copy the head without its optimizer, whose state would make the files three times as large."""
    plain = keras.Model.from_config(head.get_config())
    plain.set_weights(head.get_weights())
    return plain


def complete_model(pixels: keras.Model, head: keras.Model) -> keras.Model:
    """Join the base model and the head: raw pixels [n, h, w, 3], 0 to 255, -> probabilities [n, classes]."""
    return keras.Model(pixels.inputs, head(pixels.outputs[0]), name="model")


def upload(
    database: Database[Document],
    session: Session,
    paths: Iterable[Path],
    stop: Callable[[], bool] = lambda: False,
) -> tuple[Artifact, ...]:
    """Stream files to GridFS; raises StorageError, and then leaves none of them behind if MongoDB can be reached."""
    done: list[Artifact] = []
    try:
        for path in paths:
            done.append(_upload_one(database, session, path, stop))  # noqa: PERF401 - what is done must be known on failure
    except BaseException:
        remove(database, [artifact.id for artifact in done])
        raise
    return tuple(done)


def publish(database: Database[Document], record: SessionRecord, result: Result) -> Published:
    """Publish the result; artifacts that are certain not to be named by the record are removed."""
    ids = [artifact.id for artifact in result.artifacts]
    try:
        published = record.publish(result)
    except Replaced:
        remove(database, ids)
        raise
    # Any other error leaves open whether the record names the files, so they stay.
    if published is Published.BEFORE:
        remove(database, ids)
    return published


def remove(database: Database[Document], ids: Iterable[str]) -> None:
    """Delete files that no record names, as far as MongoDB can be reached; what stays is an orphan for the sweeper."""
    bucket = GridFSBucket(database, BUCKET)
    for file_id in ids:
        with contextlib.suppress(PyMongoError):
            bucket.delete(ObjectId(file_id))


def _upload_one(database: Database[Document], session: Session, path: Path, stop: Callable[[], bool]) -> Artifact:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    metadata = {"session": session.uid, "namespace": session.namespace, "name": path.name, "sha256": digest}
    filename = f"{session.name}/{path.name}"

    def attempt() -> ObjectId:
        stream = GridFSBucket(database, BUCKET).open_upload_stream(filename, metadata=metadata)
        try:
            with path.open("rb") as file:
                while piece := file.read(_PIECE_BYTES):
                    stream.write(piece)
            stream.close()
        except BaseException:
            with contextlib.suppress(PyMongoError):
                stream.abort()
            raise
        return ObjectId(stream._id)

    file_id = patiently(attempt, f"store {path.name}", stop=stop)
    return Artifact(path.name, str(file_id), path.stat().st_size, digest)


def _write_log(path: Path, history: History) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        columns = list(history.epochs[0].figures)
        writer.writerow(["epoch", "seconds", *columns, "learning_rate"])
        for epoch in history.epochs:
            figures = [repr(epoch.figures[name]) for name in columns]
            rate = "" if epoch.learning_rate is None else repr(epoch.learning_rate)
            writer.writerow([epoch.number, f"{epoch.seconds:.3f}", *figures, rate])


def metrics_text(
    class_names: Sequence[str],
    evaluation: Evaluation,
    figures: Mapping[str, float],
    repeats: Mapping[str, Any] | None = None,
) -> str:
    """Give the content of metrics.json; `figures` are the further ones by name."""
    document: dict[str, Any] = {
        "accuracy": evaluation.accuracy,
        "metrics": dict(figures),
        "class_names": list(class_names),
        "classes": [
            {"name": name, **asdict(figures)} for name, figures in zip(class_names, evaluation.classes, strict=True)
        ],
    }
    confusion, whole = evaluation.confusion, len(class_names) <= _WHOLE_CONFUSION
    if whole:
        document["confusion"] = confusion.tolist()
    else:
        rows, columns = np.nonzero(confusion)
        document["confusion_cells"] = np.stack([rows, columns, confusion[rows, columns]], axis=1).tolist()
    if repeats:
        document["repeats"] = dict(repeats)
    return json.dumps(document, indent=1 if whole else None) + "\n"
