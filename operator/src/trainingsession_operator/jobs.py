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
CA_KEY = "ca.crt"
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
DATASET_SECRET_FOLDER = "/etc/trainingsession/dataset-secret"  # noqa: S105 - a place, not a secret
DATASET_SECRET_KEYS = (
    "accessKeyId", "secretAccessKey", "sessionToken", "region", "endpoint", "serviceAccount.json", "bearerToken",
    "username", "password",
)  # fmt: skip
"""All that a pod sees of the Secret of a data set; the admission policy of the chart names them too."""
WEIGHTS_FOLDER = "/mnt/weights"
MODULE_SECRET_FOLDER = "/etc/trainingsession/module-secret"  # noqa: S105 - a place, not a secret
MLFLOW_SECRET_FOLDER = "/etc/trainingsession/mlflow-secret"  # noqa: S105 - a place, not a secret
SECRET_KEYS = ("username", "password", "bearerToken")
"""All that a pod sees of these Secrets; the admission policy of the chart names them too."""
WORK_FOLDER = "/tmp"  # noqa: S108 - an emptyDir of the pod's own

DATASETS_MIRROR = "TRAININGSESSION_DATASETS_MIRROR"
WEIGHTS_MIRROR = "TRAININGSESSION_WEIGHTS_MIRROR"

FOR_THE_TRAINER = ("dataset", "baseModel", "head", "training", "module", "resources", "tracking")
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


def check(session: Session, settings: Settings) -> None:
    """Refuse what no Job can be made of; raises SessionError."""
    session_json(session)
    image = session.module_image
    if image is not None and not any(_is_below(image, prefix) for prefix in settings.module_images):
        allowed = ", ".join(settings.module_images) or "none"
        raise SessionError(
            "ImageNotAllowed",
            f"spec.module.image.name is {image[:256]}, and sessions may bring along images of: {allowed}; "
            "ask whoever runs the operator to add it to trainer.moduleImages of the chart, or use module.git.",
        )


def _is_below(image: str, prefix: str) -> bool:
    """Whether an image is the named one or in the named part of a registry; half a word is no part."""
    rest = image.removeprefix(prefix)
    return rest != image and (prefix[-1] in "/:@" or rest[:1] in ("/", ":", "@", ""))


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
        "volumes": _volumes(session, settings),
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
    if session.resources.ephemeral_storage:
        amounts["ephemeral-storage"] = session.resources.ephemeral_storage
    # A session that has begun goes on with the same trainer, also after the operator was upgraded. What an image of the
    # user's says of itself does not count.
    image = session.module_image or (session.status.get("trainer") or {}).get("image") or settings.trainer_image
    environment = {
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "HOME": WORK_FOLDER,
        "KERAS_HOME": f"{WORK_FOLDER}/keras",
        "TRAININGSESSION_IMAGE": image,
        "TRAININGSESSION_GPUS": settings.trainer_gpus,
    }
    mirrors = {DATASETS_MIRROR: settings.datasets_mirror, WEIGHTS_MIRROR: settings.weights_mirror}
    environment |= {name: address for name, address in mirrors.items() if address}
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
    if session.dataset_secret:
        mounts.append({"name": "dataset-secret", "mountPath": DATASET_SECRET_FOLDER, "readOnly": True})
    if session.weights_claim:
        mounts.append({"name": "weights", "mountPath": WEIGHTS_FOLDER, "readOnly": True})
    mounts += [{"name": name, "mountPath": folder, "readOnly": True} for name, folder, _ in _secrets(session)]
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


def _volumes(session: Session, settings: Settings) -> list[Json]:
    # Files, because the kubelet cuts environment variables at 128 KiB and expands $(NAME) in them.
    files: list[Json] = [
        {"path": "session.json", "fieldRef": {"fieldPath": f"metadata.annotations['{SESSION_ANNOTATION}']"}},
        {"path": "pod-uid", "fieldRef": {"fieldPath": "metadata.uid"}},
        {"path": "cpu-limit", "resourceFieldRef": _limit("limits.cpu", "1m")},
        {"path": "memory-limit", "resourceFieldRef": _limit("limits.memory", "1Mi")},
    ]
    disk = session.resources.ephemeral_storage
    if disk:
        files.append({"path": "disk-limit", "resourceFieldRef": _limit("limits.ephemeral-storage", "1Mi")})
    keys = ("uri", "database", *((CA_KEY,) if settings.mongodb_ca_file else ()))
    volumes: list[Json] = [
        {"name": "session", "downwardAPI": {"items": files}},
        {
            "name": "mongodb",
            "secret": {
                "secretName": TENANT_SECRET,
                "defaultMode": 0o440,
                "items": [{"key": key, "path": key} for key in keys],
            },
        },
        {"name": "work", "emptyDir": {"sizeLimit": disk} if disk else {}},
    ]
    if session.dataset_secret:
        secret = {
            "secretName": session.dataset_secret,
            "defaultMode": 0o440,
            "items": [{"key": key, "path": key} for key in DATASET_SECRET_KEYS],
            # Each address needs some of the keys only; the trainer says which is missing, where a pod would just wait.
            "optional": True,
        }
        volumes.append({"name": "dataset-secret", "secret": secret})
    for name, claim in (("dataset", session.dataset_claim), ("weights", session.weights_claim)):
        if claim:
            volumes.append({"name": name, "persistentVolumeClaim": {"claimName": claim, "readOnly": True}})
    for volume, _, secret in _secrets(session):
        items = [{"key": key, "path": key} for key in SECRET_KEYS]
        # Some of the keys are enough; the trainer says which is missing, where a pod would just wait.
        source = {"secretName": secret, "defaultMode": 0o440, "items": items, "optional": True}
        volumes.append({"name": volume, "secret": source})
    return volumes


def _secrets(session: Session) -> list[tuple[str, str, str]]:
    """Give volume, place and name of the user's own Secrets."""
    found = (
        ("module-secret", MODULE_SECRET_FOLDER, session.module_secret),
        ("mlflow-secret", MLFLOW_SECRET_FOLDER, session.mlflow_secret),
    )
    return [(volume, folder, name) for volume, folder, name in found if name]


def _limit(resource: str, divisor: str) -> Json:
    return {"containerName": CONTAINER, "resource": resource, "divisor": divisor}
