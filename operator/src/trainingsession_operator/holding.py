"""How a session that waits, is suspended or is being suspended looks: pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from . import plan, record_view
from . import pods as pods_say
from .observed import LOOK_AGAIN, LOOK_SOON, Action
from .outlook import Outlook
from .resource import Session
from .status import Reason, State

LOOK_OUTSIDE = 60.0
"""When a quota is raised or a policy mended, nothing wakes the operator."""


def waiting(
    reason: str,
    message: str,
    look_again: float = LOOK_AGAIN,
    actions: tuple[Action, ...] = (),
    chooses: plan.Step | None = None,
) -> Outlook:
    """Give what is so while nothing runs: why, and what is done about it."""
    text = record_view.text(message, record_view.MESSAGE_LENGTH) or reason
    state, running = State("False", reason, text), State("False", Reason.NOT_RUNNING, text)
    return Outlook("Pending", state, running, actions=actions, look_again=look_again, chooses=chooses)


def suspended() -> Outlook:
    """Give what is so while the session holds nothing, as its user wants it."""
    text = "The session is suspended and holds nothing; it goes on where it was when spec.suspend is false."
    state = State("False", Reason.SUSPENDED, text)
    return Outlook("Suspended", state, state, suspended=State("True", Reason.SUSPENDED, text), forgets_job=True)


def stopping(session: Session, *actions: Action, left: pods_say.Waiting | None = None) -> Outlook:
    """Give what is so until the session holds nothing; `left` is what holds that up, where it is not its Job."""
    text = left.message if left else "The session is being suspended: the trainer saves its state, and its Job ends."
    state, phase = State("False", Reason.SUSPENDING, text), phase_before(session)
    ready = State("False", left.reason, text) if left else state
    look_again = LOOK_OUTSIDE if left else LOOK_SOON
    return Outlook(phase, ready, ready, suspended=state, actions=actions, look_again=look_again, forgets_job=True)


def ending(text: str, lost: pods_say.Waiting | None, actions: tuple[Action, ...] = ()) -> Outlook:
    """Wait for a Job that is being deleted; `lost` is the pod that keeps it there until somebody removes its node."""
    if lost is not None:
        return waiting(lost.reason, lost.message, LOOK_OUTSIDE, actions)
    return waiting(Reason.JOB_TERMINATING, text, LOOK_SOON, actions)


def left_behind(session: Session, pod: Mapping[str, Any], now: datetime) -> Outlook:
    """Wait for a pod that has outlived its Job: another one would train beside it."""
    left = pods_say.why_left(pod, now)
    return stopping(session, left=left) if session.suspend else waiting(left.reason, left.message, LOOK_OUTSIDE)


def phase_before(session: Session) -> str:
    """Give the phase that stays for a moment; one that a hand wrote into the status must not be an end."""
    before = session.status.get("phase")
    return before if before in ("Extracting", "Training") else "Pending"
