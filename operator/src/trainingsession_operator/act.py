"""Does what was decided about a session's Jobs."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from . import jobs, plan
from .cluster import Cluster
from .errors import ApiError, ConflictError
from .observe import REFUSALS
from .observed import Action, CreateJob, DeleteJob, EndHelpers, EndJob, SetDeadline
from .records import Records
from .resource import Session
from .settings import Settings
from .status import Reason, State

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Actor:
    """Asks the API server; nothing is decided here."""

    settings: Settings
    cluster: Cluster
    records: Records

    def act(self, session: Session, step: plan.Step | None, actions: tuple[Action, ...], is_new: bool) -> State | None:
        """Do what was decided, in its order; returns why the API server refused, or None.

        `is_new` says that the status was written just now, so that the session is there. Raises ApiError.
        """
        if step is None:
            return None
        name = plan.step_name(session, step)
        for action in actions:
            match action:
                case CreateJob(lost=lost):
                    if not is_new and not self._is_there(session):
                        # Its Job went by owner reference after the session was read.
                        raise ConflictError(f"session {session.title} was deleted meanwhile")
                    try:
                        # Where somebody was faster, the ConflictError has the session looked at again at once.
                        self.cluster.create_job(jobs.build_job(session, self.settings, step))
                    except ApiError as error:
                        if error.status not in REFUSALS:
                            raise
                        log.warning("session %s: %s", session.title, error)
                        return State("False", Reason.JOB_REFUSED, f"The operator {error}")
                    if lost:
                        self.records.count_lost_job(session)
                    why = plan.placement(session, step)
                    log.info("session %s: Job %s made (%s): %s", session.title, name, why["device"], why["reason"])
                case DeleteJob(name=old, uid=uid):
                    self.cluster.delete_job(session.namespace, old, uid)
                    log.info("session %s: Job %s deleted", session.title, old)
                case EndJob(reason=reason):
                    self.cluster.end_job(session.namespace, name, reason)
                    log.info("session %s: Job %s ends: %s", session.title, name, reason)
                case EndHelpers():
                    self.cluster.end_helpers(session.namespace, name)
                    log.info("session %s: Job %s ends, because its first worker has failed", session.title, name)
                case SetDeadline(seconds=seconds):
                    self.cluster.set_job_deadline(session.namespace, name, seconds)
                    log.info("session %s: Job %s must end %d s after its start", session.title, name, seconds)
        return None

    def _is_there(self, session: Session) -> bool:
        found = (self.cluster.session(session.namespace, session.name) or {}).get("metadata", {})
        return found.get("uid") == session.uid and not found.get("deletionTimestamp")
