"""The head of an earlier session, from which a new one starts: read from what that session has published.

Both files were written by a trainer, but whoever can write the database could have changed them since. So a layer out
of the architecture goes through the same checks as one in a spec, and nothing is built by Keras's own loader.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from bson import ObjectId
from gridfs import GridFSBucket
from gridfs.errors import CorruptGridFile, NoFile
from pymongo.database import Database

from .arguments import keras_words
from .errors import SpecError
from .head import Shape, Standardization, shape_text
from .mongodb import Document, patiently
from .records import COLLECTION, SessionRecord
from .spec import Head, Layer
from .structure import clip, shown

if TYPE_CHECKING:
    import keras

BUCKET = "artifacts"
_FIELD = "spec.head.fromSession"
_ARCHITECTURE, _WEIGHTS = "architecture.json", "head.weights.h5"
_MOST_ARCHITECTURE = 16 << 20
_MOST_WEIGHTS = 2 << 30
_MADE_BY_BUILD_HEAD = ("flatten_all", "predictions")
# Of what Keras writes, and a spec cannot say: types and seeds are the trainer's, the rest is Keras's own.
_NOT_IN_A_SPEC = ("dtype", "seed", "synchronized", "build_config", "rms_scaling")


@dataclass(frozen=True)
class HeadSource:
    """A head that was trained before: its layers, what it was made for, and the file with its weights."""

    session: str
    layers: tuple[Layer, ...]
    standardization: Standardization | None
    feature_shape: Shape
    class_count: int
    weights: Path

    def head_for(self, head: Head, feature_shape: Shape, class_count: int) -> Head:
        """Give the spec's head with the layers that were found; raises SpecError where they do not fit."""
        made, wanted = (shape_text((None, *shape)) for shape in (self.feature_shape, feature_shape))
        if made != wanted:
            raise SpecError(
                f"{_FIELD} is {shown(self.session)}, whose head takes features of {made}, and this session's have "
                f"{wanted}; use its baseModel (name, inputSize, layer, pooling), or another session's head."
            )
        if self.class_count != class_count:
            raise SpecError(
                f"{_FIELD} is {shown(self.session)}, whose head tells {self.class_count} classes apart, and this "
                f"session's data set has {class_count}; use the head of a session with as many."
            )
        return replace(head, layers=self.layers)

    def load_into(self, model: keras.Model) -> None:
        """Give a head that was built from these layers its weights; raises SpecError."""
        try:
            with warnings.catch_warnings():
                # Of a part that the file does not hold Keras only warns, and leaves it random.
                warnings.filterwarnings("error", message=".*freshly-initialized", category=UserWarning)
                model.load_weights(self.weights)
        except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, UserWarning) as error:
            raise SpecError(
                f"{_FIELD} is {shown(self.session)}, whose weights do not fit its architecture "
                f"({keras_words(error)}); use another session's head."
            ) from error


def open_source(
    name: str,
    namespace: str,
    database: Database[Document],
    record: SessionRecord,
    folder: Path,
    stop: Callable[[], bool],
) -> HeadSource:
    """Read the head of the session of this name, and remember in the record whose it was: later attempts use the same.

    Raises SpecError, StorageError, Stopped.
    """
    before = record.head_source()
    query: Document = {"_id": before.get("uid")} if before else {"namespace": namespace, "name": name}
    query["result.artifacts.name"] = _WEIGHTS
    find = lambda: database[COLLECTION].find_one(query, sort=[("result.publishedAt", -1)])  # noqa: E731
    found = patiently(find, "find the session whose head is used", stop=stop)
    if found is None:
        raise SpecError(
            f"{_FIELD} is {shown(name)}, and no session of that name has left a head in this namespace; "
            "name one that has Succeeded."
        )
    files = {str(item.get("name")): item for item in found["result"]["artifacts"] if isinstance(item, Mapping)}
    bucket = GridFSBucket(database, BUCKET)
    architecture = _read(bucket, name, files.get(_ARCHITECTURE), _MOST_ARCHITECTURE, stop)
    weights = _read(bucket, name, files.get(_WEIGHTS), _MOST_WEIGHTS, stop)
    digest = hashlib.sha256(architecture + weights).hexdigest()
    if before and before.get("sha256") != digest:
        raise SpecError(f"{_FIELD} is {shown(name)}, whose head is not the one that this session began with.")
    if not before:
        record.starts_from({"name": name, "uid": str(found["_id"]), "sha256": digest})
    path = folder / f"source-{_WEIGHTS}"
    path.write_bytes(weights)
    return _parse(architecture, name, path)


def _read(bucket: GridFSBucket, session: str, artifact: Any, most: int, stop: Callable[[], bool]) -> bytes:
    def attempt() -> bytes | None:
        try:
            with bucket.open_download_stream(ObjectId(str(artifact["id"]))) as stream:
                return stream.read(most + 1) if stream.length <= most else None
        except (NoFile, CorruptGridFile, TypeError, KeyError):
            return None

    data = patiently(attempt, "read the head of the earlier session", stop=stop)
    if data is None or hashlib.sha256(data).hexdigest() != artifact.get("sha256"):
        raise SpecError(
            f"{_FIELD} is {shown(session)}, whose artifacts are missing or damaged; name a session that has them."
        )
    return data


def _parse(architecture: bytes, session: str, weights: Path) -> HeadSource:
    """Read the chain of layers; that the weights fit them shows when they are loaded."""
    standardization, shape, classes, layers = None, None, None, []
    try:
        for item in json.loads(architecture)["config"]["layers"]:
            kind, config = str(item["class_name"]), dict(item["config"])
            if kind == "InputLayer":
                shape = tuple(int(size) for size in config["batch_shape"][1:])
            elif config["name"] == "standardize":
                mean, variance = (np.asarray(config[key], np.float64) for key in ("mean", "variance"))
                standardization = Standardization(mean, np.sqrt(variance))
            elif config["name"] == "predictions":
                classes = int(config["units"])
            elif config["name"] not in _MADE_BY_BUILD_HEAD:
                layers.append(Layer(kind, _as_in_a_spec(config)))
        if not layers or shape is None or classes is None:
            raise ValueError("it is no head of a session")  # noqa: TRY301 - one place words the sentence
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        words = clip(f"{type(error).__name__}: {error}")
        raise SpecError(
            f"{_FIELD} is {shown(session)}, whose architecture.json cannot be read ({words}); use another one."
        ) from error
    return HeadSource(session, tuple(layers), standardization, shape, classes, weights)


def _as_in_a_spec(config: Mapping[str, Any]) -> dict[str, Any]:
    # EinsumDense writes this one too, and takes it under no name that its constructor has.
    no_regularizer = ("activity_regularizer", None)
    return {
        key: _plain(value)
        for key, value in config.items()
        if key not in _NOT_IN_A_SPEC and (key, value) != no_regularizer
    }


def _plain(value: Any) -> Any:
    """Give an object of Keras's as a spec writes it: what it is called, and its arguments."""
    if isinstance(value, Mapping) and str(value.get("module", "")).startswith("keras."):
        return {"class_name": value.get("class_name"), "config": value.get("config") or {}}
    return value
