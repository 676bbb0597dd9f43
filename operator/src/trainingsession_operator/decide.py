"""What to do next and what is so: pure. (session, what was observed, now) → actions, status, when to look again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from math import ceil
from typing import Any

from . import pods as pods_say
from . import record_view
from .ends import end_time, has_ended, says, why_failed
from .jobs import FATAL_EXIT_CODES
from .resource import Json, Session
from .status import (
    ACCEPTED,
    COMPLETE,
    FAILED,
    FINISHED,
    PODS_READY,
    RUNNING,
    Reason,
    State,
    conditions,
)

LOOK_AGAIN = 60.0
"""Seconds after which every session that is not at its end is looked at without being asked."""
LOOK_SOON = 2.0
LOST_JOBS = 3
"""Times that a vanished Job is made again."""
PERCENT_STEP = 10
"""Ten writes while extracting and ten while training, and what changes besides: fewer than 30 for a session."""
DEFAULT_EPOCHS = 20

LAST_EXIT_CODES = (0, *FATAL_EXIT_CODES)


@dataclass(frozen=True)
class CreateJob:
    """Make the session's Job; `lost` says that one was there before."""

    lost: bool = False


@dataclass(frozen=True)
class SetDeadline:
    """Let the Job end so many seconds after its own start."""

    seconds: int


Action = CreateJob | SetDeadline


@dataclass(frozen=True)
class Observed:
    """What is there, read live. `record` is None where storage is away, and `waits` then says why."""

    job: Mapping[str, Any] | None = None
    pods: tuple[Mapping[str, Any], ...] = ()
    denials: tuple[tuple[str, str], ...] = ()
    """When and with which words the API server refused a pod, the newest last."""
    record: Mapping[str, Any] | None = None
    waits: State | None = None
    progress_due: bool = True


@dataclass(frozen=True)
class Decision:
    """What to do, the whole status, and the seconds until the next look (None: when something happens)."""

    status: Json
    actions: tuple[Action, ...] = ()
    look_again: float | None = LOOK_AGAIN


@dataclass(frozen=True)
class _Outlook:
    """The part of a status on which the cases differ."""

    phase: str
    pods_ready: State
    running: State
    end: State | None = None
    succeeded: bool = False
    progressed: bool = True
    """Whether the record's progress is that of the attempt that runs."""
    ended_at: str | None = None
    actions: tuple[Action, ...] = field(default=())
    look_again: float | None = LOOK_AGAIN


def decide(session: Session, observed: Observed, now: datetime) -> Decision:
    """Decide on a session that has been accepted and is not at its end."""
    outlook = _outlook(session, observed)
    status = _status(session, observed, outlook, _time(now))
    return Decision(status, outlook.actions, None if outlook.end else outlook.look_again)


def refuse(session: Session, reason: str, message: str, now: datetime) -> Decision:
    """Refuse a session that cannot be run as it is. Its spec cannot change, so this is an end."""
    end = State("True", reason, message)
    outlook = _Outlook("Failed", State("False", reason, message), State("False", reason, message), end)
    status = _status(session, Observed(), outlook, _time(now), accepted=State("False", reason, message))
    return Decision(status, look_again=None)


def _outlook(session: Session, observed: Observed) -> _Outlook:
    """Go through the cases from the most final to the least."""
    job, record = observed.job, observed.record
    if record is not None and record_view.accuracy(record) is not None and (job is None or has_ended(job)):
        # Finished is finished, even if the Job was deleted or failed after the result was published.
        return _succeeded(observed)
    if observed.waits and (job is None or has_ended(job)):
        # Only the record can tell whether a Job that ended has published; until it can be read, nothing is claimed.
        return _waiting(observed.waits.reason, observed.waits.message)
    if job is None:
        return _without_job(session, record or {})
    if job["metadata"].get("deletionTimestamp"):
        return _waiting(Reason.JOB_TERMINATING, "The old Job is still ending; a new one follows.", LOOK_SOON)
    if says(job, "Complete"):
        text = (
            "The Job is complete, but the record holds no result; MongoDB may have been emptied. Create a new session."
        )
        return _failed(State("True", Reason.RESULT_MISSING, text), job)
    if says(job, "Failed"):
        return _failed(why_failed(session, job, pods_say.last_end(observed.pods, record or {})), job)
    return _with_job(session, observed, job)


def _without_job(session: Session, record: Mapping[str, Any]) -> _Outlook:
    if not session.status.get("jobName"):
        return _waiting(Reason.JOB_CREATED, "The Job is made; its pod follows.", actions=(CreateJob(),))
    lost = record_view.whole(record.get("jobsLost")) or 0
    if lost < LOST_JOBS:
        text = f"The Job vanished before it published a result; it is made again ({lost + 1} of {LOST_JOBS})."
        return _waiting(Reason.JOB_CREATED, text, actions=(CreateJob(lost=True),))
    text = (
        f"The Job vanished {lost + 1} times before it published a result; "
        "find out who deletes it, then create a new session."
    )
    return _failed(State("True", Reason.JOB_LOST, text), None)


def _with_job(session: Session, observed: Observed, job: Mapping[str, Any]) -> _Outlook:
    alive = [pod for pod in observed.pods if pods_say.is_alive(pod)]
    if not alive:
        return _no_pod(session, observed, job)
    pod = alive[-1]
    if pod["metadata"].get("deletionTimestamp"):
        name, node = pod["metadata"]["name"], pod.get("spec", {}).get("nodeName", "")
        text = f"Pod {name} is being deleted; the next attempt follows when it has ended."
        if node:
            text += f" If node {node} is gone for good, remove it: kubectl delete node {node}."
        return _waiting(Reason.POD_TERMINATING, text)
    if not pods_say.is_running(pod):
        waiting = pods_say.why_waiting(pod)
        return _waiting(waiting.reason, waiting.message)
    record, before = observed.record, session.status.get("phase")
    # A record that another attempt wrote says nothing about this one; without a record, what was said before stays.
    stays = before if record is None and before == "Training" else "Extracting"
    mine = record is not None and record.get("attempt") == pod["metadata"]["uid"]
    started = pods_say.started_at(observed.pods)
    return _Outlook(
        phase=(record_view.phase(record) if record is not None and mine else None) or stays,
        progressed=mine,
        pods_ready=State("True", Reason.TRAINER_RUNNING, f"Pod {pod['metadata']['name']} runs."),
        running=State("True", Reason.TRAINER_RUNNING, f"Pod {pod['metadata']['name']} runs."),
        actions=_deadline(session, job, started),
    )


def _no_pod(session: Session, observed: Observed, job: Mapping[str, Any]) -> _Outlook:
    ended = pods_say.last_end(observed.pods, observed.record or {})
    if job["spec"].get("suspend"):
        return _waiting(
            Reason.JOB_SUSPENDED, "The Job is suspended; the session goes on when its spec.suspend is false."
        )
    if observed.denials and (ended is None or observed.denials[-1][0] >= ended.at):
        return _waiting(Reason.PODS_DENIED, f"The API server refuses the pod: {observed.denials[-1][1]}")
    if ended is None:
        return _waiting(Reason.JOB_CREATED, "The Job is made; its pod follows.", LOOK_SOON)
    if ended.exit_code in LAST_EXIT_CODES or says(job, "SuccessCriteriaMet") or says(job, "FailureTarget"):
        # No attempt follows, and the Job says so in a moment; until then the phase stays what it was.
        state = State("False", Reason.TRAINER_ENDED, f"The trainer ended ({ended.how}).")
        return _Outlook(session.status.get("phase") or "Pending", state, state, look_again=LOOK_SOON)
    text = f"The last attempt ended ({ended.how}); the next one follows. {ended.message}"
    return _waiting(Reason.BACKING_OFF, text.strip())


def _deadline(session: Session, job: Mapping[str, Any], started: str | None) -> tuple[Action, ...]:
    """Count the deadline from the first start of a trainer: the Job's own clock began when the Job was made."""
    limit, began = session.run_policy.active_deadline_seconds, job.get("status", {}).get("startTime")
    if limit is None or not started or not began or job["spec"].get("activeDeadlineSeconds") is not None:
        return ()
    waited = (datetime.fromisoformat(started) - datetime.fromisoformat(began)).total_seconds()
    return (SetDeadline(limit + max(0, ceil(waited))),)


def _waiting(reason: str, message: str, look_again: float = LOOK_AGAIN, actions: tuple[Action, ...] = ()) -> _Outlook:
    text = record_view.text(message, record_view.MESSAGE_LENGTH) or reason
    state = State("False", reason, text)
    return _Outlook("Pending", state, State("False", Reason.NOT_RUNNING, text), actions=actions, look_again=look_again)


def _succeeded(observed: Observed) -> _Outlook:
    record, job = observed.record or {}, observed.job
    count = len(record_view.artifacts(record))
    text = f"Accuracy {record_view.accuracy(record)}; {count} artifacts are in GridFS."
    over = State("False", Reason.SUCCEEDED, "The trainer is done.")
    end = State("True", Reason.SUCCEEDED, text)
    return _Outlook("Succeeded", over, over, end, succeeded=True, ended_at=end_time(job))


def _failed(end: State, job: Mapping[str, Any] | None) -> _Outlook:
    over = State("False", end.reason, "The session has failed.")
    return _Outlook("Failed", over, over, end, ended_at=end_time(job))


def _status(session: Session, observed: Observed, outlook: _Outlook, now: str, accepted: State | None = None) -> Json:
    """Compute the whole status; what is not known now stays as it was."""
    record, before, end = observed.record or {}, session.status, outlook.end
    not_yet = State("False", Reason.NOT_FINISHED, "The session is not at its end.")
    states = {
        ACCEPTED: accepted or State("True", Reason.ACCEPTED, "The spec is accepted."),
        PODS_READY: outlook.pods_ready,
        RUNNING: outlook.running,
        COMPLETE: end if end and outlook.succeeded else (State("False", end.reason, end.message) if end else not_yet),
        FAILED: end if end and not outlook.succeeded else (State("False", end.reason, end.message) if end else not_yet),
        FINISHED: end or not_yet,
    }
    job = observed.job
    values: Json = {
        "observedGeneration": session.generation,
        "phase": outlook.phase,
        "conditions": conditions(states, before, session.generation, now),
        "startTime": before.get("startTime") or _utc(pods_say.started_at(observed.pods)),
        "completionTime": (_utc(outlook.ended_at) or before.get("completionTime") or now) if end else None,
        "jobName": job["metadata"]["name"] if job is not None else before.get("jobName"),
        "attempts": _attempts(observed, before),
        "progress": _progress(session, observed, outlook),
        "samples": record_view.samples(record) or before.get("samples"),
        "features": record_view.features(record) or before.get("features"),
        "trainer": record_view.trainer(record) or before.get("trainer"),
    }
    if outlook.succeeded:
        values["accuracy"] = record_view.accuracy(record)
        values["metrics"] = record_view.metrics(record)
        values["artifacts"] = record_view.artifacts(record)
    return {key: value for key, value in values.items() if value is not None and value != {}}


def _attempts(observed: Observed, before: Mapping[str, Any]) -> int | None:
    """Count the trainer pods; never less than was said before."""
    counts = (observed.job or {}).get("status", {})
    now = sum(int(counts.get(kind) or 0) for kind in ("active", "succeeded", "failed"))
    return max(now, len(observed.pods), int(before.get("attempts") or 0)) or None


def _progress(session: Session, observed: Observed, outlook: _Outlook) -> Any:
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
