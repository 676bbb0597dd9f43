"""From a session to its Job: pure, no client, no clock."""

from __future__ import annotations

import json
import re

from .errors import SessionError
from .resource import API_VERSION, KIND, Json, Session
from .settings import Settings

MANAGED_BY = "trainingsession-operator"
MANAGED_LABEL = "app.kubernetes.io/managed-by"
UID_LABEL = "trainingsession.dev/session-uid"
NAME_LABEL = "trainingsession.dev/session"
SESSION_ANNOTATION = "trainingsession.dev/session"
TENANT_SECRET = "trainingsession-mongodb"  # noqa: S105 - a name, not a secret
CONTAINER = "trainer"

SESSION_FOLDER = "/etc/trainingsession/session"
MONGODB_FOLDER = "/etc/trainingsession/mongodb"
DATASET_FOLDER = "/mnt/dataset"
WEIGHTS_FOLDER = "/mnt/weights"
WORK_FOLDER = "/tmp"  # noqa: S108 - an emptyDir of the pod's own

NAME_LENGTH = 52
"""Room for the pod's suffix within the 63 characters of a label."""
SESSION_BYTES = 100 * 1024
"""Annotations of an object may have 256 KiB in all, and a Job keeps them twice."""

FATAL_EXIT_CODES = (64, 65, 76)
PATIENT_EXIT_CODES = (69, 75)
GRACE_SECONDS = 60


def job_name(name: str, uid: str) -> str:
    """Name of a session's Job: legal, unique by the UID, the same on every call."""
    return f"{_cut(name, NAME_LENGTH - 9)}-{uid[:8]}"


def session_label(name: str) -> str:
    """Label value for `kubectl logs -l`: the session's name where it is a legal value, else the beginning of it."""
    return name if len(name) <= 63 else _cut(name, 63)


def _cut(name: str, length: int) -> str:
    return re.sub(r"[^a-z0-9-]", "-", name)[:length].strip("-")


def session_json(session: Session) -> str:
    """Give what the trainer reads; raises SessionError when it is too large for an annotation."""
    text = json.dumps(
        {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"namespace": session.namespace, "name": session.name, "uid": session.uid},
            "spec": session.spec,
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


def build_job(session: Session, settings: Settings) -> Json:
    """Build the Job that runs the session; raises SessionError."""
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
            "name": job_name(session.name, session.uid),
            "namespace": session.namespace,
            "labels": labels,
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
            "backoffLimit": session.run_policy.backoff_limit,
            "completions": 1,
            "parallelism": 1,
            # Only when a pod has ended is the next one made: never two pods on one GPU.
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": _failure_rules()},
            # No activeDeadlineSeconds here: it would also run while the Job waits for a node.
            "template": {
                "metadata": {"labels": labels, "annotations": {SESSION_ANNOTATION: session_json(session)}},
                "spec": _pod_spec(session, settings),
            },
        },
    }


def _failure_rules() -> list[Json]:
    """Give the rules in order: the first that matches decides; what none matches counts against backoffLimit."""
    return [
        {
            "action": "FailJob",
            "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": list(FATAL_EXIT_CODES)},
        },
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {
            "action": "Ignore",
            "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": list(PATIENT_EXIT_CODES)},
        },
    ]


def _pod_spec(session: Session, settings: Settings) -> Json:
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
        "containers": [_container(session, settings)],
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


def _container(session: Session, settings: Settings) -> Json:
    amounts = {"cpu": session.resources.cpu, "memory": session.resources.memory}
    if session.resources.gpus:
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
        "image": settings.trainer_image,
        "imagePullPolicy": settings.trainer_image_pull_policy,
        "command": ["python", "-m", "trainingsession_trainer"],
        "env": [
            {"name": "TF_FORCE_GPU_ALLOW_GROWTH", "value": "true"},
            {"name": "TF_CPP_MIN_LOG_LEVEL", "value": "2"},
            {"name": "HOME", "value": WORK_FOLDER},
            {"name": "KERAS_HOME", "value": f"{WORK_FOLDER}/keras"},
            {"name": "TRAININGSESSION_IMAGE", "value": settings.trainer_image},
        ],
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
