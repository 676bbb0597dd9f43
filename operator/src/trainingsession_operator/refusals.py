"""The status of a session that cannot be run as it is, or that cannot be read: pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from .observed import Decision, Observed
from .outlook import NOT_YET, Outlook, status_of, utc
from .resource import Session
from .status import (
    ACCEPTED,
    COMPLETE,
    FAILED,
    FINISHED,
    PODS_READY,
    RUNNING,
    SUSPENDED,
    Reason,
    State,
    condition_of,
    conditions,
)

LOOK_FAILED = (
    "The operator failed at this session ({}); its log has more. It tries again, and what is told here was so before."
)


def refuse(session: Session, end: State, now: datetime) -> Decision:
    """Refuse a session for which nothing was made yet. Its spec cannot change, so this is an end."""
    rest = replace(end, status="False")
    status = status_of(session, Observed(step=None), Outlook("Failed", rest, rest, end), now, accepted=rest)
    return Decision(status, look_again=None, has_record=False)


def unreadable(session: Session, message: str, now: datetime) -> Decision:
    """Tell that the spec is of another version; what may run by another operator's doing is not judged."""
    return _unknown(session, State("False", Reason.INVALID_SPEC, message), now)


def failed_look(session: Session, error: Exception, now: datetime) -> Decision:
    """Tell that the operator has a bug which this session meets; only the kind of error, whose words may be secret."""
    return _unknown(session, State("Unknown", Reason.LOOK_FAILED, LOOK_FAILED.format(type(error).__name__)), now)


def _unknown(session: Session, accepted: State, now: datetime) -> Decision:
    """Leave the status as it was but for what is said of the Job, of which nobody knows whether it is still so."""
    before, phase = session.status, session.status.get("phase")
    unknown, shown = State("Unknown", accepted.reason, accepted.message), (PODS_READY, RUNNING, SUSPENDED)
    states = dict.fromkeys((COMPLETE, FAILED, FINISHED), NOT_YET) | dict.fromkeys(shown, unknown)
    suspended = condition_of(before, SUSPENDED)
    if suspended.keys() >= {"reason", "message"}:
        # A wait for the start is counted from its last change.
        states[SUSPENDED] = State(suspended["status"], suspended["reason"], suspended["message"])
    told = {
        **{name: value for name, value in before.items() if name != "completionTime"},
        "observedGeneration": session.generation,
        "phase": phase if phase in ("Extracting", "Training", "Suspended") else "Pending",
        "conditions": conditions({**states, ACCEPTED: accepted}, before, session.generation, utc(now)),
    }
    return Decision(told)
