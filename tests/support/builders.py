"""Sessions, Jobs, pods and records as the operator meets them; a test names only what differs."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from trainingsession_operator.jobs import UID_LABEL
from trainingsession_operator.plan import job_name
from trainingsession_operator.resource import API_VERSION, KIND, Session, parse_session
from trainingsession_operator.settings import Settings, read_settings
from trainingsession_operator.trainer_pod import CONTAINER

Json = dict[str, Any]

NAMESPACE, NAME, UID = "team-a", "digits", "0f6a2f6e-6bd4-4a6e-9d1c-6f1f7a3c2b10"
JOB = job_name(NAME, UID)
IMAGE = "example.org/trainer:1"
NOW = datetime(2024, 5, 6, 12, 0, 0, tzinfo=UTC)
EARLIER, STARTED, ENDED = "2024-05-06T11:00:00Z", "2024-05-06T11:30:00Z", "2024-05-06T11:59:00Z"

SPEC: Json = {
    "dataset": {"name": "digits", "subset": 1, "validationSplit": 0.2},
    "baseModel": {"name": "MobileNet", "weights": "none", "pooling": "none", "precision": "float32"},
    "head": {"standardize": True},
    "training": {
        "loss": {"name": "categorical_crossentropy"}, "optimizer": {"name": "rmsprop"},
        "batchSize": 32, "epochs": 20, "restoreBest": True, "seed": 0,
    },
    "resources": {
        "gpus": 1, "gpuResourceName": "nvidia.com/gpu", "gpuWhenCached": "never", "gpuForHead": "always", "workers": 1,
        "cpu": "2", "memory": "4Gi",
    },
    "runPolicy": {"backoffLimit": 2, "maxDisruptions": 100},
    "suspend": False,
    "artifacts": {"deletionPolicy": "Retain"},
    "reuseResult": "Never",
}  # fmt: skip


def settings(**changed: str) -> Settings:
    """The operator's settings; `changed` are environment variables."""
    return read_settings({"TRAINER_IMAGE": IMAGE, "MONGODB_HOSTS": "mongodb-0:27017", **changed})


def resource(status: Mapping[str, Any] | None = None, *, name: str = NAME, uid: str = UID, **spec: Any) -> Json:
    """A session as the API server gives it; `spec` replaces fields inside the parts of the spec that it names."""
    full = copy.deepcopy(SPEC)
    for part, fields in spec.items():
        full[part] = {**full.get(part, {}), **fields} if isinstance(fields, Mapping) else fields
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "namespace": NAMESPACE,
            "name": name,
            "uid": uid,
            "resourceVersion": "7",
            "generation": 1,
            "creationTimestamp": EARLIER,
        },
        "spec": full,
        **({"status": dict(status)} if status else {}),
    }


def session(status: Mapping[str, Any] | None = None, *, name: str = NAME, uid: str = UID, **spec: Any) -> Session:
    """The same, parsed."""
    return parse_session(resource(status, name=name, uid=uid, **spec))


def job(
    *conditions: tuple[str, str, str],
    deadline: int | None = None,
    deleted: bool = False,
    name: str = JOB,
    started: str = EARLIER,
    annotations: Mapping[str, str] | None = None,
    **status_fields: Any,
) -> Json:
    """One of the session's Jobs; conditions as (type, reason, message), fields of the status as active=1."""
    status: Json = {"startTime": started, **status_fields}
    if conditions:
        status["conditions"] = [
            {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": ENDED}
            for kind, reason, message in conditions
        ]
        if any(kind == "Complete" for kind, _, _ in conditions):
            status["completionTime"] = ENDED
    return {
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "uid": "job-uid",
            **({"annotations": dict(annotations)} if annotations else {}),
            "ownerReferences": [{"uid": UID, "kind": KIND}],
            **({"deletionTimestamp": ENDED} if deleted else {}),
        },
        "spec": {
            "backoffLimit": 2,
            "template": {"spec": {"containers": [{"name": CONTAINER, "image": IMAGE}]}},
            **({"activeDeadlineSeconds": deadline} if deadline is not None else {}),
        },
        "status": status,
    }


def pod(uid: str, phase: str, state: Mapping[str, Any] | None = None, **status: Any) -> Json:
    """A trainer pod with the state of its container."""
    containers = {"containerStatuses": [{"name": CONTAINER, "state": dict(state)}]} if state is not None else {}
    return {
        "metadata": {"name": f"{JOB}-{uid}", "namespace": NAMESPACE, "uid": uid, "labels": {UID_LABEL: UID}},
        "status": {"phase": phase, **containers, **status},
    }


def running(uid: str = "pod-1", since: str = STARTED) -> Json:
    return pod(uid, "Running", {"running": {"startedAt": since}})


def ended(code: int, uid: str = "pod-1", message: str = "", reason: str = "Error") -> Json:
    terminated = {"exitCode": code, "reason": reason, "message": message, "startedAt": STARTED, "finishedAt": ENDED}
    return pod(uid, "Failed" if code else "Succeeded", {"terminated": terminated})


def worker(index: int, pod: Json) -> Json:
    """The pod of one of several workers."""
    annotations = {"batch.kubernetes.io/job-completion-index": str(index)}
    return {**pod, "metadata": {**pod["metadata"], "annotations": annotations}}


def terminating(pod: Json, node: str) -> Json:
    return {**pod, "metadata": {**pod["metadata"], "deletionTimestamp": ENDED}, "spec": {"nodeName": node}}


def created(pod: Json, at: str) -> Json:
    """The same pod, created at that time."""
    return {**pod, "metadata": {**pod["metadata"], "creationTimestamp": at}}


def disrupted(pod: Json, message: str = "preempting to accommodate a higher priority pod") -> Json:
    """The same pod with the condition that a drain, a preemption or an eviction leaves."""
    condition = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": message}
    return {**pod, "status": {**pod["status"], "conditions": [condition]}}


def suspended(job: Json) -> Json:
    return {**job, "spec": {**job["spec"], "suspend": True}}


def unschedulable(message: str) -> Json:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return pod("pod-1", "Pending", conditions=[condition])


def record(**fields: Any) -> Json:
    """The record as the operator makes it, with what a trainer added."""
    return {"_id": UID, "recordVersion": 2, "namespace": NAMESPACE, "name": NAME, "deletionPolicy": "Retain", **fields}


def result(accuracy: Any = 0.9625, **fields: Any) -> Json:
    artifact = {"name": "model.keras", "id": "a" * 24, "bytes": 1234, "sha256": "b" * 64}
    return {"accuracy": accuracy, "metrics": [{"name": "loss", "value": 0.25}], "artifacts": [artifact], **fields}


def condition(status: Mapping[str, Any], kind: str) -> Json:
    """The condition of that type; fails where it is not there exactly once."""
    (found,) = (c for c in status["conditions"] if c["type"] == kind)
    return dict(found)
