"""The pod in which a trainer runs: what it may use, what it is told and where, and how it is confined; pure."""

from __future__ import annotations

from . import plan
from .resource import DeviceClaim, Json, Session
from .settings import Settings

CA_KEY = "ca.crt"
TENANT_SECRET = "trainingsession-mongodb"  # noqa: S105 - a name, not a secret
CONTAINER = "trainer"
SESSION_FOLDER = "/etc/trainingsession/session"
MONGODB_FOLDER = "/etc/trainingsession/mongodb"
DATASET_FOLDER = "/mnt/dataset"
DATASET_SECRET_FOLDER = "/etc/trainingsession/dataset-secret"  # noqa: S105 - a place, not a secret
WEIGHTS_FOLDER = "/mnt/weights"
WEIGHTS_SECRET_FOLDER = "/etc/trainingsession/weights-secret"  # noqa: S105 - a place, not a secret
MODULE_SECRET_FOLDER = "/etc/trainingsession/module-secret"  # noqa: S105 - a place, not a secret
MLFLOW_SECRET_FOLDER = "/etc/trainingsession/mlflow-secret"  # noqa: S105 - a place, not a secret
WORK_FOLDER = "/tmp"  # noqa: S108 - an emptyDir of the pod's own
DATASETS_MIRROR = "TRAININGSESSION_DATASETS_MIRROR"
WEIGHTS_MIRROR = "TRAININGSESSION_WEIGHTS_MIRROR"
PACKAGE_INDEX = "TRAININGSESSION_PACKAGE_INDEX"
SERVICE_ACCOUNT = "TRAININGSESSION_SERVICE_ACCOUNT"
GRACE_SECONDS = 60
SESSION_ANNOTATION = "trainingsession.dev/session"
CA_BUNDLE_ANNOTATION = "trainingsession.dev/ca-bundle"
CA_BUNDLE = "ca-bundle.crt"
DATASET_SECRET_KEYS = (
    "accessKeyId", "secretAccessKey", "sessionToken", "region", "endpoint", "serviceAccount.json", "bearerToken",
    "username", "password",
)  # fmt: skip
"""All that a pod sees of the Secret of a data set or of weights; the admission policy of the chart names them too."""
SECRET_KEYS = ("username", "password", "bearerToken")
"""All that a pod sees of these Secrets; the admission policy of the chart names them too."""


def pod_spec(session: Session, settings: Settings, step: plan.Step) -> Json:
    """Build the spec of the trainer's pod for a session's step."""
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
    if selector := {**settings.pods.node_selector, **session.scheduling.node_selector}:
        spec["nodeSelector"] = selector
    if tolerations := _tolerations(session, settings, step):
        spec["tolerations"] = tolerations
    if session.scheduling.service_account_name:
        # Its identity in a cloud; still without a token for the API server.
        spec["serviceAccountName"] = session.scheduling.service_account_name
    if claims := _claims(session, step):
        spec["resourceClaims"] = [{"name": one.name, "resourceClaimTemplateName": one.template} for one in claims]
    if session.scheduling.priority_class_name:
        spec["priorityClassName"] = session.scheduling.priority_class_name
    return spec


def _claims(session: Session, step: plan.Step) -> tuple[DeviceClaim, ...]:
    return session.resources.claims if plan.device(session, step) == "GPU" else ()


def _tolerations(session: Session, settings: Settings, step: plan.Step) -> list[Json]:
    """Give each once. A pod without GPUs does not tolerate what keeps such pods off the nodes that have them."""
    wanted = [*session.scheduling.tolerations, *settings.pods.tolerations]
    if plan.device(session, step) == "GPU":
        wanted += settings.pods.gpu_tolerations
        name = session.resources.gpu_resource_name
        # Nodes with parts of GPUs carry the taint of whole ones.
        for key in (name, f"{name.partition('/')[0]}/gpu"):
            wanted.append({"key": key, "operator": "Exists", "effect": "NoSchedule"})
    found: list[Json] = []
    for item in wanted:
        if item not in found:
            found.append(dict(item))
    return found


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
    given = {
        DATASETS_MIRROR: settings.datasets_mirror,
        WEIGHTS_MIRROR: settings.weights_mirror,
        PACKAGE_INDEX: settings.package_index,
        SERVICE_ACCOUNT: session.scheduling.service_account_name,
        **settings.pods.proxy,
    }
    environment |= {name: value for name, value in given.items() if value}
    if plan.device(session, step) == "CPU":
        # A GPU image shows every GPU of the node to a pod that asks for none, and other people's work is on them.
        environment |= {"CUDA_VISIBLE_DEVICES": "", "NVIDIA_VISIBLE_DEVICES": "void"}
    elif session.resources.gpus:
        amounts[session.resources.gpu_resource_name] = str(session.resources.gpus)
    resources: Json = {"limits": amounts, "requests": dict(amounts)}
    claims = _claims(session, step)
    if claims:
        resources["claims"] = [{"name": one.name} for one in claims]
    mounts = [
        {"name": "session", "mountPath": SESSION_FOLDER, "readOnly": True},
        {"name": "mongodb", "mountPath": MONGODB_FOLDER, "readOnly": True},
        {"name": "work", "mountPath": WORK_FOLDER},
    ]
    if session.dataset_claim:
        mounts.append({"name": "dataset", "mountPath": DATASET_FOLDER, "readOnly": True})
    if session.weights_claim:
        mounts.append({"name": "weights", "mountPath": WEIGHTS_FOLDER, "readOnly": True})
    mounts += [{"name": name, "mountPath": folder, "readOnly": True} for name, folder, _, _ in _secrets(session)]
    return {
        "name": CONTAINER,
        "image": image,
        "imagePullPolicy": settings.trainer_image_pull_policy,
        "command": ["python", "-m", "trainingsession_trainer"],
        **({"args": ["--task", step.task]} if step.task != "all" else {}),
        "env": [{"name": name, "value": value} for name, value in environment.items()],
        "resources": resources,
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
    if settings.pods.ca_bundle:
        # By the pod's own annotation: a ConfigMap would have to be in every namespace that has sessions.
        annotation = f"metadata.annotations['{CA_BUNDLE_ANNOTATION}']"
        files.append({"path": CA_BUNDLE, "fieldRef": {"fieldPath": annotation}})
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
    for name, claim in (("dataset", session.dataset_claim), ("weights", session.weights_claim)):
        if claim:
            volumes.append({"name": name, "persistentVolumeClaim": {"claimName": claim, "readOnly": True}})
    for volume, _, secret, keys in _secrets(session):
        # Some of the keys are enough; the trainer says which is missing, where a pod would just wait.
        items = [{"key": key, "path": key} for key in keys]
        source = {"secretName": secret, "defaultMode": 0o440, "items": items, "optional": True}
        volumes.append({"name": volume, "secret": source})
    return volumes


def _secrets(session: Session) -> list[tuple[str, str, str, tuple[str, ...]]]:
    """Give volume, place, name and keys of the user's own Secrets."""
    found = (
        ("dataset-secret", DATASET_SECRET_FOLDER, session.dataset_secret, DATASET_SECRET_KEYS),
        ("weights-secret", WEIGHTS_SECRET_FOLDER, session.weights_secret, DATASET_SECRET_KEYS),
        ("module-secret", MODULE_SECRET_FOLDER, session.module_secret, SECRET_KEYS),
        ("mlflow-secret", MLFLOW_SECRET_FOLDER, session.mlflow_secret, SECRET_KEYS),
    )
    return [(volume, folder, name, keys) for volume, folder, name, keys in found if name]


def _limit(resource: str, divisor: str) -> Json:
    return {"containerName": CONTAINER, "resource": resource, "divisor": divisor}
