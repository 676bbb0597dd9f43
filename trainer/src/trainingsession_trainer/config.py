"""From a session's document to its spec, validated once.

Everything is checked again here, because a session can be started without an API server in front of it. What needs
Keras to be decided (arguments of layers, losses, optimizers, base models) is checked where it is used.
"""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from .errors import SpecError
from .recipe import recipe_digest
from .spec import API_VERSION, KIND, BaseModel, Dataset, Identity, Session, Spec
from .structure import build, clip, shown, snake


def parse_identity(document: object) -> Identity:
    """Read whose spec it is; known before the spec is judged, so that its error has a record to go to."""
    if not isinstance(document, Mapping):
        raise SpecError(
            f"The session is {shown(document)}; it must be an object with apiVersion, kind, metadata and spec."
        )
    for key, wanted in (("apiVersion", API_VERSION), ("kind", KIND)):
        if document.get(key) != wanted:
            raise SpecError(f"{key} is {shown(document.get(key))}; it must be {wanted}.")
    metadata = document.get("metadata")
    if not isinstance(metadata, Mapping):
        raise SpecError(f"metadata is {shown(metadata)}; it must be an object with namespace, name and uid.")
    for key in ("namespace", "name", "uid"):
        if not isinstance(metadata.get(key), str) or not metadata[key]:
            raise SpecError(f"metadata.{key} is {shown(metadata.get(key))}; it must be a non-empty string.")
    return Identity(metadata["namespace"], metadata["name"], metadata["uid"])


def parse_session(document: object) -> Session:
    """Validate a whole object (apiVersion, kind, metadata, spec); raises SpecError."""
    identity = parse_identity(document)
    raw = typing.cast("Mapping[str, Any]", document).get("spec")
    spec = parse_spec(raw)
    recipe = recipe_digest(typing.cast("Mapping[str, Any]", raw))
    return Session(identity.namespace, identity.name, identity.uid, spec, recipe, typing.cast("Mapping[str, Any]", raw))


def parse_spec(data: object) -> Spec:
    """Validate a spec; raises SpecError naming the first field that is wrong."""
    spec = build(Spec, data, "spec")
    _check_dataset(spec.dataset)
    _check_base_model(spec.base_model)
    if spec.head.from_session is not None and spec.head.layers is not None:
        raise SpecError("spec.head has fromSession and layers; set only one, the other session's head has its layers.")
    if spec.training.fine_tune is not None and spec.training.repeats > 1:
        raise SpecError(
            f"spec.training.repeats is {spec.training.repeats}, and fineTune changes the base model that every seed "
            "would start from; set repeats to 1 or remove fineTune."
        )
    if spec.training.early_stopping is not None and spec.dataset.validation_split == 0:
        raise SpecError(
            "spec.training.earlyStopping watches validation images, and spec.dataset.validationSplit is 0; "
            "raise it or remove earlyStopping."
        )
    _check_module(spec)
    if spec.tracking is not None and spec.tracking.mlflow is not None:
        _check_password(spec.tracking.mlflow.uri, "spec.tracking.mlflow", "uri")
    if spec.base_model.weights is None and spec.base_model.weights_from is None:
        object.__setattr__(spec.base_model, "weights", "imagenet")
    return spec


def read_document(path: Path) -> object:
    """Read the session's JSON file as the operator mounts it; raises SpecError when it is not JSON."""
    try:
        document: object = json.loads(path.read_text("utf-8"), parse_constant=_refuse_constant)
    except OSError as error:
        raise SpecError(f"The session's file {path} cannot be read ({error.strerror}); use --session.") from error
    except ValueError as error:
        raise SpecError(f"The session's file {path} is not JSON ({clip(str(error))}); write it again.") from error
    return document


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _check_dataset(dataset: Dataset) -> None:
    if (dataset.name is None) == (dataset.uri is None):
        found = "neither" if dataset.name is None else "both"
        raise SpecError(f"spec.dataset has {found} of name and uri; set exactly one.")
    if dataset.uri is None:
        for key in ("claimName", "secretName", "sha256", "format", "revision"):
            value = getattr(dataset, snake(key))
            if value is not None:
                raise SpecError(f"spec.dataset.{key} is {shown(value)}, which needs uri; remove it or set uri.")
        return
    if dataset.sha256 is not None and dataset.revision is not None:
        raise SpecError("spec.dataset has sha256 and revision, which both say what the uri holds; set only one.")
    if re.match("(s3|gs)://.*/$", dataset.uri) and (dataset.sha256 is not None or dataset.format == "npz"):
        field = "sha256" if dataset.sha256 is not None else "format npz"
        raise SpecError(
            f"spec.dataset has {field}, which goes with one object, and uri {shown(dataset.uri)} ends with / and names "
            "a folder of them; remove one of the two."
        )
    _check_source(dataset.uri, dataset.claim_name, dataset.secret_name, "spec.dataset")


def _check_base_model(base_model: BaseModel) -> None:
    source = base_model.weights_from
    if source is None:
        return
    if base_model.weights is not None:
        raise SpecError(f"spec.baseModel has weights {shown(base_model.weights)} and weightsFrom; set only one.")
    _check_source(source.uri, source.claim_name, source.secret_name, "spec.baseModel.weightsFrom")


def _check_module(spec: Spec) -> None:
    module = spec.module
    if module is None:
        return
    if (module.git is None) == (module.image is None):
        found = "neither" if module.git is None else "both"
        raise SpecError(f"spec.module has {found} of git and image; set exactly one.")
    if spec.head.layers is not None or spec.head.from_session is not None:
        raise SpecError(
            "spec.module takes the place of the head; remove spec.head.layers and spec.head.fromSession, or "
            "spec.module."
        )
    training = spec.training
    given = (training.fine_tune, training.learning_rate, training.early_stopping, training.class_weights)
    if any(part is not None for part in given) or training.metrics or training.repeats > 1:
        raise SpecError(
            "spec.module trains in its own way; remove fineTune, learningRate, earlyStopping, classWeights, metrics "
            "and repeats from spec.training, or spec.module."
        )
    if module.git is not None:
        _check_password(module.git.url, "spec.module.git")
        if ".." in module.git.path.split("/"):
            raise SpecError(f"spec.module.git.path is {shown(module.git.path)}, which leaves the repository; remove ..")


def _check_source(uri: str, claim_name: str | None, secret_name: str | None, path: str) -> None:
    if secret_name is not None and uri.startswith("file:"):
        raise SpecError(f"{path}.secretName is {shown(secret_name)} but {path}.uri is a file URI; remove it.")
    if claim_name is not None and not uri.startswith("file:"):
        raise SpecError(f"{path}.claimName is {shown(claim_name)} but {path}.uri is no file URI; remove one of them.")
    _check_password(uri, path, "uri")


def _check_password(address: str, path: str, field: str = "url") -> None:
    if "@" in address.split("://", 1)[1].split("/", 1)[0]:
        # The value itself is left out: it may hold a password, and the sentence ends in logs and status.
        raise SpecError(f"{path}.{field} carries a user name or a password; remove the part before the @.")
