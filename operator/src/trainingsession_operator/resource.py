"""A TrainingSession as frozen dataclasses; they mirror `manifests/crd/trainingsessions.yaml`.

The API server has validated the object and filled in the defaults. What the operator does not look at itself (the
experiment) stays as it came and travels to the trainer, which validates it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from .errors import SessionError
from .readable import status_in

GROUP = "trainingsession.dev"
VERSION = "v1alpha1"
PLURAL = "trainingsessions"
KIND = "TrainingSession"
API_VERSION = f"{GROUP}/{VERSION}"
CONTROLLER = f"{GROUP}/operator"
"""This operator in `spec.managedBy`."""


Json = dict[str, Any]


@dataclass(frozen=True)
class DeviceClaim:
    """A device that the pod claims by Dynamic Resource Allocation."""

    name: str
    template: str
    """ResourceClaimTemplate in the session's namespace."""


@dataclass(frozen=True)
class Resources:
    """What each trainer pod may use; cpu, memory and ephemeral storage are Kubernetes quantities."""

    gpus: int = 1
    gpu_resource_name: str = "nvidia.com/gpu"
    gpu_when_cached: str = "never"
    gpu_for_head: str = "always"
    workers: int = 1
    cpu: str = "2"
    memory: str = "4Gi"
    ephemeral_storage: str | None = None
    claims: tuple[DeviceClaim, ...] = ()

    @property
    def has_gpus(self) -> bool:
        """Whether the session asks for GPUs, counted or claimed."""
        return self.gpus > 0 or bool(self.claims)


@dataclass(frozen=True)
class Scheduling:
    """Where the trainer pod may run, tolerations as in a pod; and the Kueue queue in which it waits."""

    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    priority_class_name: str | None = None
    service_account_name: str | None = None
    queue_name: str | None = None
    workload_priority_class_name: str | None = None


@dataclass(frozen=True)
class RunPolicy:
    """How failures and time are limited."""

    backoff_limit: int = 2
    active_deadline_seconds: int | None = None
    pending_deadline_seconds: int | None = None
    max_disruptions: int = 100


@dataclass(frozen=True)
class Session:
    """One TrainingSession; `spec` is the whole of it as the API server gave it."""

    namespace: str
    name: str
    uid: str
    resource_version: str
    generation: int
    spec: Mapping[str, Any]
    status: Mapping[str, Any]
    """What can be read of it."""
    raw_status: Mapping[str, Any]
    """The whole of it, which a patch must put right."""
    resources: Resources
    scheduling: Scheduling
    run_policy: RunPolicy
    suspend: bool
    deletion_policy: str
    reuse_result: str
    created_at: str
    dataset_claim: str | None
    dataset_secret: str | None
    weights_claim: str | None
    weights_secret: str | None
    module_secret: str | None
    mlflow_secret: str | None
    module_image: str | None
    """Image that the session brings along, in the place of the trainer's."""
    subset: Decimal
    """Part of the training images."""
    test_subset: Decimal

    @property
    def title(self) -> str:
        """namespace/name, as it stands in every log line."""
        return f"{self.namespace}/{self.name}"


def parse_session(resource: Mapping[str, Any]) -> Session:
    """Read what the API server gave; raises SessionError where another schema let something through."""
    metadata = resource["metadata"]
    spec = resource.get("spec")
    try:
        if not isinstance(spec, dict):
            raise TypeError("spec is missing")  # noqa: TRY301 - one place words the sentence
        resources, scheduling = spec.get("resources", {}), spec.get("scheduling", {})
        policy = spec.get("runPolicy", {})
        subset = spec["dataset"].get("subset", 1)
        return Session(
            namespace=metadata["namespace"],
            name=metadata["name"],
            uid=metadata["uid"],
            resource_version=metadata["resourceVersion"],
            generation=metadata.get("generation", 0),
            spec=spec,
            status=status_in(resource),
            raw_status=raw if isinstance(raw := resource.get("status"), Mapping) else {},
            resources=Resources(
                gpus=int(resources.get("gpus", Resources.gpus)),
                gpu_resource_name=str(resources.get("gpuResourceName", Resources.gpu_resource_name)),
                gpu_when_cached=_choice(resources, "gpuWhenCached", ("never", "always")),
                gpu_for_head=_choice(resources, "gpuForHead", ("always", "never")),
                workers=int(resources.get("workers", Resources.workers)),
                cpu=str(resources.get("cpu", Resources.cpu)),
                memory=str(resources.get("memory", Resources.memory)),
                ephemeral_storage=_text(resources.get("ephemeralStorage")),
                claims=tuple(
                    DeviceClaim(str(item["name"]), str(item["resourceClaimTemplateName"]))
                    for item in resources.get("claims", [])
                ),
            ),
            scheduling=Scheduling(
                node_selector=dict(scheduling.get("nodeSelector", {})),
                tolerations=tuple(dict(item) for item in scheduling.get("tolerations", [])),
                priority_class_name=scheduling.get("priorityClassName"),
                service_account_name=scheduling.get("serviceAccountName"),
                queue_name=scheduling.get("queueName"),
                workload_priority_class_name=scheduling.get("workloadPriorityClassName"),
            ),
            run_policy=RunPolicy(
                backoff_limit=int(policy.get("backoffLimit", RunPolicy.backoff_limit)),
                active_deadline_seconds=_seconds(policy.get("activeDeadlineSeconds")),
                pending_deadline_seconds=_seconds(policy.get("pendingDeadlineSeconds")),
                max_disruptions=int(policy.get("maxDisruptions", RunPolicy.max_disruptions)),
            ),
            suspend=spec.get("suspend", False) is True,
            deletion_policy=_choice(spec.get("artifacts", {}), "deletionPolicy", ("Retain", "Delete")),
            reuse_result=_choice(spec, "reuseResult", ("Never", "IfIdentical")),
            created_at=str(metadata.get("creationTimestamp", "")),
            dataset_claim=spec["dataset"].get("claimName"),
            dataset_secret=spec["dataset"].get("secretName"),
            weights_claim=spec["baseModel"].get("weightsFrom", {}).get("claimName"),
            weights_secret=spec["baseModel"].get("weightsFrom", {}).get("secretName"),
            module_secret=((spec.get("module") or {}).get("git") or {}).get("secretName"),
            mlflow_secret=((spec.get("tracking") or {}).get("mlflow") or {}).get("secretName"),
            module_image=((spec.get("module") or {}).get("image") or {}).get("name"),
            subset=Decimal(str(subset)),
            test_subset=Decimal(str(spec["dataset"].get("testSubset", subset))),
        )
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:
        words = f"{error} is missing" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
        raise SessionError(
            "InvalidSpec",
            f"The spec cannot be read ({words[:300]}); "
            "check that the definition in the cluster is that of this operator's version.",
        ) from error


def age(made: Mapping[str, Any], now: datetime, unknown: float = 0.0) -> float:
    """Seconds since the object was created; `unknown` where it does not say when."""
    created = made["metadata"].get("creationTimestamp")
    return (now - datetime.fromisoformat(created)).total_seconds() if created else unknown


def is_ours(resource: Mapping[str, Any]) -> bool:
    """Whether this operator looks after the session, or its `spec.managedBy` names another controller."""
    spec = resource.get("spec")
    return not isinstance(spec, Mapping) or spec.get("managedBy") in (None, CONTROLLER)


def seconds_after_end(resource: Mapping[str, Any]) -> int | None:
    """Seconds that a finished session is kept; None for ever."""
    spec = resource.get("spec")
    policy = spec.get("runPolicy") if isinstance(spec, Mapping) else None
    kept = policy.get("ttlSecondsAfterFinished") if isinstance(policy, Mapping) else None
    return kept if isinstance(kept, int) and kept >= 0 else None


def deletion_policy(resource: Mapping[str, Any]) -> str:
    """Delete where the session says so, else Retain: without a word that is one, its artifacts stay."""
    spec = resource.get("spec")
    artifacts = spec.get("artifacts") if isinstance(spec, Mapping) else None
    says = artifacts.get("deletionPolicy") if isinstance(artifacts, Mapping) else None
    return "Delete" if says == "Delete" else "Retain"


def _choice(part: Mapping[str, Any], name: str, known: tuple[str, ...]) -> str:
    """Give one of the values that this operator knows, the first where none is named; ValueError for another."""
    value = part.get(name, known[0])
    if value not in known:
        raise ValueError(f"{name} is {value!r}, and this operator knows {' and '.join(known)}")
    return str(value)


def _seconds(value: Any) -> int | None:
    return None if value is None else int(value)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
