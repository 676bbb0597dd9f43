"""From a session to its Job: pure, no client, no clock."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from . import plan, queueing
from .errors import SessionError
from .resource import API_VERSION, KIND, Json, Session
from .settings import Settings
from .trainer_pod import CA_BUNDLE_ANNOTATION, CONTAINER, SESSION_ANNOTATION, pod_spec

MANAGED_BY = "trainingsession-operator"
MANAGED_LABEL = "app.kubernetes.io/managed-by"
UID_LABEL = "trainingsession.dev/session-uid"
NAME_LABEL = "trainingsession.dev/session"
ATTEMPTS_ANNOTATION = "trainingsession.dev/attempts-before"
GPU_SECONDS_ANNOTATION = "trainingsession.dev/gpu-seconds-before"
DISRUPTIONS_ANNOTATION = "trainingsession.dev/disruptions-before"
ENDED_ANNOTATION = "trainingsession.dev/ended-because"
"""The operator's reason for ending a Job, of which Kubernetes only knows a deadline."""


FOR_THE_TRAINER = ("dataset", "baseModel", "head", "training", "module", "resources", "tracking")
"""Parts of the spec that decide what is trained. A trainer that is older than the operator must know them all."""
SESSION_BYTES = 100 * 1024
"""Annotations of an object may have 256 KiB in all, and a Job keeps them twice."""

FATAL_EXIT_CODES = (64, 65, 76)
PATIENT_EXIT_CODES = (69, 75)


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
    account = session.scheduling.service_account_name
    if account is not None and account not in settings.service_accounts:
        allowed = ", ".join(settings.service_accounts) or "none"
        raise SessionError(
            "ServiceAccountNotAllowed",
            f"spec.scheduling.serviceAccountName is {account}, and sessions may use: {allowed}; "
            "ask whoever runs the operator to add it to trainer.serviceAccounts of the chart, or remove it.",
        )
    named = next(iter(_named_objects(session)), None)
    if named and session.namespace == settings.pod_namespace:
        raise SessionError(
            "NamespaceNotAllowed",
            f"{named[0]} is {named[1]}, and in {session.namespace}, the operator's own namespace, sessions may name no "
            "Secret and no claim, because MongoDB's and the backups' are there; create the session in another "
            "namespace, and the Secret or claim there too.",
        )


def _named_objects(session: Session) -> list[tuple[str, str]]:
    """Fields that name Secrets and claims of the session's namespace, and what they name."""
    found = (
        ("spec.dataset.secretName", session.dataset_secret),
        ("spec.dataset.claimName", session.dataset_claim),
        ("spec.baseModel.weightsFrom.secretName", session.weights_secret),
        ("spec.baseModel.weightsFrom.claimName", session.weights_claim),
        ("spec.module.git.secretName", session.module_secret),
        ("spec.tracking.mlflow.secretName", session.mlflow_secret),
    )
    return [(field, name) for field, name in found if name]


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
                "metadata": {
                    "labels": {**settings.pods.labels, **labels},
                    "annotations": {
                        **settings.pods.annotations,
                        SESSION_ANNOTATION: session_json(session),
                        **({CA_BUNDLE_ANNOTATION: settings.pods.ca_bundle} if settings.pods.ca_bundle else {}),
                    },
                },
                "spec": pod_spec(session, settings, step),
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
