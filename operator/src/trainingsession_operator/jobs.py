"""From a session to its Job: pure, no client, no clock."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from . import plan, queueing
from .errors import SessionError
from .resource import API_VERSION, KIND, Json, Session
from .settings import Settings

MANAGED_BY = "trainingsession-operator"
MANAGED_LABEL = "app.kubernetes.io/managed-by"
UID_LABEL = "trainingsession.dev/session-uid"
NAME_LABEL = "trainingsession.dev/session"
SESSION_ANNOTATION = "trainingsession.dev/session"
TENANT_SECRET = "trainingsession-mongodb"  # noqa: S105 - a name, not a secret
ATTEMPTS_ANNOTATION = "trainingsession.dev/attempts-before"
GPU_SECONDS_ANNOTATION = "trainingsession.dev/gpu-seconds-before"
DISRUPTIONS_ANNOTATION = "trainingsession.dev/disruptions-before"
ENDED_ANNOTATION = "trainingsession.dev/ended-because"
"""The operator's reason for ending a Job, of which Kubernetes only knows a deadline."""
CONTAINER = "trainer"

SESSION_FOLDER = "/etc/trainingsession/session"
MONGODB_FOLDER = "/etc/trainingsession/mongodb"
DATASET_FOLDER = "/mnt/dataset"
WEIGHTS_FOLDER = "/mnt/weights"
WORK_FOLDER = "/tmp"  # noqa: S108 - an emptyDir of the pod's own

FOR_THE_TRAINER = ("dataset", "baseModel", "head", "training", "module", "resources")
"""Parts of the spec that decide what is trained. A trainer that is older than the operator must know them all."""
SESSION_BYTES = 100 * 1024
"""Annotations of an object may have 256 KiB in all, and a Job keeps them twice."""

FATAL_EXIT_CODES = (64, 65, 76)
PATIENT_EXIT_CODES = (69, 75)
GRACE_SECONDS = 60


def session_label(name: str) -> str:
    """Label value for `kubectl logs -l`: the session's name where it is a legal value, else the beginning of it."""
    return name if len(name) <= 63 else plan.cut(name, 63)


def session_json(session: Session) -> str:
    """Give the experiment as the trainer reads it; raises SessionError when it is too large for an annotation."""
    spec = {key: value for key, value in session.spec.items() if key in FOR_THE_TRAINER}
    exports = (session.spec.get("artifacts") or {}).get("exports")
    if exports is not None:
        # Without the deletion policy, which may change while the Job runs.
        spec["artifacts"] = {"exports": exports}
    text = json.dumps(
        {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"namespace": session.namespace, "name": session.name, "uid": session.uid},
            "spec": spec,
        },
        separators=(",", ":"),
        sort_keys=True,
    )
    size = len(text.encode())
    if size > SESSION_BYTES:
        raise SessionError(
            "SpecTooLarge",
            f"The spec has {size // 1024} KiB, and at most {SESSION_BYTES // 1024} KiB reach the trainer; "
            "shorten config and arguments.",
        )
    return text


def build_job(session: Session, settings: Settings, step: plan.Step = plan.WHOLE) -> Json:
    """Build the Job of a session's step; raises SessionError."""
    queued = queueing.labels(session)
    labels = {
        MANAGED_LABEL: MANAGED_BY,
        "app.kubernetes.io/name": "trainingsession-trainer",
        UID_LABEL: session.uid,
        NAME_LABEL: session_label(session.name),
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": plan.step_name(session, step),
            "namespace": session.namespace,
            "labels": labels | queued,
            "annotations": _annotations(session),
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "kind": KIND,
                    "name": session.name,
                    "uid": session.uid,
                    "controller": True,
                    # Deleting a session must never wait for its pods.
                    "blockOwnerDeletion": False,
                }
            ],
        },
        "spec": {
            **_pods_of(session, plan.workers(session, step)),
            # Kueue starts it; the operator never touches this field again.
            **({"suspend": True} if queued else {}),
            # Only when a pod has ended is the next one made: never two pods on one GPU.
            "podReplacementPolicy": "Failed",
            # No activeDeadlineSeconds here: it would also run while the Job waits for a node.
            "template": {
                "metadata": {"labels": labels, "annotations": {SESSION_ANNOTATION: session_json(session)}},
                "spec": _pod_spec(session, settings, step),
            },
        },
    }


def image_of(job: Mapping[str, Any]) -> str:
    """Image of the trainer in a Job."""
    return str(job["spec"]["template"]["spec"]["containers"][0].get("image", ""))


def _annotations(session: Session) -> dict[str, str]:
    # A Job that is made again or follows another one goes on counting where that one stopped.
    counts = {
        ATTEMPTS_ANNOTATION: session.status.get("attempts"),
        GPU_SECONDS_ANNOTATION: session.status.get("gpuSeconds"),
        DISRUPTIONS_ANNOTATION: session.status.get("disruptions"),
    }
    return {plan.RUN_ANNOTATION: plan.run_digest(session)} | {key: str(value) for key, value in counts.items() if value}


def _pods_of(session: Session, workers: int) -> Json:
    """Give how many pods there are, and what their ends mean for the Job."""
    limit = session.run_policy.backoff_limit
    if workers == 1:
        rules = _failure_rules("FailJob")
        return {"backoffLimit": limit, "completions": 1, "parallelism": 1, "podFailurePolicy": {"rules": rules}}
    return {
        "completionMode": "Indexed",
        "completions": workers,
        "parallelism": workers,
        # The first worker trains; when it is done, the session is. One of the others may fail without ending the rest.
        "successPolicy": {"rules": [{"succeededIndexes": "0"}]},
        "backoffLimitPerIndex": limit,
        "podFailurePolicy": {"rules": _failure_rules("FailIndex")},
    }


def _failure_rules(fatal: str) -> list[Json]:
    """Give the rules in order: the first that matches decides; what none matches counts against backoffLimit."""
    return [
        {
            "action": fatal,
            "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": list(FATAL_EXIT_CODES)},
        },
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {
            "action": "Ignore",
            "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": list(PATIENT_EXIT_CODES)},
        },
    ]


def _pod_spec(session: Session, settings: Settings, step: plan.Step) -> Json:
    spec: Json = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(session, settings, step)],
        "volumes": _volumes(session),
    }
    if settings.trainer_image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in settings.trainer_image_pull_secrets]
    if session.scheduling.node_selector:
        spec["nodeSelector"] = dict(session.scheduling.node_selector)
    if session.scheduling.tolerations:
        spec["tolerations"] = [dict(item) for item in session.scheduling.tolerations]
    if session.scheduling.priority_class_name:
        spec["priorityClassName"] = session.scheduling.priority_class_name
    return spec


def _container(session: Session, settings: Settings, step: plan.Step) -> Json:
    amounts = {"cpu": session.resources.cpu, "memory": session.resources.memory}
    # A session that has begun goes on with the same trainer, also after the operator was upgraded.
    image = (session.status.get("trainer") or {}).get("image") or settings.trainer_image
    environment = {
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "HOME": WORK_FOLDER,
        "KERAS_HOME": f"{WORK_FOLDER}/keras",
        "TRAININGSESSION_IMAGE": image,
        "TRAININGSESSION_GPUS": settings.trainer_gpus,
    }
    if plan.device(session, step) == "CPU":
        # A GPU image shows every GPU of the node to a pod that asks for none, and other people's work is on them.
        environment |= {"CUDA_VISIBLE_DEVICES": "", "NVIDIA_VISIBLE_DEVICES": "void"}
    else:
        amounts[session.resources.gpu_resource_name] = str(session.resources.gpus)
    mounts = [
        {"name": "session", "mountPath": SESSION_FOLDER, "readOnly": True},
        {"name": "mongodb", "mountPath": MONGODB_FOLDER, "readOnly": True},
        {"name": "work", "mountPath": WORK_FOLDER},
    ]
    if session.dataset_claim:
        mounts.append({"name": "dataset", "mountPath": DATASET_FOLDER, "readOnly": True})
    if session.weights_claim:
        mounts.append({"name": "weights", "mountPath": WEIGHTS_FOLDER, "readOnly": True})
    return {
        "name": CONTAINER,
        "image": image,
        "imagePullPolicy": settings.trainer_image_pull_policy,
        "command": ["python", "-m", "trainingsession_trainer"],
        **({"args": ["--task", step.task]} if step.task != "all" else {}),
        "env": [{"name": name, "value": value} for name, value in environment.items()],
        "resources": {"limits": amounts, "requests": dict(amounts)},
        # A trainer that died without a word still leaves the end of its log.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": mounts,
    }


def _volumes(session: Session) -> list[Json]:
    # Files, because the kubelet cuts environment variables at 128 KiB and expands $(NAME) in them.
    files: list[Json] = [
        {"path": "session.json", "fieldRef": {"fieldPath": f"metadata.annotations['{SESSION_ANNOTATION}']"}},
        {"path": "pod-uid", "fieldRef": {"fieldPath": "metadata.uid"}},
        {"path": "cpu-limit", "resourceFieldRef": _limit("limits.cpu", "1m")},
        {"path": "memory-limit", "resourceFieldRef": _limit("limits.memory", "1Mi")},
    ]
    volumes: list[Json] = [
        {"name": "session", "downwardAPI": {"items": files}},
        {
            "name": "mongodb",
            "secret": {
                "secretName": TENANT_SECRET,
                "defaultMode": 0o440,
                "items": [{"key": key, "path": key} for key in ("uri", "database")],
            },
        },
        {"name": "work", "emptyDir": {}},
    ]
    for name, claim in (("dataset", session.dataset_claim), ("weights", session.weights_claim)):
        if claim:
            volumes.append({"name": name, "persistentVolumeClaim": {"claimName": claim, "readOnly": True}})
    return volumes


def _limit(resource: str, divisor: str) -> Json:
    return {"containerName": CONTAINER, "resource": resource, "divisor": divisor}
