"""From what was found about a session to its whole status: pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from . import jobs, limits, plan, queueing, record_view
from . import pods as pods_say
from .ends import has_ended
from .observed import LOOK_AGAIN, Action, Observed
from .resource import Json, Session
from .status import (
    ACCEPTED,
    COMPLETE,
    FAILED,
    FINISHED,
    PODS_READY,
    QUOTA_RESERVED,
    RUNNING,
    SUSPENDED,
    Reason,
    State,
    condition_of,
    conditions,
)

PERCENT_STEP = 10
"""Ten writes while extracting and ten while training, and what changes besides: fewer than 30 for a session."""
DEFAULT_EPOCHS = 20
NOT_YET = State("False", Reason.NOT_FINISHED, "The session is not at its end.")
NOT_SUSPENDED = State("False", Reason.NOT_SUSPENDED, "spec.suspend is false.")
NOT_HELD = State("False", Reason.NOT_SUSPENDED, "spec.suspend is true, and the session has not been suspended.")
GPU_FIELDS = ("gpuSeconds", "gpuSecondsUntil")
PULL_FAILED, PULL_WAITS = "ErrImagePull", "ImagePullBackOff"


@dataclass(frozen=True)
class Outlook:
    """The part of a status on which the cases differ."""

    phase: str
    pods_ready: State
    running: State
    end: State | None = None
    succeeded: bool = False
    progressed: bool = True
    """Whether the record's progress is that of the attempt that runs."""
    ended_at: str | None = None
    actions: tuple[Action, ...] = ()
    look_again: float | None = LOOK_AGAIN
    chooses: plan.Step | None = None
    forgets_job: bool = False
    """Whether the Job is meant to be gone: else it would count as lost when it is."""
    suspended: State = NOT_SUSPENDED


def status_of(
    session: Session, observed: Observed, outlook: Outlook, at: datetime, accepted: State | None = None
) -> Json:
    """Compute the whole status; what is not known now stays as it was."""
    record, before, end, now = observed.record or {}, session.status, outlook.end, utc(at)
    ready = _settled(before, outlook.pods_ready)
    states = {
        ACCEPTED: accepted or State("True", Reason.ACCEPTED, "The spec is accepted."),
        PODS_READY: ready,
        RUNNING: replace(outlook.running, message=ready.message) if ready != outlook.pods_ready else outlook.running,
        SUSPENDED: _suspension(session, outlook),
        COMPLETE: end if end and outlook.succeeded else (State("False", end.reason, end.message) if end else NOT_YET),
        FAILED: end if end and not outlook.succeeded else (State("False", end.reason, end.message) if end else NOT_YET),
        FINISHED: end or NOT_YET,
    }
    quota = queueing.quota(session, observed.job, observed.queue, at)
    if quota is not None and not end and outlook.phase != "Suspended":
        states[QUOTA_RESERVED] = quota
    job, step = observed.job, outlook.chooses or observed.step
    disruptions = limits.disruptions(session, job, observed.pods, record)
    news, started = _is_news(session, observed, outlook), pods_say.started_at(observed.pods, at)
    values: Json = {
        "observedGeneration": session.generation,
        "phase": outlook.phase,
        "conditions": conditions(states, before, session.generation, now),
        "startTime": before.get("startTime") or (utc(started) if started is not None else None),
        "disruptions": disruptions.count or None,
        "lastDisruption": disruptions.last,
        **_gpu_seconds(session, observed, at, news),
        "headFrom": record_view.head_from(record) or before.get("headFrom"),
        "reusedFrom": record_view.reused_from(record) or before.get("reusedFrom"),
        "completionTime": (_utc(outlook.ended_at) or before.get("completionTime") or now) if end else None,
        "placement": plan.placement(session, step) if step else None,
        "jobName": _job_name(outlook, job, before),
        "attempts": _attempts(observed, before, disruptions),
        "progress": _progress(session, observed, outlook, news),
        "samples": record_view.samples(record) or before.get("samples"),
        "features": record_view.features(record) or before.get("features"),
        "warnings": (record_view.warnings(record) or None) if observed.record is not None else before.get("warnings"),
        "tracking": record_view.tracking(record) or before.get("tracking"),
        "trainer": _trainer(record, job, before),
    }
    if outlook.phase == "Suspended":
        # As in a Job: what is counted from the start is counted anew.
        del values["startTime"]
    if not end:
        # Measured, and shown while the artifacts are built; without the record, what was said before stays.
        known = observed.record is not None
        values["accuracy"] = record_view.measured_accuracy(record) if known else before.get("accuracy")
    if outlook.succeeded:
        values["accuracy"] = record_view.accuracy(record)
        values["metrics"] = record_view.metrics(record)
        values["artifacts"] = record_view.artifacts(record)
        values |= record_view.evaluation(record)
    return {key: value for key, value in values.items() if value is not None and value != {}}


def _suspension(session: Session, outlook: Outlook) -> State:
    said = outlook.suspended if outlook.end is None else NOT_SUSPENDED
    return NOT_HELD if said is NOT_SUSPENDED and session.suspend else said


def _attempts(observed: Observed, before: Mapping[str, Any], disruptions: limits.Disruptions) -> int | None:
    """Count the trainer pods of this Job and of those before it; never less than was said before."""
    job: Mapping[str, Any] = observed.job or {}
    counts, annotations = job.get("status", {}), job.get("metadata", {}).get("annotations") or {}
    earlier = str(annotations.get(jobs.ATTEMPTS_ANNOTATION, ""))[:9]
    now = sum(int(counts.get(kind) or 0) for kind in ("active", "succeeded", "failed"))
    now = max(now, len(observed.pods)) + (int(earlier) if earlier.isdecimal() else 0)
    # A pod that was drained leaves neither itself nor a count in the Job.
    now += limits.vanished(disruptions, job, observed.pods)
    return max(now, int(before.get("attempts") or 0)) or None


def _gpu_seconds(session: Session, observed: Observed, now: datetime, news: bool) -> Json:
    if not news:
        return {name: session.status.get(name) for name in GPU_FIELDS}
    counted = limits.gpu_seconds(session, observed.job, (*observed.pods, *observed.orphans), now)
    return dict(zip(GPU_FIELDS, (counted[0], utc(counted[1])), strict=True)) if counted is not None else {}


def _is_news(session: Session, observed: Observed, outlook: Outlook) -> bool:
    """Whether figures that change all the time are written: where it is due, at a change of phase and at the end.

    And where something is done about the Job: it may be gone at the next look, with its pods and their times.
    """
    if outlook.end is not None or outlook.actions or session.status.get("phase") != outlook.phase:
        return True
    new, before = _new_progress(session, observed), session.status.get("progress") or {}
    moved = abs(new.get("percent", 0) - before.get("percent", -PERCENT_STEP)) >= PERCENT_STEP
    return observed.progress_due and moved and outlook.progressed


def _progress(session: Session, observed: Observed, outlook: Outlook, news: bool) -> Any:
    if observed.record is None or outlook.phase == "Suspended":
        return session.status.get("progress")
    if not outlook.progressed:
        return None
    return _new_progress(session, observed) if news else session.status.get("progress")


def _new_progress(session: Session, observed: Observed) -> Json:
    training = session.spec.get("training", {})
    epochs = training.get("epochs", DEFAULT_EPOCHS) * (training.get("repeats") or 1)
    return record_view.progress(observed.record or {}, epochs)


def _job_name(outlook: Outlook, job: Mapping[str, Any] | None, before: Mapping[str, Any]) -> Any:
    if outlook.forgets_job:
        return None
    # One that is being deleted is named only if it was: a Job that was given up must not count as lost.
    there = job is not None and (not job["metadata"].get("deletionTimestamp") or has_ended(job))
    return job["metadata"]["name"] if job is not None and there else before.get("jobName")


def _trainer(record: Mapping[str, Any], job: Mapping[str, Any] | None, before: Mapping[str, Any]) -> Any:
    """Give what ran: versions as the trainer tells them, the image as it stands in the Job, never in the record."""
    known = before.get("trainer") or {}
    versions = record_view.versions(record) or known.get("versions")
    image = jobs.image_of(job) if job is not None else known.get("image")
    return {"image": image, "versions": versions} if image and versions else known


def _settled(before: Mapping[str, Any], now: State) -> State:
    """Keep the puller's words until it has others: it goes to and fro between trying and waiting."""
    old = condition_of(before, PODS_READY)
    if old.get("reason") not in (PULL_FAILED, PULL_WAITS) or old.get("status") != now.status:
        return now
    same = now.reason == PULL_FAILED and _without_numbers(now.message) == _without_numbers(str(old.get("message")))
    return State(now.status, str(old["reason"]), str(old["message"])) if same or now.reason == PULL_WAITS else now


def _without_numbers(words: str) -> str:
    """Leave out ports, times and IDs, which differ from one try to the next."""
    return re.sub(r"\w*\d\w*", "", words)


def utc(now: datetime) -> str:
    """Write a time as Kubernetes does."""
    return now.isoformat(timespec="seconds").replace("+00:00", "Z")


def _utc(time: str | None) -> str | None:
    """Write a time as Kubernetes does."""
    return time.replace("+00:00", "Z") if time else None
