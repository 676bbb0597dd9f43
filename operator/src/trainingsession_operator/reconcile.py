"""One look at one session: observe → decide → act → one status patch if it differs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus

from . import jobs
from .cluster import Cluster
from .decide import Action, CreateJob, Decision, Observed, SetDeadline, decide, refuse
from .errors import ApiError, SessionError, StorageUnavailableError
from .pods import is_alive
from .queue import Key
from .records import Records
from .resource import Json, Session, parse_session
from .settings import Settings
from .status import COMPLETE, FAILED, Reason, State, is_finished, merge_patch

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 10.0
REFUSALS = (HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN, HTTPStatus.UNPROCESSABLE_ENTITY)


@dataclass
class Reconciler:
    """Brings sessions to their end, one look at a time; safe to call for different keys from many threads."""

    settings: Settings
    cluster: Cluster
    records: Records
    written: Callable[[Key, str], None] = lambda key, version: None
    """Told of every status written: the key and the new resourceVersion."""
    gone: Callable[[Key], None] = lambda key: None
    """Told of every key whose session is not there any more."""
    _progress: dict[Key, float] = field(default_factory=dict)

    def look(self, key: Key) -> float | None:
        """Look at a session; returns the seconds until the next look, None where something must happen first."""
        resource = self.cluster.session(*key)
        if resource is None or resource["metadata"].get("deletionTimestamp"):
            # Its Job goes by owner reference.
            self._progress.pop(key, None)
            self.gone(key)
            return None
        status = resource.get("status") or {}
        if is_finished(status):
            return None
        now = datetime.now(UTC)
        try:
            session = parse_session(resource)
            manifest = jobs.build_job(session, self.settings)
        except SessionError as error:
            session = _bare(resource)
            decision = refuse(session, error.reason, str(error), now)
        else:
            observed = self._observe(session, manifest["metadata"]["name"])
            decision = decide(session, observed, now)
            refused = self._act(session, manifest, decision.actions)
            if refused is not None:
                decision = decide(session, Observed(record=observed.record, waits=refused), now)
            elif decision.actions:
                decision = self._with_job_name(decision, manifest["metadata"]["name"])
        self._write(key, session, decision)
        return decision.look_again

    def _observe(self, session: Session, name: str) -> Observed:
        job, waits, record = self.cluster.job(session.namespace, name), None, None
        if job is not None and not _owned(job, session):
            text = f"Job {name} is there but belongs to another session; it must be gone before this one can run."
            return Observed(waits=State("False", Reason.NAME_TAKEN, text))
        try:
            record = self.records.prepare(session)
        except StorageUnavailableError as error:
            waits = State("False", Reason.STORAGE_UNAVAILABLE, f"{str(error).rstrip('.')}. The session waits for it.")
        except ApiError as error:
            if error.status not in REFUSALS:
                raise
            waits = State("False", Reason.STORAGE_UNAVAILABLE, f"The operator {error}")
        pods: list[Json] = []
        denials: list[tuple[str, str]] = []
        if job is not None:
            pods = self.cluster.pods(session.namespace, session.uid)
            if not any(map(is_alive, pods)):
                denials = self.cluster.denials(session.namespace, job["metadata"]["uid"])
        due = time.monotonic() - self._progress.get((session.namespace, session.name), float("-inf"))
        return Observed(job, tuple(pods), tuple(denials), record, waits, due >= PROGRESS_SECONDS)

    def _act(self, session: Session, manifest: Json, actions: tuple[Action, ...]) -> State | None:
        """Do what was decided; returns why the API server refused, or None."""
        name = manifest["metadata"]["name"]
        for action in actions:
            match action:
                case CreateJob(lost=lost):
                    try:
                        # Where somebody was faster, the ConflictError has the session looked at again at once.
                        self.cluster.create_job(manifest)
                    except ApiError as error:
                        if error.status not in REFUSALS:
                            raise
                        log.warning("session %s: %s", session.title, error)
                        return State("False", Reason.JOB_REFUSED, f"The operator {error}")
                    if lost:
                        self.records.count_lost_job(session)
                    log.info("session %s: Job %s made", session.title, name)
                    self._event(session, "Normal", "JobCreated", f"Job {name} made")
                case SetDeadline(seconds=seconds):
                    self.cluster.set_job_deadline(session.namespace, name, seconds)
                    log.info("session %s: Job %s must end %d s after its start", session.title, name, seconds)
        return None

    def _with_job_name(self, decision: Decision, name: str) -> Decision:
        return Decision({**decision.status, "jobName": name}, decision.actions, decision.look_again)

    def _write(self, key: Key, session: Session, decision: Decision) -> None:
        changes = merge_patch(session.status, decision.status)
        if not changes:
            return
        version = self.cluster.patch_status(session, changes)
        self.written(key, version)
        if is_finished(decision.status):
            self._progress.pop(key, None)
        elif "progress" in changes:
            self._progress[key] = time.monotonic()
        before, phase = session.status.get("phase"), decision.status["phase"]
        if before != phase:
            log.info("session %s: %s", session.title, _summary(decision.status))
        if is_finished(decision.status) and not is_finished(session.status):
            kind = "Normal" if phase == "Succeeded" else "Warning"
            self._event(session, kind, phase, _summary(decision.status))

    def _event(self, session: Session, kind: str, reason: str, message: str) -> None:
        name = f"{jobs.job_name(session.name, session.uid)}.{reason.lower()}"
        try:
            self.cluster.post_event(session, name, kind, reason, message)
        except ApiError as error:
            # An Event is a courtesy; the status says the same.
            log.warning("session %s: %s", session.title, error)


def _owned(job: Json, session: Session) -> bool:
    return any(owner.get("uid") == session.uid for owner in job["metadata"].get("ownerReferences") or [])


def _bare(resource: Json) -> Session:
    """Give the session without its spec, for telling its user what is wrong with it."""
    return parse_session({**resource, "spec": {"dataset": {}, "baseModel": {}}})


def _summary(status: Json) -> str:
    """Phase and the sentence that explains it."""
    told = {c["type"]: c for c in status["conditions"]}
    if status["phase"] in ("Succeeded", "Failed"):
        end = told[COMPLETE if status["phase"] == "Succeeded" else FAILED]
        return f"{status['phase']}: {end['message']}"
    return f"{status['phase']}: {told['PodsReady']['message']}"
