"""Sessions in several Jobs with a real API server and a real mongod: which one is made, and when, whoever dies."""

from __future__ import annotations

import pytest

from builders import condition
from operator_world import Killed, Killer, World
from trainingsession_operator import plan
from trainingsession_operator.observed import LOOK_SOON
from trainingsession_operator.reconcile import Reconciler

KEY = "digits"


def task(job) -> tuple[str, bool]:
    """What a Job does, and whether it holds a GPU."""
    (container,) = job["spec"]["template"]["spec"]["containers"]
    arguments = container.get("args") or ["--task", "all"]
    return arguments[1], "nvidia.com/gpu" in container["resources"]["limits"]


def look(world: World, operator: Reconciler | None = None) -> float | None:
    return (operator or world.operator()).look((world.namespace, KEY))


def status(world: World):
    return world.session(KEY)["status"]


def stored(world: World) -> None:
    """A session whose features are all stored."""
    world.create(KEY)
    world.operator()
    world.store_features(KEY)


@pytest.fixture
def life(world):
    """A session on stored features whose Job has found one missing, up to the Job's end."""
    stored(world)
    look(world)
    pod = world.run_pod()
    look(world)
    world.lose_features()
    world.end_pod(pod, 76)
    world.end_job("Failed", "PodFailurePolicy", failed=1)
    return world


def test_where_every_feature_is_stored_the_job_has_no_gpu_and_says_why(world):
    stored(world)
    look(world)
    assert task(world.job()) == ("train", False)
    told = status(world)["placement"]
    assert (told["device"], told["task"], told["job"]) == ("CPU", "train", world.job()["metadata"]["name"])
    assert told["reason"] == "All features that the session needs are in the store."


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({}, ("all", True)),
        ({"gpuForHead": "never"}, ("extract", True)),
        ({"gpus": 0}, ("all", False)),
    ],
)
def test_where_a_feature_is_missing_the_job_computes_it(world, resources, expected):
    world.create(KEY, resources=resources)
    world.operator()
    world.store_features(KEY)
    world.lose_features()
    look(world)
    assert task(world.job()) == expected
    assert status(world)["placement"]["device"] == ("GPU" if expected[1] else "CPU")


def test_a_choice_that_is_in_the_status_is_not_made_again_after_a_crash(world):
    """The operator dies after the status and before the Job; what it saw then is not so any more."""
    stored(world)
    killer = Killer(at=3)
    with pytest.raises(Killed):
        look(world, world.operator(killer))
    assert killer.writes == ["write_secret", "prepare", "patch_status"]
    assert world.jobs() == []
    world.lose_features()
    look(world)
    assert task(world.job()) == ("train", False)


def test_a_job_that_was_made_before_a_crash_is_the_one(world):
    """The operator dies after the Job and before the status says so."""
    stored(world)
    killer = Killer(at=4)
    with pytest.raises(Killed):
        look(world, world.operator(killer))
    assert killer.writes == ["write_secret", "prepare", "patch_status", "create_job"]
    assert "jobName" not in status(world)
    world.lose_features()
    look(world)
    assert len(world.jobs()) == 1
    assert status(world)["jobName"] == world.job()["metadata"]["name"]


def test_a_missing_shard_gets_a_gpu_when_the_first_job_is_gone(life):
    first = life.job()["metadata"]
    assert look(life) == LOOK_SOON
    told = status(life)
    assert told["placement"]["job"] == f"{first['name']}-g"
    assert condition(told, "PodsReady")["reason"] == "OldJobTerminating"
    assert life.job()["metadata"]["deletionTimestamp"]
    look(life)
    assert [job.metadata.uid for job in life.jobs()] == [first["uid"]], "it is waited for"
    life.collect(first["name"])
    look(life)
    assert task(life.job()) == ("all", True)
    assert status(life)["jobName"] == f"{first['name']}-g"
    life.run_pod()
    look(life)
    assert status(life)["attempts"] == 2
    assert "jobsLost" not in life.database()["sessions"].find_one({})
    life.publish(KEY)
    life.end_job("Complete")
    assert look(life) is None
    assert status(life)["phase"] == "Succeeded"


@pytest.mark.parametrize("writes", range(1, 9))
def test_killed_after_any_write_on_the_way_to_the_gpu_one_job_follows_the_other(life, writes):
    name = life.job()["metadata"]["name"]
    killer = Killer(at=writes)
    alive = life.operator(killer)
    for _ in range(2):
        try:
            look(life, alive)
        except Killed:
            look(life)
        if len(life.jobs()) == 1 and life.job()["metadata"].get("deletionTimestamp"):
            life.collect(name)
    # Whoever was killed in the last look left it to the next one.
    look(life)
    look(life)
    assert [job.metadata.name for job in life.jobs()] == [f"{name}-g"]
    assert status(life)["jobName"] == f"{name}-g"
    assert task(life.job()) == ("all", True)


def test_a_job_of_the_same_name_that_is_made_meanwhile_is_not_deleted(life):
    first = life.job()["metadata"]
    operator = life.operator()
    with pytest.raises(Exception, match="the UID in the precondition"):
        operator.cluster.delete_job(life.namespace, first["name"], "11111111-2222-3333-4444-555555555555")
    assert "deletionTimestamp" not in life.job()["metadata"]
    operator.cluster.delete_job(life.namespace, "nothing-of-that-name", first["uid"])


def test_after_the_extraction_the_head_is_trained_beside_the_complete_job(world):
    world.create(KEY, resources={"gpuForHead": "never"})
    look(world)
    first = world.job()["metadata"]["name"]
    pod = world.run_pod()
    look(world)
    world.write_record(KEY, extracted=True)
    world.end_pod(pod, 0)
    world.end_job("Complete")
    look(world)
    assert task(world.job("-h")) == ("train", False)
    assert task(world.job(first)) == ("extract", True), "its log may stay"
    told = status(world)
    assert (told["jobName"], told["attempts"], told["placement"]["device"]) == (f"{first}-h", 1, "CPU")
    assert condition(told, "Finished")["status"] == "False"
    world.run_pod("-h")
    look(world)
    assert (status(world)["phase"], status(world)["attempts"]) == ("Extracting", 2)
    world.publish(KEY)
    world.end_job("Complete", job_name="-h")
    assert look(world) is None
    assert status(world)["phase"] == "Succeeded"


@pytest.mark.parametrize(
    "edited",
    [
        None,
        {"job": "somebody-elses", "task": "all", "device": "CPU", "reason": "x"},
        {"task": "all"},
    ],
    ids=["emptied", "another's Job", "an earlier step"],
)
def test_a_status_edited_by_hand_makes_no_second_job(life, edited):
    name = life.job()["metadata"]["name"]
    look(life)
    life.collect(name)
    look(life)
    life.run_pod()
    if edited == {"task": "all"}:
        edited = plan.placement(life_session(life), plan.WHOLE)
    changed = {"status": {"placement": edited, "jobName": None}}
    life.custom.patch_namespaced_custom_object_status(
        "trainingsession.dev", "v1alpha1", life.namespace, "trainingsessions", KEY, changed
    )
    look(life)
    assert [job.metadata.name for job in life.jobs()] == [f"{name}-g"]
    told = status(life)
    assert (told["jobName"], told["placement"]["job"]) == (f"{name}-g", f"{name}-g")


def life_session(world: World):
    from trainingsession_operator.resource import parse_session

    return parse_session(world.session(KEY))


def test_a_foreign_job_of_a_later_steps_name_is_neither_taken_nor_deleted(world):
    session = world.create(KEY)
    name = f"{KEY}-{session['metadata']['uid'][:8]}-g"
    pod = {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}]}
    foreign = {"metadata": {"name": name}, "spec": {"template": {"spec": pod}}}
    world.batch.create_namespaced_job(world.namespace, foreign)
    changed = {"status": {"placement": {"job": name, "task": "all"}, "jobName": name}}
    world.custom.patch_namespaced_custom_object_status(
        "trainingsession.dev", "v1alpha1", world.namespace, "trainingsessions", KEY, changed
    )
    look(world)
    assert condition(status(world), "PodsReady")["reason"] == "JobNameTaken"
    (job,) = world.jobs()
    assert (job.metadata.name, job.metadata.deletion_timestamp, job.metadata.owner_references) == (name, None, None)
