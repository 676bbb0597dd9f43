"""Whether, when and why a session's Job ended: pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from . import pods as pods_say
from .jobs import ENDED_ANNOTATION
from .resource import Session
from .status import PODS_READY, Reason, State, condition_of

OFTEN = ("BackoffLimitExceeded", "FailedIndexes", "MaxFailedIndexesExceeded")
"""Kubernetes' reasons for too many failed attempts, the last two of one of several workers."""
DEFAULT_BATCH = 32
EXIT_REASONS = {64: Reason.BAD_SPEC, 65: Reason.BAD_DATA, 76: Reason.ACCELERATOR_MISSING}


def says(job: Mapping[str, Any], kind: str) -> bool:
    """Whether the Job has that condition. Pods still run at FailureTarget and SuccessCriteriaMet: they are no ends."""
    found = job.get("status", {}).get("conditions") or []
    return any(c["type"] == kind and c["status"] == "True" for c in found)


def has_ended(job: Mapping[str, Any]) -> bool:
    """Whether the Job is at either end."""
    return says(job, "Complete") or says(job, "Failed")


def did_its_work(job: Mapping[str, Any]) -> bool:
    """Whether the Job has ended and its first worker with exit code 0.

    Kubernetes 1.34 looks at failed indexes before it looks at the success policy: where a helper has failed for good
    and all others are done, the Job is Failed.
    """
    return says(job, "Complete") or (says(job, "Failed") and _names_first(job, "completedIndexes"))


def first_has_failed(job: Mapping[str, Any]) -> bool:
    """Whether the first of several workers has failed for good, which ends nothing by itself."""
    return _names_first(job, "failedIndexes")


def exit_code(job: Mapping[str, Any], ended: pods_say.Ended | None) -> int | None:
    """Give the exit code of a failed Job's last attempt; where no pod is left, the Job's own words have it."""
    if not says(job, "Failed"):
        return None
    if ended is not None:
        return ended.exit_code
    messages = (str(c.get("message")) for c in job["status"]["conditions"] if c.get("reason") == "PodFailurePolicy")
    found = next((match for text in messages if (match := re.search(r"failed with exit code (\d+) ", text))), None)
    return int(found[1]) if found else None


def _names_first(job: Mapping[str, Any], field: str) -> bool:
    """Whether the list of indexes, such as "0,2-4", has the first; it is sorted."""
    return re.match(r"0(?:[,-]|$)", job.get("status", {}).get(field) or "") is not None


def end_time(job: Mapping[str, Any] | None) -> str | None:
    """When the Job ended, by the API server's clock."""
    status = (job or {}).get("status", {})
    failed = (c.get("lastTransitionTime") for c in status.get("conditions") or [] if c["type"] == "Failed")
    return status.get("completionTime") or next(failed, None)


def is_ended_by_us(job: Mapping[str, Any]) -> bool:
    """Whether the operator has asked for the Job's end."""
    return ENDED_ANNOTATION in (job["metadata"].get("annotations") or {})


def why_failed(session: Session, job: Mapping[str, Any], ended: pods_say.Ended | None) -> State:
    """Condition Failed of a session whose Job has failed; `ended` is its last attempt, where one is known."""
    condition = next(c for c in job["status"]["conditions"] if c["type"] == "Failed" and c["status"] == "True")
    by_us = (job["metadata"].get("annotations") or {}).get(ENDED_ANNOTATION)
    if by_us == Reason.PENDING_DEADLINE_EXCEEDED:
        return pending_too_long(session)
    if by_us == Reason.DISRUPTED_TOO_OFTEN:
        return disrupted_too_often(session, int(session.status.get("disruptions") or 0))
    words = str(condition.get("message") or condition.get("reason") or "")
    last = f" The last attempt: {ended.message} ({ended.how})." if ended and ended.message else ""
    seconds = session.run_policy.active_deadline_seconds
    if condition.get("reason") == "DeadlineExceeded" and seconds is not None:
        text = f"The session ran longer than runPolicy.activeDeadlineSeconds, {seconds} s; raise it in a new session."
        return State("True", Reason.DEADLINE_EXCEEDED, text)
    if ended and ended.reason:
        return State("True", ended.reason, f"{ended.message} ({ended.how})")
    if ended and ended.exit_code in EXIT_REASONS:
        return State("True", EXIT_REASONS[ended.exit_code], f"{ended.message} ({ended.how})".strip())
    if ended and ended.out_of_memory:
        size = int((session.spec.get("training") or {}).get("batchSize", DEFAULT_BATCH))
        text = (
            f"The trainer needed more than resources.memory, {session.resources.memory}, and was killed; "
            f"in a new session try {_twice(session.resources.memory)}, or training.batchSize {max(1, size // 2)} "
            f"instead of {size}."
        )
        return State("True", Reason.OUT_OF_MEMORY, text)
    if condition.get("reason") in OFTEN and (ended or condition["reason"] == "BackoffLimitExceeded"):
        limit = session.run_policy.backoff_limit
        text = f"More attempts failed than runPolicy.backoffLimit, {limit}, allows.{last or f' {words}'}"
        return State("True", Reason.BACKOFF_LIMIT_EXCEEDED, text)
    return State("True", Reason.JOB_FAILED, f"The Job failed: {words}{last}")


def pending_too_long(session: Session) -> State:
    """Condition Failed of a session whose trainer did not start in time, with what it waited for last."""
    limit = session.run_policy.pending_deadline_seconds
    text = f"The trainer did not start within runPolicy.pendingDeadlineSeconds, {limit} s."
    last = condition_of(session.status, PODS_READY)
    if last.get("reason") == Reason.PENDING_DEADLINE_EXCEEDED:
        return State("True", Reason.PENDING_DEADLINE_EXCEEDED, str(last["message"]))
    if last.get("message"):
        text += f" It waited for this: {last['message']}"
    return State("True", Reason.PENDING_DEADLINE_EXCEEDED, text)


def disrupted_too_often(session: Session, count: int) -> State:
    """Condition Failed of a session whose attempts were ended by others again and again."""
    text = (
        f"{count} attempts were disrupted, more than runPolicy.maxDisruptions, {session.run_policy.max_disruptions}, "
        "allows; find out what evicts them, or raise it in a new session."
    )
    last = (session.status.get("lastDisruption") or {}).get("message")
    return State("True", Reason.DISRUPTED_TOO_OFTEN, f"{text} The last: {last}" if last else text)


def _twice(quantity: str) -> str:
    """Give a quantity of memory that is twice as much."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(\D*)", quantity)
    return f"{float(found[1]) * 2:g}{found[2]}" if found else f"twice {quantity}"
