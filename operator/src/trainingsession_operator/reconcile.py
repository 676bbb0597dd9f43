"""One look at one session: observe → decide → act → one status patch if it differs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from http import HTTPStatus

from . import jobs, plan
from .cluster import Cluster
from .decide import decide, refuse
from .errors import ApiError, SessionError, StorageUnavailableError
from .observed import Action, CreateJob, Decision, DeleteJob, EndHelpers, Observed, SetDeadline
from .pods import first_workers, is_alive
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
            jobs.session_json(session)
        except SessionError as error:
            session = _bare(resource)
            decision = refuse(session, error.reason, str(error), now)
        else:
            observed = self._observe(session)
            decision = decide(session, observed, now)
            if decision.chooses is not None:
                # In the status before anything is done about it: who comes after a crash must not choose again.
                session = self._write(key, session, decision)
                observed = observed.at(decision.chooses)
                decision = decide(session, observed, now)
            refused = self._act(session, observed.step, decision.actions)
            if refused is not None:
                decision = decide(session, replace(observed, waits=refused), now)
            elif observed.step is not None and any(isinstance(action, CreateJob) for action in decision.actions):
                decision = _with_job_name(decision, plan.step_name(session, observed.step))
        self._write(key, session, decision)
        return decision.look_again

    def _find_jobs(self, session: Session) -> tuple[plan.Step | None, Json | None, list[Json]]:
        """Give the step that the session is at, its Job, and the Jobs of earlier steps where its own is not there."""
        chosen, names = plan.chosen(session), plan.names(session)
        wanted = plan.step_name(session, chosen or plan.WHOLE)
        job = self.cluster.job(session.namespace, wanted)
        if job is not None and not _owned(job, session):
            return chosen, job, []
        if job is not None and chosen is not None:
            return plan.step_of(session, job), job, []
        # Before a Job is made, all are looked for: a status that was edited by hand makes no second one.
        others = [self.cluster.job(session.namespace, name) for name in names if name != wanted]
        found = [one for one in (job, *others) if one is not None and _owned(one, session)]
        if found and (chosen is None or names.index(found[-1]["metadata"]["name"]) > names.index(wanted)):
            return plan.step_of(session, found[-1]), found[-1], []
        return chosen, None, found

    def _observe(self, session: Session) -> Observed:
        step, job, earlier = self._find_jobs(session)
        waits, record, stored = None, None, False
        if job is not None and not _owned(job, session):
            name = job["metadata"]["name"]
            text = f"Job {name} is there but belongs to another session; it must be gone before this one can run."
            return Observed(waits=State("False", Reason.NAME_TAKEN, text), step=step)
        try:
            record = self.records.prepare(session)
            recipe = plan.recipe_to_find(session) if step is None else None
            stored = recipe is not None and self.records.holds_features(session, recipe)
        except StorageUnavailableError as error:
            record, text = None, f"{str(error).rstrip('.')}. The session waits for it."
            waits = State("False", Reason.STORAGE_UNAVAILABLE, text)
        except ApiError as error:
            if error.status not in REFUSALS:
                raise
            waits = State("False", Reason.STORAGE_UNAVAILABLE, f"The operator {error}")
        pods: list[Json] = []
        denials: list[tuple[str, str]] = []
        if job is not None:
            pods = [pod for pod in self.cluster.pods(session.namespace, session.uid) if _belongs(pod, job)]
            if not any(map(is_alive, first_workers(pods))):
                denials = self.cluster.denials(session.namespace, job["metadata"]["uid"])
        due = time.monotonic() - self._progress.get((session.namespace, session.name), float("-inf"))
        due = due >= PROGRESS_SECONDS
        return Observed(job, tuple(pods), tuple(denials), record, waits, due, step, tuple(earlier), stored)

    def _act(self, session: Session, step: plan.Step | None, actions: tuple[Action, ...]) -> State | None:
        """Do what was decided; returns why the API server refused, or None."""
        if step is None:
            return None
        name = plan.step_name(session, step)
        for action in actions:
            match action:
                case CreateJob(lost=lost):
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
                    log.info("session %s: Job %s made", session.title, name)
                    why = plan.placement(session, step)
                    self._event(session, name, "Normal", "JobCreated", f"Job {name} ({why['device']}): {why['reason']}")
                case DeleteJob(name=old, uid=uid):
                    self.cluster.delete_job(session.namespace, old, uid)
                    log.info("session %s: Job %s deleted, Job %s follows", session.title, old, name)
                case EndHelpers():
                    self.cluster.end_job(session.namespace, name)
                    log.info("session %s: Job %s ends, because its first worker has failed", session.title, name)
                case SetDeadline(seconds=seconds):
                    self.cluster.set_job_deadline(session.namespace, name, seconds)
                    log.info("session %s: Job %s must end %d s after its start", session.title, name, seconds)
        return None

    def _write(self, key: Key, session: Session, decision: Decision) -> Session:
        """Write the status where it differs; returns the session as it is then."""
        changes = merge_patch(session.status, decision.status)
        if not changes:
            return session
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
            self._event(session, plan.job_name(session.name, session.uid), kind, phase, _summary(decision.status))
        return replace(session, status=decision.status, resource_version=version)

    def _event(self, session: Session, about: str, kind: str, reason: str, message: str) -> None:
        try:
            self.cluster.post_event(session, f"{about}.{reason.lower()}", kind, reason, message)
        except ApiError as error:
            # An Event is a courtesy; the status says the same.
            log.warning("session %s: %s", session.title, error)


def _owned(job: Json, session: Session) -> bool:
    return any(owner.get("uid") == session.uid for owner in job["metadata"].get("ownerReferences") or [])


def _belongs(pod: Json, job: Json) -> bool:
    return any(owner.get("uid") == job["metadata"]["uid"] for owner in pod["metadata"].get("ownerReferences") or [])


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
    return f"{status['phase']}: {told['PodsReady']['message']}"
