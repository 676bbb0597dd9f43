"""Sessions, Jobs, pods and records in memory, for histories by the thousand; real servers are asked by other tests.

MemoryCluster and MemoryRecords have the methods of Cluster and Records that a look at a session uses. They hold what
was written and give it back; UID and resourceVersion of a status patch are checked as the API server does. They have
no schema, no rights, no watch and no timeouts. What Kubernetes and the trainer do, MemoryWorld does in single steps.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import builders
from builders import NAMESPACE
from trainingsession_operator import ends, record_view
from trainingsession_operator.errors import ApiError, ConflictError, StorageUnavailableError
from trainingsession_operator.jobs import ENDED_ANNOTATION, FATAL_EXIT_CODES, PATIENT_EXIT_CODES
from trainingsession_operator.readable import status_in
from trainingsession_operator.reconcile import Reconciler
from trainingsession_operator.records import RECORD_VERSION
from trainingsession_operator.resource import Session
from trainingsession_operator.status import is_finished

Json = dict[str, Any]
NAME = "digits"
TIME = "2024-05-06T12:00:00Z"


class Killed(BaseException):
    """The operator's process ended here; nothing in the operator can catch it."""


class Faults:
    """After how many writes the operator dies, and which calls the API server refuses."""

    def __init__(self) -> None:
        self.writes_left = -1
        self.refused: frozenset[str] = frozenset()

    def before(self, what: str) -> None:
        if what in self.refused:
            raise ApiError(f"cannot {what}: the API server does not answer")

    def after(self, what: str) -> None:
        self.writes_left -= 1
        if self.writes_left == 0:
            raise Killed(what)


class MemoryCluster:
    """No object is ever changed in place, so none is copied."""

    def __init__(self, faults: Faults, written: Callable[[Json], None]) -> None:
        self.faults = faults
        self.resource: Json | None = None
        """The session; there is one at most."""
        self.jobs: dict[str, Json] = {}
        self.all_pods: list[Json] = []
        self._written = written
        self._versions = 0

    def version(self) -> str:
        self._versions += 1
        return str(self._versions)

    def change_job(self, name: str, part: str, **fields: Any) -> None:
        job = self.jobs[name]
        self.jobs[name] = {**job, part: {**job[part], **fields}}

    def session(self, namespace: str, name: str) -> Json | None:
        self.faults.before("read a session")
        return self.resource

    def job(self, namespace: str, name: str) -> Json | None:
        self.faults.before("read a Job")
        return self.jobs.get(name)

    def pods(self, namespace: str, uid: str) -> list[Json]:
        return [pod for pod in self.all_pods if pod["metadata"]["labels"][builders.UID_LABEL] == uid]

    def denials(self, namespace: str, job_uid: str) -> list[tuple[str, str]]:
        return []

    def events(self, namespace: str, uid: str) -> list[Json]:
        return []

    def patch_status(self, session: Session, changes: Mapping[str, Any]) -> str:
        self.faults.before("write a status")
        found = self.resource
        if found is None:
            raise ConflictError("cannot write the status: not found", 404)
        metadata = found["metadata"]
        if (metadata["uid"], metadata["resourceVersion"]) != (session.uid, session.resource_version):
            raise ConflictError("cannot write the status: the session changed", 409)
        version, status = self.version(), merged(found.get("status", {}), changes)
        self.resource = {**found, "metadata": {**metadata, "resourceVersion": version}, "status": status}
        self._written(self.resource)
        self.faults.after("write a status")
        return version

    def create_job(self, job: Json) -> None:
        self.faults.before("create a Job")
        name = job["metadata"]["name"]
        if name in self.jobs:
            raise ConflictError("cannot create the Job: it is there", 409, "AlreadyExists")
        self.jobs[name] = {**job, "metadata": {**job["metadata"], "uid": f"job-{self.version()}"}, "status": {}}
        self.faults.after("create a Job")

    def delete_job(self, namespace: str, name: str, uid: str) -> None:
        self.faults.before("delete a Job")
        found = self.jobs.get(name)
        if found is not None and found["metadata"]["uid"] != uid:
            raise ConflictError("cannot delete the Job: it is another one", 409)
        if found is not None:
            self.change_job(name, "metadata", deletionTimestamp=TIME)
        self.faults.after("delete a Job")

    def end_job(self, namespace: str, name: str, reason: str) -> None:
        annotations = {**self.jobs[name]["metadata"].get("annotations", {}), ENDED_ANNOTATION: reason}
        self.change_job(name, "metadata", annotations=annotations)
        self.change_job(name, "spec", activeDeadlineSeconds=1)
        self.faults.after("end a Job")

    def end_helpers(self, namespace: str, name: str) -> None:
        self.change_job(name, "spec", maxFailedIndexes=0)
        self.faults.after("end the helpers")

    def set_job_deadline(self, namespace: str, name: str, seconds: int) -> None:
        self.change_job(name, "spec", activeDeadlineSeconds=seconds)
        self.faults.after("set a deadline")

    def post_event(self, session: Session, event: str, kind: str, reason: str, message: str) -> None:
        self.faults.after("post an event")


class MemoryRecords:
    """One database; away when told so."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.documents: dict[str, Json] = {}
        self.away = False
        self.stored = False

    def prepare(self, session: Session, identity: str | None = None, told: float | None = None) -> Json:
        self._ask()
        if session.uid not in self.documents:
            self.documents[session.uid] = builders.record(_id=session.uid, recordVersion=RECORD_VERSION)
            self.faults.after("make a record")
        return self.documents[session.uid]

    def note_end(self, session: Session, phase: str) -> None:
        self._ask()
        self.write(session.uid, ended={"phase": phase})
        self.faults.after("note an end")

    def has_ended(self, session: Session) -> bool:
        self._ask()
        noted = record_view.ended(self.documents.get(session.uid, {}))
        return noted is not None and noted == session.status.get("phase")

    def count_lost_job(self, session: Session) -> None:
        self._ask()
        self.write(session.uid, jobsLost=self.documents[session.uid].get("jobsLost", 0) + 1)
        self.faults.after("count a lost Job")

    def holds_features(self, session: Session, recipe: str) -> bool:
        self._ask()
        return self.stored

    def write(self, uid: str, **fields: Any) -> None:
        self.documents[uid] = {**self.documents[uid], **fields}

    def _ask(self) -> None:
        if self.away:
            raise StorageUnavailableError("MongoDB could not be reached.")


class MemoryWorld:
    """One session after the other under one name, and everybody's steps."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.faults = Faults()
        self.statuses: list[tuple[str, Json, Json]] = []
        """UID, the status that was written, and the record at that moment, empty where it could not be read."""
        self.cluster = MemoryCluster(self.faults, self._status_written)
        self.records = MemoryRecords(self.faults)
        self.records.stored = self.random.random() < 0.5
        self.operator = self._new_operator()

    def _new_operator(self) -> Reconciler:
        return Reconciler(builders.settings(), self.cluster, self.records)  # type: ignore[arg-type]

    def _status_written(self, resource: Json) -> None:
        uid = resource["metadata"]["uid"]
        record = {} if self.records.away else self.records.documents.get(uid, {})
        self.statuses.append((uid, resource["status"], record))

    @property
    def uid(self) -> str:
        return str((self.cluster.resource or {"metadata": {"uid": ""}})["metadata"]["uid"])

    @property
    def record(self) -> Json:
        return self.records.documents.get(self.uid, {})

    def create(self, **spec: Any) -> None:
        if self.cluster.resource is None:
            uid = str(uuid.UUID(int=self.random.getrandbits(128)))
            self.cluster.resource = builders.resource(name=NAME, uid=uid, **spec)
            self._changed()
            if self.random.random() < 0.5:
                # What the watch told; the look may come when it is not so any more.
                self.operator.newcomers.put((NAMESPACE, NAME), self.cluster.resource)

    def delete(self) -> None:
        self.cluster.resource = None

    def change_spec(self, **fields: Any) -> None:
        """Change the spec as the API server would let a user do."""
        found = self.cluster.resource
        if found is not None:
            metadata = {**found["metadata"], "generation": found["metadata"]["generation"] + 1}
            self.cluster.resource = {**found, "metadata": metadata, "spec": {**found["spec"], **fields}}
            self._changed()

    def edit_status(self, **fields: Any) -> None:
        """Edit the status by hand; one at its end is believed, so it stays as it is."""
        found = self.cluster.resource
        if found is not None and "status" in found and not is_finished(status_in(found)):
            self.cluster.resource = {**found, "status": merged(found["status"], fields)}
            self._changed()

    def _changed(self) -> None:
        assert self.cluster.resource is not None
        metadata = {**self.cluster.resource["metadata"], "resourceVersion": self.cluster.version()}
        self.cluster.resource = {**self.cluster.resource, "metadata": metadata}

    def look(self, writes: int = -1, refused: frozenset[str] = frozenset()) -> None:
        """Look as a worker of the queue does; the operator is another one after `writes` writes."""
        self.faults.writes_left, self.faults.refused = writes, refused
        try:
            self.operator.look((NAMESPACE, NAME))
        except Killed:
            self.operator = self._new_operator()
        except (ApiError, StorageUnavailableError):
            pass  # tried again later
        finally:
            self.faults.writes_left, self.faults.refused = -1, frozenset()

    # Kubernetes and the trainer.

    def jobs_at_work(self, uid: str) -> list[Json]:
        """Jobs of a session that may hold a GPU: those that have not ended, whether they are being deleted or not."""
        found = [job for job in self.cluster.jobs.values() if job["metadata"]["ownerReferences"][0]["uid"] == uid]
        return [job for job in found if not ends.has_ended(job)]

    def pods_of(self, job: Json) -> list[Json]:
        return [
            p for p in self.cluster.all_pods if p["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]
        ]

    def running(self) -> list[tuple[Json, Json]]:
        """Each running pod with its Job."""
        pairs = [(job, pod) for job in self.cluster.jobs.values() for pod in self.pods_of(job)]
        return [(job, pod) for job, pod in pairs if pod["status"]["phase"] == "Running"]

    def jobs_without_their_work(self, uid: str) -> list[Json]:
        """Jobs of a session that are there and are not one that did its work."""
        found = [job for job in self.cluster.jobs.values() if job["metadata"]["ownerReferences"][0]["uid"] == uid]
        return [job for job in found if not ends.did_its_work(job)]

    def pods_at_work(self, uid: str) -> list[Json]:
        """Running pods of a session, those too whose Job is gone."""
        return [p for p in self.cluster.pods(NAMESPACE, uid) if p["status"]["phase"] == "Running"]

    def collect(self) -> None:
        """Let go what is being deleted or has no owner any more, and end what was to end."""
        for name, job in list(self.cluster.jobs.items()):
            if ENDED_ANNOTATION in job["metadata"].get("annotations", {}) and not ends.has_ended(job):
                self.lose_job(name)
                self.cluster.jobs[name] = job
                self.cluster.change_job(name, "status", active=0, conditions=[_true("Failed", "DeadlineExceeded")])
            orphan = job["metadata"]["ownerReferences"][0]["uid"] != self.uid
            if orphan or "deletionTimestamp" in job["metadata"]:
                self.lose_job(name)
        owners = {job["metadata"]["uid"] for job in self.cluster.jobs.values()}
        self.cluster.all_pods = [
            pod for pod in self.cluster.all_pods if pod["metadata"]["ownerReferences"][0]["uid"] in owners
        ]

    def lose_job(self, name: str, *, leaving_pods: bool = False) -> None:
        job, pods = self.cluster.jobs[name], self.pods_of(self.cluster.jobs[name])
        del self.cluster.jobs[job["metadata"]["name"]]
        if not leaving_pods:
            self.cluster.all_pods = [pod for pod in self.cluster.all_pods if pod not in pods]

    def start_pods(self) -> None:
        """Give every Job that needs one a pod, whose trainer claims the record where its session is still there."""
        running = {job["metadata"]["name"] for job, _ in self.running()}
        for name, job in self.cluster.jobs.items():
            idle = "deletionTimestamp" in job["metadata"] or job["spec"].get("suspend") or ends.has_ended(job)
            if name in running or idle:
                continue
            pod = builders.running(f"pod-{self.cluster.version()}")
            owner, labels = {"uid": job["metadata"]["uid"]}, job["metadata"]["labels"]
            created = (builders.NOW + timedelta(seconds=int(self.cluster.version()))).isoformat()
            pod["metadata"] |= {"labels": labels, "ownerReferences": [owner], "creationTimestamp": created}
            self.cluster.all_pods = [*self.cluster.all_pods, pod]
            self.cluster.change_job(name, "status", startTime=TIME, active=1)
            uid = job["metadata"]["ownerReferences"][0]["uid"]
            if "result" not in self.records.documents[uid]:
                self.records.write(uid, attempt=pod["metadata"]["uid"], phase="Extracting", measured=None)

    def train(self) -> None:
        """Have every trainer do its task up to its result."""
        for job, pod in self.running():
            uid, attempt = job["metadata"]["ownerReferences"][0]["uid"], pod["metadata"]["uid"]
            if self.records.documents[uid].get("attempt") != attempt or "result" in self.records.documents[uid]:
                continue
            if task(job) == "extract":
                self.records.write(uid, extracted=True)
            else:
                accuracy = self.random.randint(0, 10_000) / 10_000
                self.records.write(uid, phase="Training", measured={"accuracy": accuracy})
                self.records.write(uid, result=builders.result(accuracy))

    def end_pods(self, code: int) -> None:
        """End every running trainer: with 0 only one that did its task."""
        for job, pod in self.running():
            record = self.records.documents[job["metadata"]["ownerReferences"][0]["uid"]]
            done = "result" in record or (task(job) == "extract" and record.get("extracted"))
            self._end(job, pod, 0 if done else code or 1)

    def _end(self, job: Json, pod: Json, code: int) -> None:
        ended = builders.ended(code, pod["metadata"]["uid"])
        ended["metadata"] = pod["metadata"]
        self.cluster.all_pods = [ended if one is pod else one for one in self.cluster.all_pods]
        name, failed = job["metadata"]["name"], job["status"].get("failed", 0)
        counts: Json = {"active": 0}
        if code == 0:
            counts |= {"succeeded": 1, "conditions": [_true("Complete", "CompletionsReached")], "completionTime": TIME}
        elif code in FATAL_EXIT_CODES:
            words = f"Container trainer for pod a/b failed with exit code {code} matching FailJob rule at index 0"
            counts |= {"failed": failed + 1, "conditions": [_true("Failed", "PodFailurePolicy", words)]}
        elif code not in PATIENT_EXIT_CODES:
            counts |= {"failed": failed + 1}
            if failed + 1 > job["spec"]["backoffLimit"]:
                counts |= {"conditions": [_true("Failed", "BackoffLimitExceeded")]}
        self.cluster.change_job(name, "status", **counts)


def task(job: Json) -> str:
    arguments = job["spec"]["template"]["spec"]["containers"][0].get("args") or ["--task", "all"]
    return str(arguments[1])


def merged(old: Mapping[str, Any], patch: Mapping[str, Any]) -> Json:
    """A JSON merge patch, done."""
    new = {key: value for key, value in old.items() if key not in patch}
    for key, value in patch.items():
        if isinstance(value, Mapping) and isinstance(old.get(key), Mapping):
            new[key] = merged(old[key], value)
        elif value is not None:
            new[key] = value
    return new


def _true(kind: str, reason: str, message: str = "") -> Json:
    return {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": TIME}
