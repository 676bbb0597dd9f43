"""What Kueue says about a session that waits in a queue: pure.

The Job of such a session is created suspended. Kueue makes a Workload for it, and starts and stops the Job as the queue
has quota; being stopped so is no failure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .resource import Session, age
from .status import Reason, State

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"
PATIENCE_SECONDS = 60.0
"""Kueue makes the Workload of a Job within a second; after this time nobody will."""


@dataclass(frozen=True)
class Queue:
    """What was found in Kueue's API."""

    installed: bool = True
    workload: Mapping[str, Any] | None = None
    """That of the Job."""
    holds_session: bool = False
    """Whether there is a Workload for the session itself, so that its Jobs are left alone."""
    position: int | None = None
    """Place in the queue, from 0; None where Kueue does not tell."""


NOT_LOOKED_AT = Queue()


def labels(session: Session) -> dict[str, str]:
    """Give the labels by which Kueue knows the session's Job; none without a queue."""
    queue, priority = session.scheduling.queue_name, session.scheduling.workload_priority_class_name
    return ({QUEUE_LABEL: queue} if queue else {}) | ({PRIORITY_LABEL: priority} if queue and priority else {})


def is_held(job: Mapping[str, Any]) -> bool:
    """Whether the Job waits for somebody to start it."""
    return job["spec"].get("suspend") is True


def quota(session: Session, job: Mapping[str, Any] | None, queue: Queue, now: datetime) -> State | None:
    """Condition QuotaReserved; None for a session that waits in no queue."""
    name = session.scheduling.queue_name
    if not name:
        return None
    if job is None:
        return State("False", Reason.QUOTA_PENDING, f"The Job is made first; it then waits in queue {name}.")
    if not is_held(job):
        return State("True", Reason.QUOTA_RESERVED, f"Queue {name} has let the Job run.")
    if queue.workload is not None:
        return _of_workload(queue.workload, name, queue.position)
    if age(job, now) < PATIENCE_SECONDS:
        return State("False", Reason.QUOTA_PENDING, f"Kueue has not looked at the Job yet; it waits in queue {name}.")
    if queue.holds_session:
        text = (
            "Kueue is set up to queue TrainingSessions themselves, and so leaves their Jobs suspended; take "
            "TrainingSession.trainingsession.dev out of integrations.externalFrameworks of Kueue's configuration."
        )
        return State("False", Reason.KUEUE_HOLDS_SESSION, text)
    what = "has made no Workload for the Job" if queue.installed else "is not installed in this cluster"
    text = (
        f"Kueue {what}, so nobody will start it. Install Kueue with the integration batch/job, or suspend the session, "
        "remove scheduling.queueName and let it go on."
    )
    return State("False", Reason.KUEUE_MISSING, text)


def _of_workload(workload: Mapping[str, Any], name: str, position: int | None) -> State:
    said = {c.get("type"): c for c in workload.get("status", {}).get("conditions") or []}
    reserved, evicted = said.get("QuotaReserved", {}), said.get("Evicted", {})
    if reserved.get("status") == "True":
        # The quota is there, and something else that the administrator asks for is not.
        checks = said.get("Admitted", {}).get("message") or "The quota is reserved; the Job is started in a moment."
        return State("True", Reason.QUOTA_RESERVED, str(checks))
    words = [evicted.get("message") if evicted.get("status") == "True" else "", reserved.get("message")]
    place = f" It is number {position + 1} in queue {name}." if position is not None else ""
    text = " ".join(dict.fromkeys(filter(None, words))) or f"It waits in queue {name}."
    return State("False", Reason.QUOTA_PENDING, text + place)
