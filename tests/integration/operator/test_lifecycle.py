"""Suspending, the time after the end, pretended ends and earlier answers, on a real API server and a real mongod."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from bson import ObjectId
from kubernetes.client import ApiException

import builders
from builders import condition, result
from operator_world import Json, Killed, Killer, World
from trainingsession_operator.errors import ConflictError
from trainingsession_operator.resource import GROUP, PLURAL, VERSION

NAME = "digits"


def change(world: World, name: str = NAME, **spec: Any) -> Json:
    where = (GROUP, VERSION, world.namespace, PLURAL, name)
    found = world.custom.get_namespaced_custom_object(*where)
    for part, fields in spec.items():
        found["spec"][part] = {**found["spec"].get(part, {}), **fields} if isinstance(fields, dict) else fields
    done: Json = world.custom.replace_namespaced_custom_object(*where, found)
    return done


def phase(world: World, name: str = NAME) -> str:
    return str(world.session(name)["status"]["phase"])


def why(world: World, kind: str, name: str = NAME) -> tuple[str, str]:
    found = condition(world.session(name)["status"], kind)
    return found["status"], found["reason"]


def suspended_life(world: World, operator: Any) -> None:
    """A session that runs, is suspended, changed, and runs to its end; every look may be killed."""
    look = partial(world.look_whatever_dies, operator, NAME)
    look()
    world.run_pod()
    look()
    change(world, suspend=True)
    look()
    world.collect("")
    look()
    change(world, resources={"memory": "8Gi"})
    change(world, suspend=False)
    look()
    world.run_pod()
    look()
    world.publish(NAME)
    world.delete_pods()
    world.end_job("Complete")
    look()


def test_a_session_is_suspended_changed_and_goes_on_whatever_the_operator_is_killed_after(world):
    kills = 0
    while True:
        world.create(NAME)
        killer = Killer(at=kills)
        alive = world.operator(killer)
        suspended_life(world, lambda alive=alive: alive)
        (job,) = world.jobs()
        assert job.spec.template.spec.containers[0].resources.limits["memory"] == "8Gi"
        status = world.session(NAME)["status"]
        assert (status["phase"], status["accuracy"], status["attempts"]) == ("Succeeded", "0.9625", 2)
        assert "jobsLost" not in world.database()["sessions"].find_one({"name": NAME}, sort=[("createdAt", -1)])
        world.delete(NAME)
        world.delete_job(job.metadata.name)
        if kills > len(killer.writes):
            break
        kills += 1
    assert "delete_job" in killer.writes
    assert kills >= 10


def test_suspending_holds_nothing_and_keeps_what_was_done(world):
    world.create(NAME)
    operator, key = world.operator(), (world.namespace, NAME)
    operator.look(key)
    attempt = world.core.read_namespaced_pod(world.run_pod(), world.namespace).metadata.uid
    world.write_record(NAME, attempt=attempt, phase="Training", progress={"epoch": 7, "epochs": 20, "percent": 35})
    operator.look(key)
    change(world, suspend=True)
    operator.look(key)
    assert why(world, "Suspended") == ("False", "Suspending")
    assert world.job()["metadata"]["finalizers"] == ["foregroundDeletion"], "the pods end first, with their grace"
    world.collect("")
    operator.look(key)
    status = world.session(NAME)["status"]
    assert (status["phase"], why(world, "Suspended")) == ("Suspended", ("True", "SuspendedByUser"))
    assert status["progress"]["summary"] == "7/20"
    assert world.jobs() == []
    before = world.session(NAME)["metadata"]["resourceVersion"]
    operator.look(key)
    world.operator().look(key)
    assert world.session(NAME)["metadata"]["resourceVersion"] == before


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"resources": {"memory": "8Gi"}}, "resources can be changed only while the session is suspended"),
        ({"scheduling": {"queueName": "a"}}, "scheduling can be changed only while the session is suspended"),
        ({"runPolicy": {"activeDeadlineSeconds": 60}}, "of runPolicy only ttlSecondsAfterFinished can be changed"),
        ({"runPolicy": {"maxDisruptions": 1}}, "of runPolicy only ttlSecondsAfterFinished can be changed"),
        ({"training": {"epochs": 3}}, "training cannot be changed"),
        ({"reuseResult": "IfIdentical"}, "reuseResult cannot be changed"),
        ({"managedBy": "example.org/other"}, "managedBy cannot be changed"),
    ],
)
def test_what_is_frozen_while_it_is_not_suspended(world, spec, sentence):
    world.create(NAME)
    with pytest.raises(ApiException) as refused:
        change(world, **spec)
    assert sentence in refused.value.body


def test_what_can_be_changed_at_any_time_and_while_suspended(world):
    world.create(NAME)
    change(world, runPolicy={"ttlSecondsAfterFinished": 5}, artifacts={"deletionPolicy": "Delete"})
    change(world, suspend=True)
    change(world, resources={"gpus": 0}, runPolicy={"activeDeadlineSeconds": 60, "pendingDeadlineSeconds": 9})
    # In one step with going on, too: whoever edits it means both.
    change(world, suspend=False, scheduling={"queueName": "a"})


def end(world: World, operator: Any) -> None:
    operator.look((world.namespace, NAME))
    world.publish(NAME)
    world.end_job("Complete")
    operator.look((world.namespace, NAME))


def test_a_finished_session_is_deleted_after_its_time_and_never_before(world):
    # The Job of these tests ended in 2024.
    world.create(NAME, runPolicy={"ttlSecondsAfterFinished": 315_360_000})
    operator, key = world.operator(), (world.namespace, NAME)
    end(world, operator)
    left = datetime(2024, 5, 6, 12, tzinfo=UTC) + timedelta(seconds=315_360_000) - datetime.now(UTC)
    assert abs(operator.look(key) - left.total_seconds()) < 60
    assert world.operator().look(key) is not None
    change(world, runPolicy={"ttlSecondsAfterFinished": 0})
    assert operator.look(key) is None
    with pytest.raises(ApiException, match="404"):
        world.session(NAME)


def test_a_session_that_changed_since_it_was_read_is_not_deleted(world):
    world.create(NAME)
    operator = world.operator()
    read = world.session(NAME)["metadata"]
    change(world, suspend=True)
    with pytest.raises(ConflictError):
        operator.cluster.delete_session(read)
    assert world.session(NAME)


def pretend(world: World, **changes: Any) -> None:
    """Write by hand that the session has succeeded."""
    now = "2024-05-06T12:00:00Z"
    finished = [
        {"type": kind, "status": status, "reason": "ResultPublished", "message": "trust me", "lastTransitionTime": now}
        for kind, status in (("Complete", "True"), ("Failed", "False"), ("Finished", "True"))
    ]
    where = (GROUP, VERSION, world.namespace, PLURAL, NAME)
    found = world.custom.get_namespaced_custom_object(*where)
    found.setdefault("status", {}).update({"phase": "Succeeded", "conditions": finished, **changes})
    world.custom.replace_namespaced_custom_object_status(*where, found)


def test_an_end_that_somebody_wrote_by_hand_is_overwritten(world):
    world.create(NAME)
    operator, key = world.operator(), (world.namespace, NAME)
    operator.look(key)
    world.run_pod()
    operator.look(key)
    pretend(world, accuracy="0.9999")
    operator.look(key)
    status = world.session(NAME)["status"]
    assert (status["phase"], why(world, "Finished")) == ("Extracting", ("False", "NotFinished"))
    assert "accuracy" not in status


def test_an_end_that_was_written_by_hand_before_anything_was_made_is_overwritten_too(world):
    world.create(NAME)
    operator, key = world.operator(), (world.namespace, NAME)
    operator.look(key)
    world.delete_job(world.jobs()[0].metadata.name)
    pretend(world)
    world.operator().look(key)
    assert phase(world) == "Pending"
    assert len(world.jobs()) == 1


def test_an_end_that_was_written_by_hand_before_the_session_was_looked_at_is_overwritten_too(world):
    world.create(NAME)
    pretend(world, completionTime="2024-05-06T12:00:00Z")
    world.operator().look((world.namespace, NAME))
    assert phase(world) == "Pending"
    assert len(world.jobs()) == 1


@pytest.mark.parametrize("restored", ["empty", "older"])
@pytest.mark.parametrize("ends", ["Complete", "Failed", "refused"])
def test_a_true_end_is_left_alone_when_mongodb_came_back_empty_or_older(world, restored, ends):
    large = {"head": {"layers": [{"type": "Dense", "config": {"name": "x" * 20_000}}] * 6}} if ends == "refused" else {}
    world.create(NAME, **large)
    operator, key = world.operator(), (world.namespace, NAME)
    operator.look(key)
    if ends == "Complete":
        world.publish(NAME)
    if ends != "refused":
        world.end_job(ends)
        operator.look(key)
    before = world.session(NAME)
    if restored == "older":
        world.database()["sessions"].update_one({}, {"$unset": {"ended": 1, "result": 1}})
    else:
        world.database()["sessions"].delete_many({})
    killer = Killer()
    assert world.operator(killer).look(key) is None
    assert killer.writes == []
    assert world.session(NAME) == before


def test_an_end_by_hand_is_overwritten_also_where_another_one_was_noted(world):
    world.create(NAME)
    operator, key = world.operator(), (world.namespace, NAME)
    operator.look(key)
    world.end_job("Failed")
    killer = Killer(at=2)
    with pytest.raises(Killed):
        world.operator(killer).look(key)
    assert killer.writes == ["prepare", "note_end"]
    pretend(world)
    world.operator().look(key)
    assert (phase(world), why(world, "Failed")) == ("Failed", ("True", "BackoffLimitExceeded"))


def test_a_copied_end_is_none_while_the_job_is_at_work(world):
    world.create("true")
    operator, key = world.operator(), (world.namespace, NAME)
    operator.look((world.namespace, "true"))
    world.publish("true")
    world.end_job("Complete")
    operator.look((world.namespace, "true"))
    world.create(NAME)
    operator.look(key)
    pretend(world, **world.session("true")["status"])
    world.operator().look(key)
    assert phase(world) == "Pending"


def test_a_job_that_runs_when_the_settings_become_stricter_is_not_told_to_have_failed(world):
    world.create(
        NAME, module={"image": {"name": f"example.org/team/head@sha256:{'a' * 64}", "entryPoint": "head:train"}}
    )
    operator, key = world.operator(), (world.namespace, NAME)
    operator.settings = builders.settings(MODULE_IMAGES="example.org/team")
    operator.look(key)
    world.run_pod()
    strict = world.operator()
    strict.look(key)
    assert phase(world) == "Extracting"
    world.delete_pods()
    world.delete_job(world.jobs()[0].metadata.name)
    strict.look(key)
    assert (phase(world), why(world, "Failed")) == ("Failed", ("True", "ImageNotAllowed"))
    assert world.jobs() == []
    operator.look(key)
    assert phase(world) == "Failed", "an end, although the settings allow it again"


def test_a_true_end_is_left_alone_by_every_operator(world):
    world.create(NAME)
    operator, key = world.operator(), (world.namespace, NAME)
    end(world, operator)
    before = world.session(NAME)["metadata"]["resourceVersion"]
    killer = Killer()
    for one in (operator, operator, world.operator(killer)):
        assert one.look(key) is None
    assert killer.writes == []
    world.delete_job(world.jobs()[0].metadata.name)
    world.operator().look(key)
    assert world.session(NAME)["metadata"]["resourceVersion"] == before
    assert world.jobs() == []


@pytest.mark.parametrize(
    ("controller", "jobs"), [("kueue.x-k8s.io/multikueue", 0), ("trainingsession.dev/operator", 1)]
)
def test_only_a_session_of_another_controller_is_left_alone(world, controller, jobs):
    world.create(NAME, managedBy=controller)
    world.operator().look((world.namespace, NAME))
    assert ("status" in world.session(NAME), len(world.jobs())) == (jobs == 1, jobs)


def published(world: World, operator: Any, name: str, **spec: Any) -> Json:
    """A session of that name that was trained, with files for its artifacts; returns its status."""
    world.create(name, **spec)
    operator.look((world.namespace, name))
    file = {"_id": ObjectId(), "filename": "model.keras", "length": 4}
    world.database()["artifacts.files"].insert_one(file)
    artifact = {"name": "model.keras", "id": str(file["_id"]), "bytes": 4, "sha256": "b" * 64}
    world.write_record(name, result=result(artifacts=[artifact]), samples={"train": 10, "validation": 2, "test": 3})
    world.end_job("Complete", job_name=world.session(name)["status"]["placement"]["job"])
    operator.look((world.namespace, name))
    status: Json = world.session(name)["status"]
    return status


SAME = {"reuseResult": "IfIdentical"}


def test_an_identical_session_is_answered_without_a_job_whatever_it_is_killed_after(world):
    operator = world.operator()
    first = published(world, operator, "first")
    kills = 0
    while True:
        killer = Killer(at=kills)
        world.create("again", resources={"gpus": 0}, **SAME)
        try:
            world.operator(killer).look((world.namespace, "again"))
        except Killed:
            world.operator().look((world.namespace, "again"))
        status = world.session("again")["status"]
        assert (status["phase"], status["accuracy"]) == ("Succeeded", first["accuracy"])
        assert status["artifacts"] == first["artifacts"]
        assert status["reusedFrom"] == {"name": "first", "uid": world.session("first")["metadata"]["uid"]}
        assert condition(status, "Complete")["reason"] == "ResultReused"
        assert "features" not in status, "this session computed none"
        assert len(world.jobs()) == 1, "that of the first session"
        world.delete("again")
        if kills > len(killer.writes):
            break
        kills += 1
    assert kills >= 3


@pytest.mark.parametrize(
    "spec",
    [{}, {"training": {"seed": 1}, **SAME}, {"dataset": {"subset": 0.5}, **SAME}],
    ids=["it did not ask", "another seed", "another subset"],
)
def test_a_session_that_is_not_the_same_is_trained(world, spec):
    operator = world.operator()
    published(world, operator, "first")
    world.create("again", **spec)
    operator.look((world.namespace, "again"))
    assert phase(world, "again") == "Pending"
    assert len(world.jobs()) == 2


def test_an_answer_whose_artifacts_are_gone_is_none(world):
    operator = world.operator()
    published(world, operator, "first")
    world.database()["artifacts.files"].delete_many({})
    world.create("again", **SAME)
    operator.look((world.namespace, "again"))
    assert phase(world, "again") == "Pending"
    assert len(world.jobs()) == 2


def test_a_chain_of_answers_names_the_session_that_was_trained(world):
    operator = world.operator()
    published(world, operator, "first")
    for name in ("second", "third"):
        world.create(name, **SAME)
        operator.look((world.namespace, name))
        assert world.session(name)["status"]["reusedFrom"]["name"] == "first"


def test_the_deletion_policy_reaches_the_record_also_when_it_changes(world):
    world.create(NAME)
    operator, key = world.operator(), (world.namespace, NAME)
    operator.look(key)
    assert world.database()["sessions"].find_one()["deletionPolicy"] == "Retain"
    change(world, artifacts={"deletionPolicy": "Delete"})
    operator.look(key)
    assert world.database()["sessions"].find_one()["deletionPolicy"] == "Delete"
