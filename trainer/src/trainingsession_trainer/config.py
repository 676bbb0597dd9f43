"""The session as the trainer sees it: the spec, validated once.

The dataclasses mirror `manifests/crd/trainingsessions.yaml`, which is the source of truth for names, bounds and
defaults. They are checked again here because a session can be started without an API server in front of it.
What needs Keras to be decided (arguments of layers, losses, optimizers, base models) is checked where it is used.
"""

# ruff: noqa: RUF009 - `accepts` only wraps dataclasses.field.

from __future__ import annotations

import json
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

from .errors import SpecError
from .recipe import ends_in_npz, recipe_digest
from .structure import accepts, build, clip, shown, snake

API_VERSION = "trainingsession.dev/v1alpha1"
KIND = "TrainingSession"

DATASETS = ("cifar10", "cifar100", "digits", "fashion_mnist", "mnist")
LOSSES = (
    "categorical_crossentropy",
    "sparse_categorical_crossentropy",
    "categorical_focal_crossentropy",
    "categorical_generalized_cross_entropy",
    "categorical_hinge",
    "kl_divergence",
    "mean_squared_error",
    "cosine_similarity",
    "hinge",
    "huber",
    "log_cosh",
    "mean_absolute_error",
    "mean_squared_logarithmic_error",
    "poisson",
    "squared_hinge",
)
METRICS = (
    "auc",
    "categorical_crossentropy",
    "f1_score",
    "mean_squared_error",
    "precision",
    "recall",
    "top_3_accuracy",
    "top_5_accuracy",
)
SCHEDULES = ("constant", "step", "exponential", "cosine")
OPTIMIZERS = (
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "ftrl",
    "lamb",
    "lion",
    "muon",
    "nadam",
    "rmsprop",
    "schedulefreeadamw",
    "sgd",
)

EXPORTS = (
    "keras",
    "savedModel",
    "onnx",
    "predictions",
    "tensorBoard",
    "pictures",
    "doubtfulLabels",
    "learningCurve",
)
DEFAULT_EXPORTS = tuple(name for name in EXPORTS if name not in ("savedModel", "onnx"))

_CLASS_NAME = r"\A[A-Z][A-Za-z0-9]{1,63}\Z"
_CONTROLLER = r"\A[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_./]*[A-Za-z0-9])?\Z"
_DNS_NAME = r"\A[a-z0-9]([-a-z0-9.]*[a-z0-9])?\Z"
_DNS_LABEL = r"\A[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z"
_RESOURCE_NAME = r"\A[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?\Z"
_LABEL_KEY = r"\A(([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?\Z"
_LABEL_VALUE = r"\A([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?\Z"
_LAYER_NAME = r"\A[A-Za-z0-9][A-Za-z0-9_.-]*\Z"
_SHA256 = r"\A[0-9a-f]{64}\Z"
_REVISION = r"\A[A-Za-z0-9][-A-Za-z0-9_.:/+]*\Z"
_URI = r"\A(https?://[^/?#\s]+[^\s]*|(s3|gs)://[^/?#\s]+/[^\s]+|file:///[^\s]+)\Z"

_COMMIT = r"\A([0-9a-f]{40}|[0-9a-f]{64})\Z"
_DATASET_URI = r"\A(https?://[^/?#\s]+[^\s]*|(s3|gs)://[^/?#\s]+/[^\s]*|file:///[^\s]+)\Z"
_ENTRY_POINT = r"\A[A-Za-z_][A-Za-z0-9_]*([.][A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*\Z"
_FOLDER = r"\A[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*\Z"
_IMAGE = r"\A[a-z0-9]+([._:/-]+[A-Za-z0-9]+)*@sha256:[0-9a-f]{64}\Z"
_REPOSITORY = r"\Ahttps?://[^/?#\s]+/[^?#\s]+\Z"

_REPOSITORY_OR_HOST = r"\Ahttps?://[^/?#\s]+[^?#\s]*\Z"

_AS_SUBSET = Decimal(0)


@dataclass(frozen=True)
class FileSource:
    """A file by address; with a claim, the path of a file URI is inside the claim."""

    uri: str = accepts(max_length=2048, pattern=_URI)
    claim_name: str | None = accepts(None, max_length=253, pattern=_DNS_NAME)
    sha256: str | None = accepts(None, pattern=_SHA256)
    secret_name: str | None = accepts(None, max_length=253, pattern=_DNS_NAME)


@dataclass(frozen=True)
class Dataset:
    """The images and how many of them are used."""

    name: str | None = accepts(None, enum=DATASETS)
    uri: str | None = accepts(None, max_length=2048, pattern=_DATASET_URI)
    claim_name: str | None = accepts(None, max_length=253, pattern=_DNS_NAME)
    secret_name: str | None = accepts(None, max_length=253, pattern=_DNS_NAME)
    sha256: str | None = accepts(None, pattern=_SHA256)
    format: str | None = accepts(None, enum=("folder", "npz"))
    revision: str | None = accepts(None, max_length=128, pattern=_REVISION)
    subset: Decimal = accepts(Decimal(1), above=0, maximum=1)
    test_subset: Decimal = accepts(_AS_SUBSET, above=0, maximum=1)
    validation_split: Decimal = accepts(Decimal("0.2"), minimum=0, maximum=0.9)

    def __post_init__(self) -> None:
        if self.test_subset == _AS_SUBSET:
            object.__setattr__(self, "test_subset", self.subset)

    @property
    def source(self) -> FileSource | None:
        """The archive, or None for a data set known by name."""
        if self.uri is None:
            return None
        return FileSource(self.uri, self.claim_name, self.sha256, self.secret_name)

    @property
    def is_npz(self) -> bool:
        """Whether the file holds arrays; its ending says so where `format` does not."""
        return self.format == "npz" if self.format is not None else ends_in_npz(self.uri or "")

    @property
    def title(self) -> str:
        """What `kubectl get ts` shows in the column DATASET."""
        return self.name or self.uri or ""


@dataclass(frozen=True)
class BaseModel:
    """The frozen network; `weights` is None exactly when `weights_from` is set."""

    name: str = accepts(max_length=64, pattern=_CLASS_NAME)
    arguments: Mapping[str, Any] = accepts(factory=dict, max_items=32)
    weights: str | None = accepts(None, enum=("imagenet", "none"))
    weights_from: FileSource | None = None
    input_size: tuple[int, ...] | None = accepts(None, min_items=2, max_items=2, minimum=8, maximum=2048)
    layer: str | None = accepts(None, max_length=128, pattern=_LAYER_NAME)
    pooling: str = accepts("none", enum=("none", "avg", "max"))
    precision: str = accepts("float32", enum=("float32", "bfloat16", "float16"))


@dataclass(frozen=True)
class Layer:
    """One Keras layer of the head: class and arguments."""

    type: str = accepts(max_length=64, pattern=_CLASS_NAME)
    config: Mapping[str, Any] = accepts(factory=dict, max_items=32)


@dataclass(frozen=True)
class Head:
    """The small network that is trained; without layers, the default head for the features' shape."""

    layers: tuple[Layer, ...] | None = accepts(None, min_items=1, max_items=64)
    from_session: str | None = accepts(None, max_length=253, pattern=_DNS_NAME)
    standardize: bool = True


@dataclass(frozen=True)
class Loss:
    """A Keras loss by name."""

    name: str = accepts("categorical_crossentropy", enum=LOSSES)
    config: Mapping[str, Any] = accepts(factory=dict, max_items=32)


@dataclass(frozen=True)
class Optimizer:
    """A Keras optimizer by name."""

    name: str = accepts("rmsprop", enum=OPTIMIZERS)
    config: Mapping[str, Any] = accepts(factory=dict, max_items=32)


@dataclass(frozen=True)
class LearningRate:
    """By what the optimizer's learning rate is multiplied in the course of the epochs."""

    schedule: str = accepts("constant", enum=SCHEDULES)
    warmup_epochs: int = accepts(0, minimum=0, maximum=10000)
    factor: float | None = accepts(None, above=0, maximum=1)
    step_epochs: int | None = accepts(None, minimum=1, maximum=10000)
    minimum_factor: float | None = accepts(None, minimum=0, maximum=1)


@dataclass(frozen=True)
class EarlyStopping:
    """When training ends before its last epoch."""

    monitor: str = accepts("loss", enum=("loss", "accuracy"))
    patience: int = accepts(5, minimum=1, maximum=10000)
    min_delta: float = accepts(0.0, minimum=0, maximum=1000)


@dataclass(frozen=True)
class ClassWeights:
    """How much an image of each class counts in training; exactly one of the two is set."""

    balanced: bool = False
    weights: Mapping[str, Any] | None = accepts(None, max_items=10000)


@dataclass(frozen=True)
class FineTune:
    """The second phase, in which the last layers of the base model are trained too."""

    layers: int = accepts(minimum=1, maximum=10000)
    learning_rate: float = accepts(1e-5, above=0, maximum=10)
    epochs: int = accepts(5, minimum=1, maximum=10000)


@dataclass(frozen=True)
class Training:
    """How the head is trained."""

    loss: Loss = field(default_factory=Loss)
    optimizer: Optimizer = field(default_factory=Optimizer)
    learning_rate: LearningRate | None = None
    early_stopping: EarlyStopping | None = None
    class_weights: ClassWeights | None = None
    metrics: tuple[str, ...] = accepts((), enum=METRICS, max_items=6)
    fine_tune: FineTune | None = None
    batch_size: int = accepts(32, minimum=1, maximum=65536)
    epochs: int = accepts(20, minimum=1, maximum=10000)
    restore_best: bool = True
    seed: int = accepts(0, minimum=0, maximum=4294967295)
    repeats: int = accepts(1, minimum=1, maximum=100)


@dataclass(frozen=True)
class Repository:
    """One commit of a git repository, and the function in it."""

    url: str = accepts(max_length=2048, pattern=_REPOSITORY)
    revision: str = accepts(max_length=40, pattern=_COMMIT)
    entry_point: str = accepts(max_length=256, pattern=_ENTRY_POINT)
    path: str = accepts(".", max_length=1024, pattern=_FOLDER)
    secret_name: str | None = accepts(None, max_length=253, pattern=_DNS_NAME)


@dataclass(frozen=True)
class ModuleImage:
    """The image in which the trainer runs, and the function in it."""

    name: str = accepts(max_length=512, pattern=_IMAGE)
    entry_point: str = accepts(max_length=256, pattern=_ENTRY_POINT)


@dataclass(frozen=True)
class Module:
    """A user's own Python in place of head and training; exactly one of `git` and `image` is set."""

    git: Repository | None = None
    image: ModuleImage | None = None
    input: str = accepts("features", enum=("features", "images"))
    parameters: Mapping[str, Any] = accepts(factory=dict, max_items=64)

    @property
    def entry_point(self) -> str:
        """The function, as package.module:function."""
        return (self.git or self.image or _NO_MODULE).entry_point


_NO_MODULE = ModuleImage("", "")


@dataclass(frozen=True)
class Mlflow:
    """An MLflow server and the experiment in it."""

    uri: str = accepts(max_length=2048, pattern=_REPOSITORY_OR_HOST)
    experiment: str = accepts(max_length=250)
    secret_name: str | None = accepts(None, max_length=253, pattern=_DNS_NAME)


@dataclass(frozen=True)
class Tracking:
    """Where figures go besides log and status."""

    mlflow: Mlflow | None = None


@dataclass(frozen=True)
class DeviceClaim:
    """A device claimed by Dynamic Resource Allocation; to the trainer it only counts."""

    name: str = accepts(max_length=63, pattern=_DNS_LABEL)
    resource_claim_template_name: str = accepts(max_length=253, pattern=_DNS_NAME)


@dataclass(frozen=True)
class Resources:
    """What the pod was given; the trainer only reads the GPUs, to notice when they are not usable."""

    gpus: int = accepts(1, minimum=0, maximum=16)
    gpu_resource_name: str = accepts("nvidia.com/gpu", max_length=253, pattern=_RESOURCE_NAME)
    gpu_when_cached: str = accepts("never", enum=("never", "always"))
    gpu_for_head: str = accepts("always", enum=("always", "never"))
    workers: int = accepts(1, minimum=1, maximum=64)
    extraction_batch_size: int | None = accepts(None, minimum=1, maximum=4096)
    cpu: int | str = accepts("2", minimum=1, maximum=1024, max_length=32)
    memory: int | str = accepts("4Gi", minimum=536870912, max_length=32)
    ephemeral_storage: int | str | None = accepts(None, minimum=1073741824, max_length=32)
    claims: tuple[DeviceClaim, ...] = accepts((), min_items=1, max_items=16)


@dataclass(frozen=True)
class Toleration:
    """One toleration of the pod; without meaning to the trainer."""

    key: str | None = accepts(None, max_length=317, pattern=_LABEL_KEY)
    operator: str | None = accepts(None, enum=("Exists", "Equal"))
    value: str | None = accepts(None, max_length=63, pattern=_LABEL_VALUE)
    effect: str | None = accepts(None, enum=("NoSchedule", "PreferNoSchedule", "NoExecute"))
    toleration_seconds: int | None = accepts(None, minimum=0)


@dataclass(frozen=True)
class Scheduling:
    """Where the pod may run; without meaning to the trainer."""

    node_selector: Mapping[str, Any] = accepts(factory=dict, max_items=32)
    tolerations: tuple[Toleration, ...] = accepts((), max_items=32)
    priority_class_name: str | None = accepts(None, max_length=253, pattern=_DNS_NAME)
    service_account_name: str | None = accepts(None, max_length=253, pattern=_DNS_NAME)
    queue_name: str | None = accepts(None, max_length=63, pattern=_DNS_NAME)
    workload_priority_class_name: str | None = accepts(None, max_length=63, pattern=_DNS_NAME)


@dataclass(frozen=True)
class RunPolicy:
    """How the operator limits failures and time; without meaning to the trainer."""

    backoff_limit: int = accepts(2, minimum=0, maximum=100)
    active_deadline_seconds: int | None = accepts(None, minimum=1, maximum=31536000)
    pending_deadline_seconds: int | None = accepts(None, minimum=1, maximum=31536000)
    max_disruptions: int = accepts(100, minimum=0, maximum=10000)
    ttl_seconds_after_finished: int | None = accepts(None, minimum=0, maximum=315360000)


@dataclass(frozen=True)
class Artifacts:
    """What is made beside the files that every session leaves; the policy has no meaning to the trainer."""

    deletion_policy: str = accepts("Retain", enum=("Retain", "Delete"))
    exports: tuple[str, ...] | None = accepts(None, enum=EXPORTS, max_items=8)

    @property
    def wanted(self) -> tuple[str, ...]:
        """The exports to make."""
        return DEFAULT_EXPORTS if self.exports is None else self.exports


@dataclass(frozen=True)
class Spec:
    """What to train."""

    dataset: Dataset
    base_model: BaseModel
    head: Head = field(default_factory=Head)
    training: Training = field(default_factory=Training)
    module: Module | None = None
    tracking: Tracking | None = None
    resources: Resources = field(default_factory=Resources)
    scheduling: Scheduling | None = None
    run_policy: RunPolicy = field(default_factory=RunPolicy)
    suspend: bool = False
    managed_by: str | None = accepts(None, max_length=253, pattern=_CONTROLLER)
    artifacts: Artifacts = field(default_factory=Artifacts)
    reuse_result: str = accepts("Never", enum=("Never", "IfIdentical"))

    @property
    def exports(self) -> tuple[str, ...]:
        """The exports to make. A base model that was trained is nowhere but in the complete model."""
        wanted = self.artifacts.wanted
        return wanted if self.training.fine_tune is None or "keras" in wanted else ("keras", *wanted)


@dataclass(frozen=True)
class Identity:
    """Which session it is."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True)
class Session(Identity):
    """One TrainingSession: whose it is and what to train; `recipe` names its features, where the spec alone can.

    `given` is the spec as it was written.
    """

    spec: Spec
    recipe: str | None = None
    given: Mapping[str, Any] = field(default_factory=dict)


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
