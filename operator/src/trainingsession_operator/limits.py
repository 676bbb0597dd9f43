"""How often a session may be disrupted, how long it may wait for its start, and what it has used: pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from . import pods as pods_say
from .jobs import DISRUPTIONS_ANNOTATION, GPU_SECONDS_ANNOTATION, PATIENT_EXIT_CODES
from .queueing import is_held
from .resource import Json, Session
from .status import SUSPENDED, condition_of

MESSAGE_LENGTH = 1024


@dataclass(frozen=True)
class Disruptions:
    """Attempts that ended without a fault of their own so far, and the last of them as the status tells it."""

    count: int
    last: Json | None


def disruptions(
    session: Session, job: Mapping[str, Any] | None, pods: Sequence[Mapping[str, Any]], record: Mapping[str, Any]
) -> Disruptions:
    """Count on from what the status says. Attempts follow each other, so each is newer than the one before it."""
    known = Disruptions(int(session.status.get("disruptions") or 0), session.status.get("lastDisruption"))
    if job is None or job["metadata"].get("deletionTimestamp") or session.suspend or is_held(job):
        # The operator or the queue stops it, and asked for it.
        return known
    last = str((known.last or {}).get("created", ""))
    fresh = [pod for pod in pods_say.first_workers(pods) if _created(pod) > last and _is_disrupted(pod)]
    if not fresh:
        return known
    newest = fresh[-1]
    ended = pods_say.last_end([newest], record)
    words = _why_disrupted(newest) or (f"{ended.message} ({ended.how})".strip() if ended else "")
    told = {"pod": newest["metadata"]["name"], "created": _created(newest), "message": words[:MESSAGE_LENGTH]}
    return Disruptions(known.count + len(fresh), {key: value for key, value in told.items() if value})


def vanished(now: Disruptions, job: Mapping[str, Any], pods: Sequence[Mapping[str, Any]]) -> int:
    """Count the Job's attempts that were disrupted and of which no pod is left."""
    annotations = job.get("metadata", {}).get("annotations") or {}
    earlier = str(annotations.get(DISRUPTIONS_ANNOTATION, ""))[:9]
    in_job = now.count - (int(earlier) if earlier.isdecimal() else 0)
    return max(0, in_job - sum(map(_is_disrupted, pods_say.first_workers(pods)))) if job else 0


def pending_seconds_left(session: Session, pods: Sequence[Mapping[str, Any]], now: datetime) -> float | None:
    """Give the seconds until the trainer must have started; None where nothing is asked for, or it did start."""
    limit = session.run_policy.pending_deadline_seconds
    if limit is None or session.status.get("startTime") or pods_say.started_at(pods, now):
        return None
    suspended = condition_of(session.status, SUSPENDED)
    if suspended.get("status") == "True":
        # It goes on just now.
        return float(limit)
    since = suspended.get("lastTransitionTime") or session.created_at
    return limit - (now - datetime.fromisoformat(since)).total_seconds() if since else None


def gpu_seconds(
    session: Session, job: Mapping[str, Any] | None, pods: Sequence[Mapping[str, Any]], now: datetime
) -> tuple[int, datetime] | None:
    """GPU-seconds so far, and until when they are counted; None where there are none.

    What the status says is counted on from its time, so that pods that are gone since then stay in it.
    """
    now = now.replace(microsecond=0)
    known, until = session.status.get("gpuSeconds"), session.status.get("gpuSecondsUntil")
    since = datetime.fromisoformat(until) if known and until else None
    used = 0.0
    for pod in pods:
        times = pods_say.ran(pod, now)
        if times is not None:
            began, ended = times if since is None else (max(times[0], since), times[1])
            used += max(0.0, (ended - began).total_seconds()) * _gpus(pod, session.resources.gpu_resource_name)
    if since is not None:
        total = int(known or 0) + round(used)
    else:
        annotations = (job or {}).get("metadata", {}).get("annotations") or {}
        earlier = str(annotations.get(GPU_SECONDS_ANNOTATION, ""))[:12]
        total = max(round(used) + (int(earlier) if earlier.isdecimal() else 0), int(known or 0))
    return (total, now) if total else None


def _gpus(pod: Mapping[str, Any], name: str) -> int:
    containers = pod.get("spec", {}).get("containers") or [{}]
    resources = containers[0].get("resources", {})
    asked = str((resources.get("limits") or {}).get(name, "0"))
    # How many devices a claim holds only its template knows; one is what nearly all ask for.
    return (int(asked) if asked.isdecimal() else 0) + len(resources.get("claims") or [])


def _created(pod: Mapping[str, Any]) -> str:
    return str(pod["metadata"].get("creationTimestamp") or "")


def _is_disrupted(pod: Mapping[str, Any]) -> bool:
    terminated = pods_say.container_state(pod).get("terminated") or {}
    return bool(_why_disrupted(pod)) or terminated.get("exitCode") in PATIENT_EXIT_CODES


def _why_disrupted(pod: Mapping[str, Any]) -> str:
    for condition in pod.get("status", {}).get("conditions") or []:
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            return str(condition.get("message") or condition.get("reason") or "disrupted")
    return ""
