"""Sessions of several workers with a real API server and Kubernetes' own Job controller; the test is the kubelet.

What is asserted of the Job is what Kubernetes 1.34 does; the operator is built on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from kubernetes import client, watch

from builders import condition
from operator_world import World
from real_apiserver import RealApiServer
from real_mongod import RealMongod

KEY = "digits"
INDEX = "batch.kubernetes.io/job-completion-index"
SOON = 60


@pytest.fixture(scope="module")
def api(server: RealApiServer) -> client.ApiClient:
    return server.client()


@pytest.fixture
def team(api: client.ApiClient, mongod: RealMongod, new_namespace: Callable[..., str]) -> Iterator[World]:
    made = World(api, mongod.uri, new_namespace(api))
    yield made
    for records in made.opened:
        records.close()


def until(world: World, what: str, holds: Callable[[], bool]) -> None:
    """Look again at every change of a Job or pod, until it holds."""
    end = time.monotonic() + SOON
    while not holds():
        if time.monotonic() > end:
            pytest.fail(f"not within {SOON} s: {what}")
        stream = watch.Watch()
        for _ in stream.stream(world.batch.list_namespaced_job, world.namespace, timeout_seconds=1):
            if holds():
                return


def pods(world: World) -> dict[str, str]:
    """Names of the pods that are not at their end, by index."""
    found = world.core.list_namespaced_pod(world.namespace).items
    alive = [pod for pod in found if pod.status.phase not in ("Failed", "Succeeded")]
    return {(pod.metadata.annotations or {}).get(INDEX, "-"): pod.metadata.name for pod in alive}


def says(world: World, kind: str, job: str = "") -> str:
    """Reason of the Job's condition of that type; empty where it is not true."""
    found = world.job(job)["status"].get("conditions") or []
    return "".join(c["reason"] for c in found if c["type"] == kind and c["status"] == "True")


def began(world: World, workers: int, **resources: object) -> dict[str, str]:
    """A session whose workers all run."""
    world.create(KEY, resources={"workers": workers, **resources})
    look(world)
    until(world, f"{workers} pods", lambda: len(pods(world)) == workers)
    for name in pods(world).values():
        world.start_pod(name)
    return pods(world)


def look(world: World) -> float | None:
    return world.operator().look((world.namespace, KEY))


def status(world: World):
    return world.session(KEY)["status"]


def ended(world: World, job: str = "") -> bool:
    return bool(says(world, "Failed", job) or says(world, "Complete", job))


def test_when_the_first_worker_is_done_the_helpers_end_and_the_session_has_succeeded(team):
    running = began(team, 3)
    look(team)
    told = status(team)
    assert (told["phase"], told["attempts"]) == ("Extracting", 3)
    assert running["0"] in condition(told, "Running")["message"]
    team.publish(KEY)
    team.end_pod(running["0"], 0)
    until(team, "the Job's end", lambda: ended(team))
    assert (says(team, "Complete"), says(team, "SuccessCriteriaMet")) == ("SuccessPolicy", "SuccessPolicy")
    assert pods(team) == {}
    look(team)
    assert status(team)["phase"] == "Succeeded"


def test_a_helper_that_fails_ends_nothing_and_the_job_that_fails_for_it_has_done_its_work(team):
    running = began(team, 2)
    team.end_pod(running["1"], 76)
    until(team, "the helper's failure", lambda: team.job()["status"].get("failedIndexes") == "1")
    look(team)
    assert condition(status(team), "Running")["status"] == "True"
    team.publish(KEY)
    team.end_pod(running["0"], 0)
    until(team, "the Job's end", lambda: ended(team))
    # Failed indexes are looked at before the success policy.
    assert says(team, "Failed") == "FailedIndexes"
    look(team)
    assert status(team)["phase"] == "Succeeded"


def test_an_extraction_of_which_a_helper_failed_is_followed_by_the_head(team):
    running = began(team, 2, gpuForHead="never")
    team.end_pod(running["1"], 65)
    until(team, "the helper's failure", lambda: team.job()["status"].get("failedIndexes") == "1")
    team.write_record(KEY, extracted=True)
    team.end_pod(running["0"], 0)
    until(team, "the Job's end", lambda: ended(team))
    assert says(team, "Failed") == "FailedIndexes"
    look(team)
    head = team.job("-h")
    assert head["spec"]["completions"] == 1
    assert status(team)["placement"]["device"] == "CPU"


@pytest.mark.parametrize(
    ("code", "reason"), [(64, "SpecRefusedByTrainer"), (65, "BadData"), (76, "AcceleratorMissing")]
)
def test_when_the_first_worker_has_failed_for_good_the_operator_ends_the_helpers(team, code, reason):
    running = began(team, 2)
    team.end_pod(running["0"], code)
    until(team, "the first worker's failure", lambda: team.job()["status"].get("failedIndexes") == "0")
    assert not ended(team)
    assert list(pods(team)) == ["1"], "Kubernetes would let it go on"
    look(team)
    until(team, "the Job's end", lambda: ended(team))
    assert says(team, "Failed") == "MaxFailedIndexesExceeded"
    assert pods(team) == {}
    look(team)
    told = status(team)
    assert (told["phase"], condition(told, "Failed")["reason"]) == ("Failed", reason)


def test_it_begins_with_as_many_workers_as_the_quota_admits_and_the_first_is_among_them(team):
    quota = {"metadata": {"name": "two"}, "spec": {"hard": {"pods": "2"}}}
    team.core.create_namespaced_resource_quota(team.namespace, quota)

    def in_force() -> bool:
        found = team.core.read_namespaced_resource_quota("two", team.namespace)
        return (found.status.hard or {}).get("pods") == "2"

    until(team, "the quota", in_force)
    team.create(KEY, resources={"workers": 4})
    look(team)
    until(team, "two pods", lambda: len(pods(team)) == 2)
    assert "0" in pods(team)
    for name in pods(team).values():
        team.start_pod(name)
    look(team)
    assert status(team)["phase"] == "Extracting"
    # Helpers that are done make room for nobody that still has something to do, and the session ends all the same.
    team.publish(KEY)
    team.end_pod(pods(team)["0"], 0)
    until(team, "the Job's end", lambda: ended(team))
    look(team)
    assert status(team)["phase"] == "Succeeded"


def test_a_job_that_found_a_shard_missing_is_gone_with_its_pods_before_the_next_one_is_made(team):
    team.create(KEY)
    team.operator()
    team.store_features(KEY)
    look(team)
    first = team.job()["metadata"]["name"]
    until(team, "a pod", lambda: len(pods(team)) == 1)
    (pod,) = pods(team).values()
    team.start_pod(pod)
    look(team)
    team.end_pod(pod, 76)
    until(team, "the Job's end", lambda: ended(team))
    assert says(team, "Failed") == "PodFailurePolicy"
    assert team.core.list_namespaced_pod(team.namespace).items
    look(team)
    until(team, "the Job gone", lambda: team.jobs() == [])
    assert team.core.list_namespaced_pod(team.namespace).items == []
    look(team)
    assert team.job()["metadata"]["name"] == f"{first}-g"
    until(team, "its pod", lambda: len(pods(team)) == 1)
    look(team)
    assert status(team)["attempts"] == 2


def test_a_pod_that_is_gone_leaves_its_exit_code_in_the_jobs_words(team):
    team.create(KEY)
    team.operator()
    team.store_features(KEY)
    look(team)
    first = team.job()["metadata"]["name"]
    until(team, "a pod", lambda: len(pods(team)) == 1)
    (pod,) = pods(team).values()
    team.start_pod(pod)
    team.end_pod(pod, 76)
    until(team, "the Job's end", lambda: ended(team))
    team.delete_pods()
    until(team, "no pod", lambda: team.core.list_namespaced_pod(team.namespace).items == [])
    look(team)
    assert status(team)["placement"]["job"] == f"{first}-g"
