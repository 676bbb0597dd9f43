"""What there is about a session, read live: its record, its Job, the Job's pods, and what others say of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from . import plan, queueing
from .cluster import Cluster
from .ends import did_its_work, has_ended
from .errors import ApiError, StorageUnavailableError
from .identity import identity
from .kueue import look_at_queue
from .observed import Observed
from .pods import first_workers, has_no_node, is_alive, remark, why_waiting
from .records import Records
from .resource import Json, Session, age
from .settings import Settings
from .status import Reason, State

STARTED = {"attempt", "jobsLost", "result"}
"""Fields of a record that tell that there has been a Job."""
REFUSALS = (HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN, HTTPStatus.UNPROCESSABLE_ENTITY)
"""Answers that will be the same next time, unless somebody changes a quota or a policy."""


MOUNT_FAILURES = ("FailedMount", "FailedAttachVolume")
SLOW_SECONDS = 30.0
"""After which a pod whose container is being created may have a reason for it."""


@dataclass(frozen=True)
class Observer:
    """Asks the API server and MongoDB; nothing is decided here."""

    settings: Settings
    cluster: Cluster
    records: Records

    def observe(self, session: Session, *, progress_due: bool, told: float | None = None) -> Observed:
        """Look at everything that a decision needs, live; `told` is when the watch told of a session made just now.

        Raises ApiError where the API server does not answer.
        """
        same = identity(session, self.settings.trainer_image)
        record: Json | None = None
        waits: State | None = None
        try:
            record = self.records.prepare(session, same, told)
        except (StorageUnavailableError, ApiError) as error:
            waits = _why_it_waits(error)
        step, job, earlier = self._find_jobs(session, record)
        if job is not None and not _owned(job, session):
            name = job["metadata"]["name"]
            text = f"Job {name} is there but belongs to another session; it must be gone before this one can run."
            return Observed(waits=State("False", Reason.NAME_TAKEN, text), step=step)
        stored = False
        if step is None and record is not None:
            try:
                record, stored = self._ask_the_store(session, record, same)
            except (StorageUnavailableError, ApiError) as error:
                record, waits = None, _why_it_waits(error)
        pods: list[Json] = []
        orphans: list[Json] = []
        denials: list[tuple[str, str]] = []
        said = mount = ""
        if job is not None:
            pods = [pod for pod in self.cluster.pods(session.namespace, session.uid) if _belongs(pod, job)]
            alive = [pod for pod in first_workers(pods) if is_alive(pod)]
            if not alive:
                denials = self.cluster.denials(session.namespace, job["metadata"]["uid"])
            elif has_no_node(alive[-1]):
                said = remark(self.cluster.events(session.namespace, alive[-1]["metadata"]["uid"]))
            elif _is_slow(alive[-1]):
                mount = self._mount_failure(session.namespace, alive[-1])
        elif not _is_new(session, record):
            # A Job deleted by hand leaves its pods, for their time to save or, with --cascade=orphan, for good.
            found = [pod for pod in self.cluster.pods(session.namespace, session.uid) if is_alive(pod)]
            done = [one for one in earlier if did_its_work(one)]
            orphans = [pod for pod in found if not any(_belongs(pod, one) for one in done)]
        queue = queueing.NOT_LOOKED_AT
        if job is not None and session.scheduling.queue_name and queueing.is_held(job):
            queue = look_at_queue(self.cluster, session, job)
        return Observed(
            job,
            tuple(pods),
            tuple(denials),
            record,
            waits,
            progress_due,
            step,
            tuple(earlier),
            stored,
            queue,
            said,
            mount,
            tuple(orphans),
        )

    def is_at_work(self, session: Session) -> bool:
        """Whether a Job of the session is there and not at its end."""
        found = (self.cluster.job(session.namespace, name) for name in plan.names(session))
        return any(job is not None and _owned(job, session) and not has_ended(job) for job in found)

    def _find_jobs(self, session: Session, record: Json | None) -> tuple[plan.Step | None, Json | None, list[Json]]:
        """Give the step that the session is at, its Job, and the Jobs of earlier steps where its own is not there."""
        if _is_new(session, record):
            # A Job that is there all the same is found when ours is refused.
            return None, None, []
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

    def _mount_failure(self, namespace: str, pod: Mapping[str, Any]) -> str:
        """Give what the node says last, where that is of a volume; such words exist only as Events."""
        reason, message = self.cluster.last_event(namespace, pod["metadata"]["uid"])
        return message if reason in MOUNT_FAILURES else ""

    def _ask_the_store(self, session: Session, record: Json, same: str | None) -> tuple[Json, bool]:
        """Before the first step: give the record, perhaps with a result, and whether all features are stored."""
        if same is not None and session.reuse_result == "IfIdentical" and "result" not in record:
            record = self.records.reuse_result(session, same) or record
        recipe = plan.recipe_to_find(session)
        return record, recipe is not None and self.records.holds_features(session, recipe)


def _is_new(session: Session, record: Json | None) -> bool:
    """Whether nobody has looked at it yet."""
    return not session.status and record is not None and not record.keys() & STARTED


def _why_it_waits(error: StorageUnavailableError | ApiError) -> State:
    """Give the condition; raises what will pass by itself and is no matter of the session's storage."""
    if isinstance(error, StorageUnavailableError):
        text = f"{str(error).rstrip('.')}. The session waits for it."
    elif error.status in REFUSALS:
        text = f"The operator {error}"
    else:
        raise error
    return State("False", Reason.STORAGE_UNAVAILABLE, text)


def _is_slow(pod: Mapping[str, Any]) -> bool:
    return why_waiting(pod).reason == "ContainerCreating" and age(pod, datetime.now(UTC)) > SLOW_SECONDS


def _owned(job: Json, session: Session) -> bool:
    return any(owner.get("uid") == session.uid for owner in job["metadata"].get("ownerReferences") or [])


def _belongs(pod: Json, job: Json) -> bool:
    return any(owner.get("uid") == job["metadata"]["uid"] for owner in pod["metadata"].get("ownerReferences") or [])
