"""A session in a queue of Kueue, whose part is acted out on the real API server (tests/support/kueue_actor.py)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kubernetes import client, watch
from urllib3.exceptions import HTTPError

from builders import condition
from kueue_actor import DEFINITION, GROUP, PLURAL, VERSION, KueueActor
from operator_world import Json, World
from trainingsession_operator.reconcile import Reconciler

NAME = "digits"
QUEUE = {"scheduling": {"queueName": "gpus", "workloadPriorityClassName": "high"}}


@pytest.fixture
def kueue(world: World) -> Iterator[KueueActor]:
    """Kueue's kind is served, and its controller is this test."""
    definitions = client.ApiextensionsV1Api(world.api)
    definitions.create_custom_resource_definition(DEFINITION)
    for event in watch.Watch().stream(definitions.list_custom_resource_definition, timeout_seconds=60):
        found = event["object"]
        established = any(c.type == "Established" and c.status == "True" for c in found.status.conditions or [])
        if found.metadata.name == DEFINITION["metadata"]["name"] and established:
            break
    # Its first requests are refused while the API server prepares its storage.
    while not is_served(world):
        pass
    yield KueueActor(world.api, world.namespace)
    definitions.delete_custom_resource_definition(DEFINITION["metadata"]["name"])
    # The next test makes it anew, which is refused until it is gone.
    for event in watch.Watch().stream(definitions.list_custom_resource_definition, timeout_seconds=60):
        if event["type"] == "DELETED" and event["object"].metadata.name == DEFINITION["metadata"]["name"]:
            break


def is_served(world: World) -> bool:
    try:
        world.custom.list_namespaced_custom_object(GROUP, VERSION, world.namespace, PLURAL)
    except (client.ApiException, HTTPError):
        return False
    return True


def look(world: World, operator: Reconciler, monkeypatch: Any = None, seconds_later: float = 0) -> float | None:
    """Look at the session, also from a later time."""
    if seconds_later:
        now = datetime.now(UTC) + timedelta(seconds=seconds_later)
        clock = type("Clock", (datetime,), {"now": classmethod(lambda cls, zone=None: now)})
        monkeypatch.setattr("trainingsession_operator.reconcile.datetime", clock)
    found = operator.look((world.namespace, NAME))
    monkeypatch and monkeypatch.undo()
    return found


def said(world: World, kind: str) -> Json:
    return condition(world.session(NAME)["status"], kind)


def job_object(world: World) -> Json:
    return {**world.job(), "apiVersion": "batch/v1", "kind": "Job"}


def test_a_session_waits_in_its_queue_runs_is_preempted_and_runs_again(world, kueue):
    world.create(NAME, **QUEUE)
    operator = world.operator()
    look(world, operator)
    job = world.job()
    assert job["spec"]["suspend"] is True, "nothing runs before Kueue says so"
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert job["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "high"
    look(world, operator)
    assert (said(world, "QuotaReserved")["status"], said(world, "QuotaReserved")["reason"]) == (
        "False", "WaitingForQuota",
    )  # fmt: skip

    workload = kueue.queue(job_object(world), "gpus")
    kueue.say(workload, ("QuotaReserved", "False", "Pending", "couldn't assign flavors to pod set main: 1 more needed"))
    assert look(world, operator) == 30
    assert said(world, "QuotaReserved")["message"] == "couldn't assign flavors to pod set main: 1 more needed"
    assert said(world, "PodsReady")["reason"] == "WaitingForQuota"

    kueue.admit(workload, job["metadata"]["name"], node="g5")
    world.run_pod()
    look(world, operator)
    status = world.session(NAME)["status"]
    assert (status["phase"], said(world, "QuotaReserved")["status"]) == ("Extracting", "True")
    assert world.job()["spec"]["template"]["spec"]["nodeSelector"] == {"flavor": "g5"}, "what Kueue wrote stays"

    kueue.preempt(workload, job["metadata"]["name"])
    world.delete_pods()
    look(world, operator)
    status = world.session(NAME)["status"]
    assert (status["phase"], said(world, "QuotaReserved")["status"]) == ("Pending", "False")
    assert said(world, "QuotaReserved")["message"].startswith("Preempted to accommodate a workload")
    assert said(world, "Finished")["status"] == "False", "preemption is no failure"
    assert "disruptions" not in status

    kueue.admit(workload, job["metadata"]["name"], node="g5")
    world.run_pod()
    look(world, operator)
    assert world.session(NAME)["status"]["phase"] == "Extracting"
    assert [one.metadata.uid for one in world.jobs()] == [job["metadata"]["uid"]], "the same Job all the time"
    world.publish(NAME)
    world.delete_pods()
    world.end_job("Complete")
    look(world, operator)
    status = world.session(NAME)["status"]
    assert status["phase"] == "Succeeded"
    assert "QuotaReserved" not in [c["type"] for c in status["conditions"]]


def test_without_kueue_it_is_told_after_a_minute_and_nothing_runs(world, monkeypatch):
    world.create(NAME, **QUEUE)
    operator = world.operator()
    look(world, operator)
    look(world, operator, monkeypatch, seconds_later=50)
    assert said(world, "QuotaReserved")["reason"] == "WaitingForQuota"
    look(world, operator, monkeypatch, seconds_later=70)
    assert said(world, "QuotaReserved")["reason"] == "KueueMissing"
    assert said(world, "QuotaReserved")["message"].startswith("Kueue is not installed in this cluster")
    assert world.job()["spec"]["suspend"] is True


def test_a_kueue_that_leaves_jobs_alone_is_told_apart_from_one_that_queues_sessions(world, kueue, monkeypatch):
    session = world.create(NAME, **QUEUE)
    operator = world.operator()
    look(world, operator)
    look(world, operator, monkeypatch, seconds_later=70)
    assert said(world, "QuotaReserved")["message"].startswith("Kueue has made no Workload for the Job")
    kueue.queue(session, "gpus")
    look(world, operator, monkeypatch, seconds_later=70)
    assert said(world, "QuotaReserved")["reason"] == "SessionQueuedInsteadOfJob"
    assert "externalFrameworks" in said(world, "QuotaReserved")["message"]


def test_a_queued_session_that_is_suspended_leaves_the_queue(world, kueue):
    created = world.create(NAME, **QUEUE)
    operator = world.operator()
    look(world, operator)
    kueue.queue(job_object(world), "gpus")
    where = ("trainingsession.dev", "v1alpha1", world.namespace, "trainingsessions", NAME)
    found = world.session(NAME)
    found["spec"]["suspend"] = True
    world.custom.replace_namespaced_custom_object(*where, found)
    look(world, operator)
    world.collect("")
    look(world, operator)
    status = world.session(NAME)["status"]
    assert status["phase"] == "Suspended"
    assert "QuotaReserved" not in [c["type"] for c in status["conditions"]]
    assert created["metadata"]["uid"] == world.session(NAME)["metadata"]["uid"]
