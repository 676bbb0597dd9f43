"""Whether, when and why a session's Job ended: pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import pods as pods_say
from .resource import Session
from .status import Reason, State

EXIT_REASONS = {64: Reason.BAD_SPEC, 65: Reason.BAD_DATA, 76: Reason.ACCELERATOR_MISSING}


def says(job: Mapping[str, Any], kind: str) -> bool:
    """Whether the Job has that condition. Pods still run at FailureTarget and SuccessCriteriaMet: they are no ends."""
    found = job.get("status", {}).get("conditions") or []
    return any(c["type"] == kind and c["status"] == "True" for c in found)


def has_ended(job: Mapping[str, Any]) -> bool:
    """Whether the Job is at either end."""
    return says(job, "Complete") or says(job, "Failed")


def end_time(job: Mapping[str, Any] | None) -> str | None:
    """When the Job ended, by the API server's clock."""
    status = (job or {}).get("status", {})
    failed = (c.get("lastTransitionTime") for c in status.get("conditions") or [] if c["type"] == "Failed")
    return status.get("completionTime") or next(failed, None)


def why_failed(session: Session, job: Mapping[str, Any], ended: pods_say.Ended | None) -> State:
    """Condition Failed of a session whose Job has failed; `ended` is its last attempt, where one is known."""
    condition = next(c for c in job["status"]["conditions"] if c["type"] == "Failed" and c["status"] == "True")
    words = str(condition.get("message") or condition.get("reason") or "")
    last = f" The last attempt: {ended.message} ({ended.how})." if ended and ended.message else ""
    if condition.get("reason") == "DeadlineExceeded":
        seconds = session.run_policy.active_deadline_seconds
        text = f"The session ran longer than runPolicy.activeDeadlineSeconds, {seconds} s; raise it in a new session."
        return State("True", Reason.DEADLINE_EXCEEDED, text)
    if ended and ended.exit_code in EXIT_REASONS:
        return State("True", EXIT_REASONS[ended.exit_code], f"{ended.message} ({ended.how})".strip())
    if ended and ended.out_of_memory:
        text = (
            f"The trainer needed more than resources.memory, {session.resources.memory}, and was killed; "
            "raise it, or lower training.batchSize or dataset.subset, in a new session."
        )
        return State("True", Reason.OUT_OF_MEMORY, text)
    if condition.get("reason") == "BackoffLimitExceeded":
        limit = session.run_policy.backoff_limit
        text = f"More attempts failed than runPolicy.backoffLimit, {limit}, allows.{last or f' {words}'}"
        return State("True", Reason.BACKOFF_LIMIT_EXCEEDED, text)
    return State("True", Reason.JOB_FAILED, f"The Job failed: {words}{last}")
