"""The spec as the trainer sees it: frozen dataclasses with the bounds of every field.

They mirror `manifests/crd/trainingsessions.yaml`, which is the source of truth for names, bounds and defaults. Whether
a bound is kept is seen by `structure.build`; what fields must be to each other, by `config`.
"""

# ruff: noqa: RUF009 - `accepts` only wraps dataclasses.field.

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from .recipe import ends_in_npz
from .structure import accepts

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
    revision: str = accepts(max_length=64, pattern=_COMMIT)
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
