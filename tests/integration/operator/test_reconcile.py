"""Looks at sessions with a real API server and a real mongod; the test acts as the Job controller and the trainer."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

import pytest

from builders import condition
from operator_world import RECORD_WRITES, WRITES, Json, Killer, World
from real_mongod import free_port
from trainingsession_operator import observe
from trainingsession_operator.cluster import Cluster
from trainingsession_operator.errors import ApiError, ConflictError
from trainingsession_operator.reconcile import Reconciler
from trainingsession_operator.records import Records
from trainingsession_operator.resource import GROUP, PLURAL, VERSION
from trainingsession_operator.tenants import Server


def test_a_new_session_gets_one_job_that_it_owns(world):
    session, operator = world.create("digits"), world.operator()
    assert operator.look((world.namespace, "digits")) is not None
    (job,) = world.jobs()
    (owner,) = job.metadata.owner_references
    assert (owner.kind, owner.name, owner.uid) == ("TrainingSession", "digits", session["metadata"]["uid"])
    assert (owner.controller, owner.block_owner_deletion) == (True, False)
    status = world.session("digits")["status"]
    assert (status["phase"], status["placement"]["job"]) == ("Pending", job.metadata.name)
    operator.look((world.namespace, "digits"))
    assert world.session("digits")["status"]["jobName"] == job.metadata.name
    assert set(world.operator().cluster.secret(world.namespace, "trainingsession-mongodb")) == {"uri", "database"}


def test_what_the_watch_told_of_a_new_session_is_not_read_again(world):
    made = world.create("digits")
    operator, key = world.operator(), (world.namespace, "digits")
    read: list[str] = []

    class Counting(Cluster):
        def session(self, namespace: str, name: str) -> Json | None:
            read.append(name)
            return super().session(namespace, name)

    operator.cluster = Counting(world.api)
    operator.newcomers.put(key, made)
    operator.look(key)
    assert (len(world.jobs()), read) == (1, [])
    operator.look(key)
    assert (len(world.jobs()), read) == (1, ["digits"])


@pytest.mark.parametrize("happens", ["deleted", "changed", "made anew"])
def test_what_the_watch_told_makes_no_job_when_it_is_not_so_any_more(world, happens):
    made = world.create("digits")
    operator, key = world.operator(), (world.namespace, "digits")
    if happens == "changed":
        body = {"spec": {"suspend": True}}
        world.custom.patch_namespaced_custom_object(GROUP, VERSION, world.namespace, PLURAL, "digits", body)
    else:
        world.delete("digits")
    if happens == "made anew":
        world.create("digits", suspend=True)
    operator.newcomers.put(key, made)
    with pytest.raises(ConflictError):
        operator.look(key)
    operator.look(key)
    assert world.jobs() == []


def test_looking_again_writes_nothing(world):
    world.create("digits")
    operator = world.operator()
    key = (world.namespace, "digits")
    for _ in range(2):
        operator.look(key)
    before = world.session("digits")["metadata"]["resourceVersion"]
    job_before = world.jobs()[0].metadata.resource_version
    killer = Killer()
    for again in (operator, world.operator(killer)):
        again.look(key)
    assert world.session("digits")["metadata"]["resourceVersion"] == before
    assert world.jobs()[0].metadata.resource_version == job_before
    assert "patch_status" not in killer.writes


@pytest.mark.parametrize(
    ("ends", "published", "phase", "reason"),
    [
        ("Complete", True, "Succeeded", "ResultPublished"),
        ("Failed", True, "Succeeded", "ResultPublished"),
        ("Complete", False, "Failed", "ResultMissing"),
        ("Failed", False, "Failed", "BackoffLimitExceeded"),
    ],
)
def test_the_job_ends_and_so_does_the_session(world, ends, published, phase, reason):
    world.create("digits")
    operator, key = world.operator(), (world.namespace, "digits")
    operator.look(key)
    if published:
        world.publish("digits")
    world.end_job(ends)
    assert operator.look(key) is None
    status = world.session("digits")["status"]
    assert status["phase"] == phase
    assert condition(status, "Finished")["status"] == "True"
    assert condition(status, "Complete" if phase == "Succeeded" else "Failed")["reason"] == reason
    assert status.get("accuracy") == ("0.9625" if published else None)
    assert "completionTime" in status
    final = world.session("digits")["metadata"]["resourceVersion"]
    assert operator.look(key) is None
    assert world.session("digits")["metadata"]["resourceVersion"] == final
    events = world.core.list_namespaced_event(world.namespace).items
    assert [event.reason for event in events] == [phase]


def whole_life(world: World, operator: Callable[[], Reconciler]) -> None:
    """A session from its creation to its end; every look may be killed, and then a new operator looks."""
    look = partial(world.look_whatever_dies, operator, "digits")
    look()
    world.run_pod()
    look()
    world.delete_pods()
    world.delete_job(world.jobs()[0].metadata.name)
    look()
    world.run_pod()
    look()
    world.publish("digits")
    world.delete_pods()
    world.end_job("Complete")
    look()


def test_killed_after_any_write_the_next_operator_comes_to_the_same_end(world):
    """For every write of a session's life in turn, until there is none left to be killed after."""
    kills, ends = 0, []
    while True:
        world.create("digits", runPolicy={"activeDeadlineSeconds": 3600})
        killer = Killer(at=kills)
        alive = world.operator(killer)
        whole_life(world, lambda alive=alive: alive)
        (job,) = world.jobs()
        session = world.session("digits")
        assert job.metadata.owner_references[0].uid == session["metadata"]["uid"]
        # The Job of these tests was started in 2024, and no trainer before its pod was there.
        waited = datetime.fromisoformat(session["status"]["startTime"]) - job.status.start_time
        assert job.spec.active_deadline_seconds == 3600 + waited.total_seconds()
        ends.append(comparable(session["status"]))
        world.delete("digits")
        world.delete_job(job.metadata.name)
        if kills > len(killer.writes):
            break
        kills += 1
    others = {
        "delete_job",
        "end_job",
        "end_helpers",
        "delete_session",
        "reuse_result",
        "write_secret",
    }  # not in this life, or in the first one only
    assert set(killer.writes) == {*WRITES, *RECORD_WRITES} - others
    assert kills >= 10, "a whole life has at least ten writes"
    assert {"phase": "Succeeded", "accuracy": "0.9625"}.items() <= ends[0].items()
    assert ends == [ends[0]] * len(ends)


def comparable(status: Json) -> Json:
    """A status without what differs from one session to the next: times and the Job's name."""
    same = copy.deepcopy(status)
    for key in ("jobName", "startTime", "completionTime", "gpuSeconds", "gpuSecondsUntil"):
        same.pop(key, None)
    same["placement"].pop("job")
    for found in same["conditions"]:
        found.pop("lastTransitionTime")
    return same


def test_a_session_made_again_under_the_same_name_does_not_take_the_old_job(world):
    old, operator = world.create("digits"), world.operator()
    key = (world.namespace, "digits")
    operator.look(key)
    world.publish("digits")
    world.end_job("Complete")
    world.delete("digits")
    new = world.create("digits")
    operator.look(key)
    owners = {job.metadata.owner_references[0].uid for job in world.jobs()}
    assert owners == {old["metadata"]["uid"], new["metadata"]["uid"]}
    status = world.session("digits")["status"]
    assert status["phase"] == "Pending"
    assert "accuracy" not in status


def test_a_foreign_job_of_that_name_is_not_touched(world):
    session, operator = world.create("digits"), world.operator()
    name = f"digits-{session['metadata']['uid'][:8]}"
    pod = {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}]}
    foreign = {"metadata": {"name": name}, "spec": {"template": {"spec": pod}}}
    world.batch.create_namespaced_job(world.namespace, foreign)
    with pytest.raises(ConflictError, match="already exists"):
        operator.look((world.namespace, "digits"))
    operator.look((world.namespace, "digits"))
    found = condition(world.session("digits")["status"], "PodsReady")
    assert (found["reason"], name in found["message"]) == ("JobNameTaken", True)
    assert world.jobs()[0].metadata.owner_references is None


class Meddler(Cluster):
    """Another writer changes the session's labels just before our status is written."""

    world: World
    times = 1

    def patch_status(self, session: Any, changes: Any) -> str:
        if self.times:
            self.times -= 1
            label = {"metadata": {"labels": {"meddled": "yes"}}}
            self.world.custom.patch_namespaced_custom_object(
                GROUP, VERSION, session.namespace, PLURAL, session.name, label
            )
        return super().patch_status(session, changes)


def test_a_status_is_never_written_on_a_changed_session_and_the_fresh_one_is_looked_at(world):
    world.create("digits")
    meddler = Meddler(world.api)
    meddler.world = world
    operator = world.operator()
    operator.cluster = meddler
    key = (world.namespace, "digits")
    with pytest.raises(ConflictError):
        operator.look(key)
    assert "status" not in world.session("digits")
    operator.look(key)
    session = world.session("digits")
    assert session["metadata"]["labels"] == {"meddled": "yes"}
    assert session["status"]["phase"] == "Pending"
    assert len(world.jobs()) == 1


def test_a_session_that_is_gone_is_told_and_not_looked_at_again(world):
    gone: list[Any] = []
    operator = world.operator()
    operator.gone = gone.append
    assert operator.look((world.namespace, "nobody")) is None
    assert gone == [(world.namespace, "nobody")]


def test_a_job_that_the_api_server_refuses_is_told_in_its_words(world):
    world.create("digits")
    operator = world.operator()

    class Refusing(Cluster):
        """Has every Job refused, as an admission policy would."""

        def create_job(self, job: Json) -> None:
            job = copy.deepcopy(job)
            job["spec"]["template"]["spec"]["restartPolicy"] = "Always"
            super().create_job(job)

    operator.cluster = Refusing(world.api)
    operator.look((world.namespace, "digits"))
    found = condition(world.session("digits")["status"], "PodsReady")
    assert found["reason"] == "JobRefused"
    assert "restartPolicy" in found["message"]
    operator.cluster = Cluster(world.api)
    operator.look((world.namespace, "digits"))
    assert len(world.jobs()) == 1


def test_a_job_that_is_lost_and_cannot_be_made_again_for_long_is_not_lost_again(world):
    world.create("digits")
    operator, key = world.operator(), (world.namespace, "digits")
    for _ in range(2):
        operator.look(key)
    world.delete_job(world.jobs()[0].metadata.name)

    class Away(Cluster):
        """An admission webhook that is down."""

        def create_job(self, job: Json) -> None:
            raise ApiError("cannot create the Job: failed calling webhook", 500)

    whole, operator.cluster = operator.cluster, Away(world.api)
    for _ in range(5):
        with pytest.raises(ApiError):
            operator.look(key)
    operator.cluster = whole
    operator.look(key)
    assert len(world.jobs()) == 1
    assert "(1 of 3)" in condition(world.session("digits")["status"], "PodsReady")["message"]


def test_a_volume_that_a_node_cannot_mount_is_told_until_the_node_says_something_else(world, monkeypatch):
    world.create("digits")
    operator, key = world.operator(), (world.namespace, "digits")
    operator.look(key)
    name = world.run_pod()
    state = {"name": "trainer", "image": "x", "imageID": "", "ready": False, "restartCount": 0}
    state["state"] = {"waiting": {"reason": "ContainerCreating"}}
    status = {"status": {"phase": "Pending", "containerStatuses": [state]}}
    world.core.patch_namespaced_pod_status(name, world.namespace, status)
    pod = world.core.read_namespaced_pod(name, world.namespace).metadata

    def told(second: int, reason: str, message: str) -> tuple[str, str]:
        about = {"kind": "Pod", "name": name, "namespace": world.namespace, "uid": pod.uid}
        at = f"2024-05-06T12:00:{second:02}Z"
        event = {"metadata": {"name": f"{name}.{second}"}, "involvedObject": about, "reason": reason, "type": "Warning"}
        event |= {"message": message, "lastTimestamp": at, "firstTimestamp": at}
        world.core.create_namespaced_event(world.namespace, event)
        operator.look(key)
        found = condition(world.session("digits")["status"], "PodsReady")
        return found["reason"], found["message"]

    words = 'MountVolume.SetUp failed for volume "dataset": mount failed: No such file or directory'
    assert told(1, "FailedMount", words)[0] != "FailedMount", "it may only take its time"
    monkeypatch.setattr(observe, "SLOW_SECONDS", -1.0)
    assert told(2, "FailedMount", words) == ("FailedMount", f"The node cannot mount a volume of the pod: {words}")
    assert told(3, "Pulling", "Pulling image")[0] == "JobCreated"


def test_a_bug_that_one_session_meets_is_told_in_its_condition_and_gone_with_the_bug(world):
    world.create("digits")
    operator, key = world.operator(), (world.namespace, "digits")
    for _ in range(2):
        operator.look(key)
    before = world.session("digits")["status"]

    class Failing(Records):
        """Meets a record of which nobody thought."""

        def prepare(self, *_: Any) -> Json:
            raise KeyError("secret")

    whole, operator.records = operator.records, Failing(Server(world.mongodb, managed_users=False), operator.cluster)
    world.opened.append(operator.records)
    for _ in range(2):
        with pytest.raises(KeyError):
            operator.look(key)
    session = world.session("digits")
    found = condition(session["status"], "Accepted")
    assert (found["status"], found["reason"]) == ("Unknown", "LookFailed")
    assert "secret" not in str(session["status"])
    assert session["metadata"]["generation"] == session["status"]["observedGeneration"]
    operator.records = whole
    operator.look(key)
    assert comparable_conditions(world.session("digits")["status"]) == comparable_conditions(before)


def comparable_conditions(status: Json) -> list[tuple[str, ...]]:
    return [(c["type"], c["status"], c["reason"], c["message"]) for c in status["conditions"]]


def test_without_storage_no_job_is_made_and_the_session_says_so(world, impatient):
    world.create("digits")
    operator = world.operator()
    away = f"mongodb://127.0.0.1:{free_port()}"
    operator.records = Records(Server(away, managed_users=False), operator.cluster)
    world.opened.append(operator.records)
    operator.look((world.namespace, "digits"))
    found = condition(world.session("digits")["status"], "PodsReady")
    assert (found["reason"], world.jobs()) == ("StorageUnavailable", [])
    assert found["message"].startswith("MongoDB could not be reached: 127.0.0.1:")
    assert found["message"].endswith("Connection refused. The session waits for it.")


def test_a_name_of_any_length_runs(world):
    name = "a" + "b." * 100 + uuid.uuid4().hex[:8]
    world.create(name)
    world.operator().look((world.namespace, name))
    assert world.session(name)["status"]["phase"] == "Pending"
    assert len(world.jobs()) == 1


def test_a_job_that_went_with_its_session_is_not_made_again(world):
    """The session is deleted between the look at it and the look at its Job, which the garbage collector took."""
    world.create("digits")
    operator, key = world.operator(), (world.namespace, "digits")
    operator.look(key)

    class Deleting(Cluster):
        """Lets the session and its Job go as soon as the session was read."""

        def session(self, namespace: str, name: str) -> Json | None:
            found = super().session(namespace, name)
            if found is not None:
                world.delete(name)
                world.delete_job(world.jobs()[0].metadata.name)
            return found

    operator.cluster = Deleting(world.api)
    with pytest.raises(ConflictError):
        operator.look(key)
    assert world.jobs() == []
    assert operator.look(key) is None
