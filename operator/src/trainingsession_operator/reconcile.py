"""One look at one session: observe → decide → act → one status patch if it differs."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from . import jobs, plan
from .act import Actor
from .budget import Budget
from .cluster import Cluster
from .decide import decide
from .errors import ApiError, OperatorError, SessionError, UnreadableError
from .newcomers import Newcomers
from .observe import Observer
from .observed import CreateJob, Decision
from .queue import Key
from .readable import status_in
from .records import Records
from .refusals import failed_look, refuse, unreadable
from .resource import Json, Session, is_ours, parse_session, seconds_after_end
from .settings import Settings
from .status import (
    COMPLETE,
    FAILED,
    FINISHED,
    PODS_READY,
    SUSPENDED,
    State,
    condition_of,
    is_as_written,
    is_finished,
    merge_patch,
)

log = logging.getLogger(__name__)

LOOK_AT_NEW_JOB = 5.0
"""The Job's pod wakes us; this is for Jobs whose pods are denied, which is told by Events only."""
PROGRESS_SECONDS = 20.0
PROGRESS_PER_SECOND, PROGRESS_BURST = 16.0, 4
"""Writes of nothing but progress, over all sessions; with what else changes, fewer than 20 a second."""
PROGRESS = {"progress", "gpuSeconds", "gpuSecondsUntil"}


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
    newcomers: Newcomers = field(default_factory=Newcomers)
    budget: Budget = field(default_factory=lambda: Budget(PROGRESS_PER_SECOND, PROGRESS_BURST))
    _progress: dict[Key, float] = field(default_factory=dict)
    _ended: dict[Key, str] = field(default_factory=dict)
    """The resourceVersion with which this operator ended a session, until its event has come."""

    @property
    def _observer(self) -> Observer:
        return Observer(self.settings, self.cluster, self.records)

    def look(self, key: Key) -> float | None:
        """Look at a session; returns the seconds until the next look, None where something must happen first."""
        came = self.newcomers.take(key)
        resource = came.resource if came else self.cluster.session(*key)
        if resource is None or resource["metadata"].get("deletionTimestamp"):
            # Its Job goes by owner reference.
            self.forget(key)
            self.gone(key)
            return None
        if not is_ours(resource):
            return None
        now = datetime.now(UTC)
        if is_finished(status_in(resource)) and not self._is_pretended(key, _bare(resource)):
            return self._after_end(resource, now)
        try:
            session = parse_session(resource)
        except SessionError as error:
            session = _bare(resource)
            self._write(key, session, unreadable(session, str(error), now))
            raise UnreadableError(str(error)) from error
        try:
            return self._look_at(key, session, now, came.told if came else None)
        except OperatorError:
            raise
        except Exception as error:
            with contextlib.suppress(OperatorError):
                # Refused where something was written in this look; the next one fails before that.
                self._write(key, session, failed_look(session, error, now))
            raise

    def _look_at(self, key: Key, session: Session, now: datetime, told: float | None) -> float | None:
        refused: State | None = None
        try:
            jobs.check(session, self.settings)
        except SessionError as error:
            refused = State("True", error.reason, str(error))
            if not session.status.get("placement"):
                # No Job was made for it yet, and no record.
                self._write(key, session, refuse(session, refused, now))
                return None
        due = time.monotonic() >= self._progress.get(key, float("-inf")) + PROGRESS_SECONDS
        observed = self._observer.observe(session, progress_due=due, told=told)
        decision = decide(session, observed, now, refused)
        is_new = decision.chooses is not None and not session.status
        if decision.chooses is not None:
            # In the status before anything is done about it: who comes after a crash must not choose again.
            session = self._write(key, session, decision)
            observed = observed.at(decision.chooses)
            decision = decide(session, observed, now, refused)
        waits = Actor(self.settings, self.cluster, self.records).act(session, observed.step, decision.actions, is_new)
        if waits is not None:
            decision = decide(session, replace(observed, waits=waits), now, refused)
        elif observed.step is not None and any(isinstance(action, CreateJob) for action in decision.actions):
            if is_new:
                # The first write has said so; the next one tells how the Job's pod fares.
                return LOOK_AT_NEW_JOB
            decision = _with_job_name(decision, plan.step_name(session, observed.step))
        wait = self._may_write(key, session, decision)
        if wait:
            return wait if decision.look_again is None else min(wait, decision.look_again)
        self._write(key, session, decision)
        return decision.look_again

    def _may_write(self, key: Key, session: Session, decision: Decision) -> float:
        """Give 0, or the seconds that news of nothing but progress must wait for its turn."""
        changes = merge_patch(session.raw_status, decision.status)
        return self.budget.wait(key) if changes and changes.keys() <= PROGRESS else 0.0

    def forget(self, key: Key) -> None:
        """Nothing more is remembered of a session that is gone or at its end."""
        self._progress.pop(key, None)
        self._ended.pop(key, None)
        self.budget.forget(key)

    def _is_pretended(self, key: Key, session: Session) -> bool:
        """Whether somebody else wrote that the session is at its end: an end of ours is in the record before.

        Without that note, as of a refused session and where MongoDB came back empty or older, the status itself tells.
        """
        if self._ended.pop(key, None) == session.resource_version or self.records.has_ended(session):
            return False
        return not is_as_written(session.status) or self._observer.is_at_work(session)

    def _after_end(self, resource: Json, now: datetime) -> float | None:
        """Delete a session that was to be kept only for a time; gives the seconds until then."""
        kept, status = seconds_after_end(resource), status_in(resource)
        # A hand may have taken away the one.
        ended = status.get("completionTime") or condition_of(status, FINISHED).get("lastTransitionTime")
        if kept is None or not ended:
            return None
        left = kept - (now - datetime.fromisoformat(ended)).total_seconds()
        if left > 0:
            return left + 1.0
        metadata = resource["metadata"]
        self.cluster.delete_session(metadata)
        log.info("session %s/%s: deleted %d s after its end", metadata["namespace"], metadata["name"], kept)
        return None

    def _write(self, key: Key, session: Session, decision: Decision) -> Session:
        """Write the status where it differs; returns the session as it is then."""
        changes = merge_patch(session.raw_status, decision.status)
        if not changes:
            return session
        if is_finished(decision.status) and decision.has_record:
            # Before the status: who finds an end without it knows that it was not the operator who wrote it.
            self.records.note_end(session, decision.status["phase"])
        version = self.cluster.patch_status(session, changes)
        self.written(key, version)
        if is_finished(decision.status):
            self.forget(key)
            self._ended[key] = version
        elif "progress" in changes:
            self._progress[key] = time.monotonic()
        before, phase = session.status.get("phase"), decision.status["phase"]
        if before != phase:
            log.info("session %s: %s", session.title, _summary(decision.status))
        if is_finished(decision.status) and not is_finished(session.status):
            kind = "Normal" if phase == "Succeeded" else "Warning"
            self._event(session, plan.job_name(session.name, session.uid), kind, phase, _summary(decision.status))
        elif phase == "Suspended" and before != phase:
            self._event(session, plan.job_name(session.name, session.uid), "Normal", phase, _summary(decision.status))
        new = decision.status.get("lastDisruption") or {}
        if "lastDisruption" in changes and new:
            self._event(session, new["pod"], "Warning", "Disrupted", f"Pod {new['pod']}: {new.get('message', '')}")
        return replace(session, status=decision.status, raw_status=decision.status, resource_version=version)

    def _event(self, session: Session, about: str, kind: str, reason: str, message: str) -> None:
        try:
            self.cluster.post_event(session, f"{about}.{reason.lower()}", kind, reason, message)
        except ApiError as error:
            # An Event is a courtesy; the status says the same.
            log.warning("session %s: %s", session.title, error)


def _with_job_name(decision: Decision, name: str) -> Decision:
    return replace(decision, status={**decision.status, "jobName": name})


def _bare(resource: Json) -> Session:
    """Give the session without its spec, for telling its user what is wrong with it."""
    return parse_session({**resource, "spec": {"dataset": {}, "baseModel": {}}})


def _summary(status: Json) -> str:
    """Phase and the sentence that explains it."""
    told = {c["type"]: c for c in status["conditions"]}
    if status["phase"] in ("Succeeded", "Failed"):
        end = told[COMPLETE if status["phase"] == "Succeeded" else FAILED]
        return f"{status['phase']}: {end['message']}"
    return f"{status['phase']}: {told[SUSPENDED if status['phase'] == 'Suspended' else PODS_READY]['message']}"
