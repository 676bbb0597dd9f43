"""Conditions, phase and the patch that brings a status there: pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .readable import status_in
from .resource import Json

ACCEPTED, QUOTA_RESERVED, PODS_READY, RUNNING = "Accepted", "QuotaReserved", "PodsReady", "Running"
SUSPENDED, COMPLETE, FAILED, FINISHED = "Suspended", "Complete", "Failed", "Finished"
CONDITIONS = (ACCEPTED, QUOTA_RESERVED, PODS_READY, RUNNING, SUSPENDED, COMPLETE, FAILED, FINISHED)
"""In the order in which they are shown; QuotaReserved only of sessions that wait in a queue."""
MESSAGE_LENGTH = 4096


class Reason:
    """Why a condition is as it is. docs/reasons.md says what to do about each."""

    ACCEPTED = "SpecAccepted"
    SPEC_TOO_LARGE = "SpecTooLarge"
    IMAGE_NOT_ALLOWED = "ImageNotAllowed"
    SERVICE_ACCOUNT_NOT_ALLOWED = "ServiceAccountNotAllowed"
    NAMESPACE_NOT_ALLOWED = "NamespaceNotAllowed"
    INVALID_SPEC = "InvalidSpec"
    LOOK_FAILED = "LookFailed"

    STORAGE_UNAVAILABLE = "StorageUnavailable"
    JOB_REFUSED = "JobRefused"
    JOB_CREATED = "JobCreated"
    JOB_SUSPENDED = "JobSuspended"
    JOB_TERMINATING = "OldJobTerminating"
    NAME_TAKEN = "JobNameTaken"
    PODS_DENIED = "PodsDenied"
    FAILED_MOUNT = "FailedMount"
    POD_TERMINATING = "PodTerminating"
    NODE_LOST = "NodeLost"
    BACKING_OFF = "BackingOff"
    TRAINER_RUNNING = "TrainerRunning"
    TRAINER_ENDED = "TrainerEnded"
    NOT_RUNNING = "NotRunning"
    NOT_FINISHED = "NotFinished"

    SUSPENDED = "SuspendedByUser"
    SUSPENDING = "Suspending"
    NOT_SUSPENDED = "NotSuspended"
    QUOTA_RESERVED = "Admitted"
    QUOTA_PENDING = "WaitingForQuota"
    KUEUE_MISSING = "KueueMissing"
    KUEUE_HOLDS_SESSION = "SessionQueuedInsteadOfJob"

    DUPLICATES_IN_TEST = "DuplicatesInTest"
    NEAR_DUPLICATES_IN_TEST = "NearDuplicatesInTest"
    LABELS_DISAGREE = "LabelsDisagree"
    TRACKING_FAILED = "TrackingFailed"

    SUCCEEDED = "ResultPublished"
    REUSED = "ResultReused"
    BAD_SPEC = "SpecRefusedByTrainer"
    BAD_DATA = "BadData"
    ACCELERATOR_MISSING = "AcceleratorMissing"
    OUT_OF_MEMORY = "OutOfMemory"
    OUT_OF_GPU_MEMORY = "OutOfGpuMemory"
    DIVERGED = "Diverged"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    PENDING_DEADLINE_EXCEEDED = "PendingDeadlineExceeded"
    DISRUPTED_TOO_OFTEN = "DisruptedTooOften"
    BACKOFF_LIMIT_EXCEEDED = "BackoffLimitExceeded"
    JOB_FAILED = "JobFailed"
    JOB_LOST = "JobLost"
    RESULT_MISSING = "ResultMissing"
    ARTIFACTS_MISSING = "ArtifactsMissing"


REASONS = frozenset(value for name, value in vars(Reason).items() if name.isupper())
ALERTING = (
    Reason.ACCELERATOR_MISSING, Reason.ARTIFACTS_MISSING, Reason.DISRUPTED_TOO_OFTEN, Reason.JOB_FAILED,
    Reason.JOB_LOST, Reason.PENDING_DEADLINE_EXCEEDED, Reason.RESULT_MISSING,
)  # fmt: skip
"""Reasons of failures for which the alert TrainingSessionFailForOneReason asks: hardly ever their authors' fault."""
OTHER_REASON = "Other"


@dataclass(frozen=True)
class State:
    """One condition's say: "True", "False" or "Unknown", with its reason and message."""

    status: str
    reason: str
    message: str


def is_finished(status: Mapping[str, Any]) -> bool:
    """Whether the session is at either end."""
    return any(c.get("type") == FINISHED and c.get("status") == "True" for c in status.get("conditions") or [])


def is_as_written(status: Mapping[str, Any]) -> bool:
    """Whether the end of a finished session is told as the operator tells it; a hand changes a word or two."""
    said = {c.get("type"): c.get("status") for c in status.get("conditions") or []}
    succeeded = said.get(COMPLETE) == "True"
    ended = {COMPLETE: str(succeeded), FAILED: str(not succeeded), FINISHED: "True"}
    others = {PODS_READY: "False", RUNNING: "False", SUSPENDED: "False"}
    phase = "Succeeded" if succeeded else "Failed"
    return (ended | others).items() <= said.items() and status.get("phase") == phase and "completionTime" in status


def condition_of(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """Give the condition of that type; empty where there is none."""
    return next((c for c in status.get("conditions") or [] if c.get("type") == kind), {})


def failure(status: Mapping[str, Any]) -> str:
    """Why the session failed, Other for what is no reason of ours; empty where it did not fail."""
    found = condition_of(status, FAILED)
    if found.get("status") != "True":
        return ""
    return str(found["reason"]) if found.get("reason") in REASONS else OTHER_REASON


def pending_since(resource: Mapping[str, Any]) -> str | None:
    """Since when a session in phase Pending has waited for its trainer, an RFC 3339 time.

    None in another phase, and while it waits in a queue: that is what queues are for. Neither the time in the queue
    nor that of a suspension counts.
    """
    status = status_in(resource)
    queued = condition_of(status, QUOTA_RESERVED).get("status") == "False"
    if (status.get("phase") or "Pending") != "Pending" or is_finished(status) or queued:
        return None
    moved = (
        condition_of(status, kind).get("lastTransitionTime")
        for kind, value in ((RUNNING, "False"), (SUSPENDED, "False"), (QUOTA_RESERVED, "True"))
        if condition_of(status, kind).get("status") == value
    )
    made: str | None = resource["metadata"].get("creationTimestamp")
    return max((at for at in moved if at), key=datetime.fromisoformat, default=made)


def conditions(states: Mapping[str, State], before: Mapping[str, Any], generation: int, now: str) -> list[Json]:
    """Give the conditions of which a state is known; lastTransitionTime moves only where the status does."""
    known = {c.get("type"): c for c in before.get("conditions") or []}
    written = []
    for kind in (kind for kind in CONDITIONS if kind in states):
        state, old = states[kind], known.get(kind, {})
        moved = old.get("status") != state.status or not old.get("lastTransitionTime")
        written.append(
            {
                "type": kind,
                "status": state.status,
                "observedGeneration": generation,
                "lastTransitionTime": now if moved else old["lastTransitionTime"],
                "reason": state.reason,
                "message": state.message[:MESSAGE_LENGTH],
            }
        )
    return written


def merge_patch(old: Mapping[str, Any], new: Mapping[str, Any]) -> Json:
    """Give the JSON merge patch from `old` to `new`: only what differs, null for what is gone; empty where equal."""
    patch: Json = {key: None for key in old if key not in new}
    for key, value in new.items():
        if isinstance(value, Mapping) and isinstance(old.get(key), Mapping):
            inner = merge_patch(old[key], value)
            if inner:
                patch[key] = inner
        elif old.get(key) != value:
            patch[key] = value
    return patch
