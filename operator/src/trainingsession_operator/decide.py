"""What to do next and what is so: pure. (session, what was observed, now) → actions, status, when to look again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from math import ceil
from typing import Any

from . import ends, limits, plan, queueing, record_view
from . import pods as pods_say
from .ends import end_time, has_ended, says
from .holding import LOOK_OUTSIDE, ending, left_behind, phase_before, stopping, suspended, waiting
from .jobs import FATAL_EXIT_CODES
from .missing import success
from .observed import (
    LOOK_AGAIN,
    LOOK_SOON,
    Action,
    CreateJob,
    Decision,
    DeleteJob,
    EndHelpers,
    EndJob,
    Observed,
    SetDeadline,
)
from .outlook import Outlook, status_of
from .resource import Session, age
from .status import Reason, State

LOOK_AT_QUEUE = 30.0
"""Kueue starts a Job by itself, and that wakes the operator; this is for its words and the place in the queue."""
LOOK_FOR_NODE = 30.0
"""Nothing wakes the operator when an autoscaler says what it does for a pod; its first words come within seconds."""
FIRST_WORDS = 60.0
"""Age of a pod up to which they are looked for so often."""
LOST_JOBS = 3
"""Times that a vanished Job is made again."""

JOB_IS_MADE = "The Job is made; its pod follows."
LAST_EXIT_CODES = (0, *FATAL_EXIT_CODES)


def decide(session: Session, observed: Observed, now: datetime, refused: State | None = None) -> Decision:
    """Decide on a session that has been accepted and is not at its end.

    `refused` is why no further Job may be made for it, the condition Failed that follows.
    """
    outlook = _outlook(session, observed, now, refused)
    accepted = replace(refused, status="False") if refused is not None and outlook.end is refused else None
    status = status_of(session, observed, outlook, now, accepted)
    return Decision(status, outlook.actions, None if outlook.end else outlook.look_again, outlook.chooses)


def _outlook(session: Session, observed: Observed, now: datetime, refused: State | None) -> Outlook:
    """Go through the cases from the most final to the least."""
    job, record, step = observed.job, observed.record, observed.step
    if record is not None and record_view.accuracy(record) is not None and (job is None or has_ended(job)):
        # Finished is finished, even if the Job was deleted or failed after the result was published.
        return _succeeded(observed)
    if observed.waits and (job is None or has_ended(job)):
        if session.suspend and job is None and not observed.orphans and all(map(ends.did_its_work, observed.earlier)):
            # It waits for its user, whatever else is away.
            return suspended()
        # Only the record can tell whether a Job that ended has published; until it can be read, nothing is claimed.
        unclear = waiting(observed.waits.reason, observed.waits.message, LOOK_OUTSIDE)
        return unclear if job is None else replace(unclear, phase=phase_before(session))
    if step is None:
        return _next(session, observed, plan.first(session, stored=observed.stored), refused, now)
    ended = pods_say.last_end(pods_say.first_workers(observed.pods), record or {})
    if job is None or has_ended(job):
        code = None if job is None else ends.exit_code(job, ended)
        extracted = record_view.extracted(record or {}) and (job is None or ends.did_its_work(job))
        following = plan.following(step, exit_code=code, extracted=extracted)
        if following is not None:
            return _next(session, observed, following, refused, now)
    over = _over_limit(session, observed, now)
    if job is None:
        return _without_job(session, observed, plan.step_name(session, step), refused or over, now)
    return _at_its_end(session, job, ended) if has_ended(job) else _before_its_end(session, observed, job, over, now)


def _next(session: Session, observed: Observed, step: plan.Step, refused: State | None, now: datetime) -> Outlook:
    if observed.orphans:
        return left_behind(session, observed.orphans[-1], now)
    if session.suspend:
        return suspended()
    return _choosing(step) if refused is None else _failed(refused, None)


def _at_its_end(session: Session, job: Mapping[str, Any], ended: pods_say.Ended | None) -> Outlook:
    if ends.did_its_work(job):
        text = (
            "The Job is complete, but the record holds no result; MongoDB may have been emptied. Create a new session."
        )
        return _failed(State("True", Reason.RESULT_MISSING, text), job)
    return _failed(ends.why_failed(session, job, ended), job)


def _before_its_end(
    session: Session, observed: Observed, job: Mapping[str, Any], over: State | None, now: datetime
) -> Outlook:
    lost = pods_say.on_lost_node(observed.pods, now)
    if job["metadata"].get("deletionTimestamp"):
        if session.suspend:
            return stopping(session, left=lost)
        return ending("The old Job is still ending; a new one follows.", lost)
    this = DeleteJob(job["metadata"]["name"], job["metadata"]["uid"])
    if session.suspend:
        return stopping(session, this, left=lost)
    if over is not None:
        # One that waits in a queue has no clock, and no logs to keep.
        action: Action = this if queueing.is_held(job) else EndJob(over.reason)
        return waiting(over.reason, over.message, LOOK_SOON, () if ends.is_ended_by_us(job) else (action,))
    if plan.is_outdated(session, job):
        text = "The session was changed while it was suspended; the old Job ends and a new one follows."
        return replace(waiting(Reason.JOB_TERMINATING, text, LOOK_SOON, (this,)), forgets_job=True)
    outlook = _with_job(session, observed, job, now)
    left = limits.pending_seconds_left(session, observed.pods, now)
    if left is not None and outlook.look_again is not None:
        outlook = replace(outlook, look_again=min(outlook.look_again, max(0.0, left) + 1.0))
    return replace(outlook, actions=(*_deadline(session, observed, job, now), *_end_helpers(job)))


def _choosing(step: plan.Step) -> Outlook:
    return waiting(Reason.JOB_CREATED, "It is decided where the session runs; its Job follows.", chooses=step)


def _over_limit(session: Session, observed: Observed, now: datetime) -> State | None:
    """Give why the session must not go on, by a limit that Kubernetes does not know."""
    left = limits.pending_seconds_left(session, observed.pods, now)
    if left is not None and left <= 0:
        return ends.pending_too_long(session)
    count = limits.disruptions(session, observed.job, observed.pods, observed.record or {}).count
    return ends.disrupted_too_often(session, count) if count > session.run_policy.max_disruptions else None


def _without_job(session: Session, observed: Observed, name: str, over: State | None, now: datetime) -> Outlook:
    for job in observed.earlier:
        if not ends.did_its_work(job):
            # What it holds must be free first; it is waited for until the API server does not know it any more.
            metadata = job["metadata"]
            going = () if metadata.get("deletionTimestamp") else (DeleteJob(metadata["name"], metadata["uid"]),)
            stuck = pods_say.on_lost_node(observed.orphans, now)
            if session.suspend:
                return stopping(session, *going, left=stuck)
            return ending(f"Job {metadata['name']} is still ending; {name} follows.", stuck, going)
    if observed.orphans:
        return left_behind(session, observed.orphans[-1], now)
    if session.suspend:
        return suspended()
    if over is not None:
        return _failed(over, None)
    if session.status.get("jobName") != name:
        return waiting(Reason.JOB_CREATED, JOB_IS_MADE, actions=(CreateJob(),))
    lost = record_view.whole((observed.record or {}).get("jobsLost")) or 0
    if lost < LOST_JOBS:
        text = f"The Job vanished before it published a result; it is made again ({lost + 1} of {LOST_JOBS})."
        return waiting(Reason.JOB_CREATED, text, actions=(CreateJob(lost=True),))
    text = (
        f"The Job vanished {lost + 1} times before it published a result; "
        "find out who deletes it, then create a new session."
    )
    return _failed(State("True", Reason.JOB_LOST, text), None)


def _with_job(session: Session, observed: Observed, job: Mapping[str, Any], now: datetime) -> Outlook:
    pods = pods_say.first_workers(observed.pods)
    alive = [pod for pod in pods if pods_say.is_alive(pod)]
    if not alive:
        return _no_pod(session, observed, job, pods_say.last_end(pods, observed.record or {}), now)
    pod = alive[-1]
    if pod["metadata"].get("deletionTimestamp"):
        going = pods_say.why_terminating(pod, now)
        return waiting(going.reason, going.message)
    if not pods_say.is_running(pod):
        if observed.mount:
            text = f"The node cannot mount a volume of the pod: {observed.mount}"
            return waiting(Reason.FAILED_MOUNT, text, LOOK_OUTSIDE)
        why = pods_say.why_waiting(pod, observed.remark)
        if why.reason in pods_say.STARTING and age(pod, now, LOOK_SOON) < LOOK_SOON:
            # Most pods run in a moment, and nobody has to be told twice.
            return waiting(Reason.JOB_CREATED, JOB_IS_MADE, LOOK_SOON)
        quiet = pods_say.has_no_node(pod) and not observed.remark and age(pod, now) < FIRST_WORDS
        return waiting(why.reason, why.message, LOOK_FOR_NODE if quiet else LOOK_AGAIN)
    record, before = observed.record, session.status.get("phase")
    # A record that another attempt wrote says nothing about this one; without a record, what was said before stays.
    stays = before if record is None and before == "Training" else "Extracting"
    mine = record is not None and record.get("attempt") == pod["metadata"]["uid"]
    return Outlook(
        phase=(record_view.phase(record) if record is not None and mine else None) or stays,
        progressed=mine,
        pods_ready=State("True", Reason.TRAINER_RUNNING, f"Pod {pod['metadata']['name']} runs."),
        running=State("True", Reason.TRAINER_RUNNING, f"Pod {pod['metadata']['name']} runs."),
    )


def _no_pod(
    session: Session, observed: Observed, job: Mapping[str, Any], ended: pods_say.Ended | None, now: datetime
) -> Outlook:
    if queueing.is_held(job):
        waits = queueing.quota(session, job, observed.queue, now)
        if waits is not None:
            return waiting(waits.reason, waits.message, LOOK_AT_QUEUE)
        return waiting(
            Reason.JOB_SUSPENDED,
            "Somebody suspended the Job; the session goes on when the Job's spec.suspend is false.",
        )
    if observed.denials and (ended is None or observed.denials[-1][0] >= ended.at):
        return waiting(Reason.PODS_DENIED, f"The API server refuses the pod: {observed.denials[-1][1]}")
    if ended is None:
        # Its pod wakes us; a denial of it does not.
        return waiting(Reason.JOB_CREATED, JOB_IS_MADE, min(LOOK_AGAIN, max(LOOK_SOON, age(job, now))))
    last = says(job, "SuccessCriteriaMet") or says(job, "FailureTarget") or ends.first_has_failed(job)
    if last or ended.exit_code in LAST_EXIT_CODES:
        # No attempt follows, and the Job says so in a moment; until then the phase stays what it was.
        state = State("False", Reason.TRAINER_ENDED, f"The trainer ended ({ended.how}).")
        return Outlook(phase_before(session), state, state, look_again=LOOK_SOON)
    text = f"The last attempt ended ({ended.how}); the next one follows. {ended.message}"
    return waiting(Reason.BACKING_OFF, text.strip())


def _deadline(session: Session, observed: Observed, job: Mapping[str, Any], now: datetime) -> tuple[Action, ...]:
    """Count the deadline from the first start of a trainer in any of the session's Jobs; every Job has its clock."""
    limit, began = session.run_policy.active_deadline_seconds, job.get("status", {}).get("startTime")
    known = session.status.get("startTime")
    started = datetime.fromisoformat(known) if known else pods_say.started_at(observed.pods, now)
    if limit is None or started is None or not began or job["spec"].get("activeDeadlineSeconds") is not None:
        return ()
    waited = (started - datetime.fromisoformat(began)).total_seconds()
    return (SetDeadline(max(1, limit + ceil(waited))),)


def _end_helpers(job: Mapping[str, Any]) -> tuple[Action, ...]:
    return (EndHelpers(),) if ends.first_has_failed(job) and job["spec"].get("maxFailedIndexes") != 0 else ()


def _succeeded(observed: Observed) -> Outlook:
    end = success(observed.record or {})
    over = State("False", end.reason, "The trainer is done.")
    return Outlook("Succeeded", over, over, end, succeeded=True, ended_at=end_time(observed.job))


def _failed(end: State, job: Mapping[str, Any] | None) -> Outlook:
    over = State("False", end.reason, "The session has failed.")
    return Outlook("Failed", over, over, end, ended_at=end_time(job))
