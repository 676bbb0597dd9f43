"""From what was found about a session to its whole status: pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from . import plan, record_view
from . import pods as pods_say
from .jobs import ATTEMPTS_ANNOTATION
from .observed import LOOK_AGAIN, Action, Observed
from .resource import Json, Session
from .status import ACCEPTED, COMPLETE, FAILED, FINISHED, PODS_READY, RUNNING, Reason, State, conditions

PERCENT_STEP = 10
"""Ten writes while extracting and ten while training, and what changes besides: fewer than 30 for a session."""
DEFAULT_EPOCHS = 20


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


def status_of(
    session: Session, observed: Observed, outlook: Outlook, at: datetime, accepted: State | None = None
) -> Json:
    """Compute the whole status; what is not known now stays as it was."""
    record, before, end, now = observed.record or {}, session.status, outlook.end, _time(at)
    not_yet = State("False", Reason.NOT_FINISHED, "The session is not at its end.")
    states = {
        ACCEPTED: accepted or State("True", Reason.ACCEPTED, "The spec is accepted."),
        PODS_READY: outlook.pods_ready,
        RUNNING: outlook.running,
        COMPLETE: end if end and outlook.succeeded else (State("False", end.reason, end.message) if end else not_yet),
        FAILED: end if end and not outlook.succeeded else (State("False", end.reason, end.message) if end else not_yet),
        FINISHED: end or not_yet,
    }
    job, step = observed.job, outlook.chooses or observed.step
    values: Json = {
        "observedGeneration": session.generation,
        "phase": outlook.phase,
        "conditions": conditions(states, before, session.generation, now),
        "startTime": before.get("startTime") or _utc(pods_say.started_at(observed.pods)),
        "completionTime": (_utc(outlook.ended_at) or before.get("completionTime") or now) if end else None,
        "placement": plan.placement(session, step) if step else None,
        "jobName": job["metadata"]["name"] if job is not None else before.get("jobName"),
        "attempts": _attempts(observed, before),
        "progress": _progress(session, observed, outlook),
        "samples": record_view.samples(record) or before.get("samples"),
        "features": record_view.features(record) or before.get("features"),
        "trainer": record_view.trainer(record) or before.get("trainer"),
    }
    if not end:
        # Measured, and shown while the artifacts are built; without the record, what was said before stays.
        known = observed.record is not None
        values["accuracy"] = record_view.measured_accuracy(record) if known else before.get("accuracy")
    if outlook.succeeded:
        values["accuracy"] = record_view.accuracy(record)
        values["metrics"] = record_view.metrics(record)
        values["artifacts"] = record_view.artifacts(record)
    return {key: value for key, value in values.items() if value is not None and value != {}}


def _attempts(observed: Observed, before: Mapping[str, Any]) -> int | None:
    """Count the trainer pods of this Job and of those before it; never less than was said before."""
    job: Mapping[str, Any] = observed.job or {}
    counts, annotations = job.get("status", {}), job.get("metadata", {}).get("annotations") or {}
    earlier = str(annotations.get(ATTEMPTS_ANNOTATION, ""))[:9]
    now = sum(int(counts.get(kind) or 0) for kind in ("active", "succeeded", "failed"))
    now = max(now, len(observed.pods)) + (int(earlier) if earlier.isdecimal() else 0)
    return max(now, int(before.get("attempts") or 0)) or None


def _progress(session: Session, observed: Observed, outlook: Outlook) -> Any:
    """Give the progress: news where it is due, at a change of phase and at the end; else what was said before."""
    before = session.status.get("progress")
    if observed.record is None:
        return before
    if not outlook.progressed:
        return None
    new = record_view.progress(observed.record, session.spec.get("training", {}).get("epochs", DEFAULT_EPOCHS))
    moved = abs(new.get("percent", 0) - (before or {}).get("percent", -PERCENT_STEP)) >= PERCENT_STEP
    fresh = outlook.end is not None or session.status.get("phase") != outlook.phase
    return new if fresh or (observed.progress_due and moved) else before


def _time(now: datetime) -> str:
    return now.isoformat(timespec="seconds").replace("+00:00", "Z")


def _utc(time: str | None) -> str | None:
    """Write a time as Kubernetes does."""
    return time.replace("+00:00", "Z") if time else None
