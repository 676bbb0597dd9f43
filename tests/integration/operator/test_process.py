"""The operator as a process of its own with a real API server and a real mongod: how it serves, tells and stops."""

from __future__ import annotations

import copy
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client, watch
from pymongo import MongoClient

import builders
from operator_world import World
from real_apiserver import RealApiServer
from real_mongod import RealMongod
from running_operator import RunningOperator
from trainingsession_operator.mongodb import server_uri
from trainingsession_operator.readable import readable
from trainingsession_operator.records import COLLECTION
from trainingsession_operator.resource import GROUP, PLURAL, VERSION

STOP_SECONDS = 10.0
"""Within which the operator promises to end; the kubelet would give it thirty."""
SOON = 60

Run = Callable[..., RunningOperator]


@pytest.fixture
def run(world: World, tmp_path: Path) -> Iterator[Run]:
    started: list[RunningOperator] = []

    def make(mongodb: str = world.mongodb, api: client.ApiClient = world.api, **environment: str) -> RunningOperator:
        operator = RunningOperator(tmp_path, api, mongodb, world.namespace, **environment)
        started.append(operator)
        operator.start()
        return operator

    yield make
    for operator in started:
        operator.kill()


def wait_for_status(world: World, name: str, has: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The status of a session as soon as it is so."""
    where = (GROUP, VERSION, world.namespace, PLURAL)
    options = {"field_selector": f"metadata.name={name}", "timeout_seconds": SOON}
    for event in watch.Watch().stream(world.custom.list_namespaced_custom_object, *where, **options):
        status = event["object"].get("status") or {}
        if has(status):
            return dict(status)
    raise TimeoutError(f"{name} did not come so far; its status is {world.session(name).get('status')}")


def wait_for_jobs(world: World, number: int) -> None:
    seen: set[str] = set()
    for event in watch.Watch().stream(world.batch.list_namespaced_job, world.namespace, timeout_seconds=SOON):
        seen.add(event["object"].metadata.uid)
        if len(seen) >= number:
            return
    raise TimeoutError(f"{len(seen)} Jobs of {number}")


def sample(operator: RunningOperator, name: str) -> float:
    """Sum of a metric over all of its labels."""
    _, text = operator.probe("METRICS_PORT", "/metrics")
    found = [line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
    return sum(float(line.rpartition(" ")[2]) for line in found)


def test_it_serves_tells_and_ends_in_order_with_work_in_flight(world, run):
    operator = run()
    operator.wait_for_line("serving sessions of")
    for number in range(60):
        world.create(f"s{number:02}")
    wait_for_jobs(world, 20)  # so that some of the sixteen workers have come to the end of a look
    assert operator.probe("HEALTH_PORT", "/healthz")[0] == 200
    assert operator.probe("METRICS_PORT", "/readyz") == (200, "ready\n")
    assert sample(operator, "controller_runtime_reconcile_total") >= 4
    assert sample(operator, "rest_client_requests_total") >= 9
    assert sample(operator, "mongodb_up") == 1
    assert sample(operator, "mongodb_members") == 1
    assert 0 < sample(operator, "mongodb_disk_used_bytes") < sample(operator, "mongodb_disk_size_bytes")
    assert sample(operator, "trainingsession_longest_pending_seconds") > 0
    assert operator.process is not None
    operator.process.send_signal(signal.SIGUSR1)
    operator.wait_for_line("the log level is debug now")
    assert operator.terminate(STOP_SECONDS) == 0
    operator.wait_for_line("stopped")
    assert not [line for line in operator.lines if line.get("unformatted")], operator.log()
    looks = [line for line in operator.lines if "Job" in line["message"] and "made" in line["message"]]
    assert looks
    assert all(line["namespace"] == world.namespace and line["session"] and line["reconcileID"] for line in looks)


def test_it_ends_in_time_although_mongodb_answers_nothing(world, run):
    """Looks wait in MongoDB's driver when the signal comes."""
    hung = threading.Semaphore(0)
    connections = []

    def accept(silent: socket.socket) -> None:
        while True:
            try:
                connections.append(silent.accept())
            except OSError:
                return
            hung.release()

    with socket.create_server(("127.0.0.1", 0)) as silent:
        threading.Thread(target=accept, args=(silent,), daemon=True).start()
        operator = run(f"mongodb://127.0.0.1:{silent.getsockname()[1]}/?replicaSet=rs0")
        operator.wait_for_line("serving sessions of")
        for number in range(4):
            world.create(f"s{number}")
        assert hung.acquire(timeout=SOON)
        code, sentence = operator.probe("METRICS_PORT", "/readyz")
        assert code == 503
        assert "MongoDB" in sentence
        assert operator.probe("HEALTH_PORT", "/healthz")[0] == 200, "a restart would not bring MongoDB back"
        assert operator.terminate(STOP_SECONDS) == 0
        assert "after close" not in operator.log()


def test_after_a_restart_ended_sessions_are_counted_and_no_news(world, run):
    operator = run()
    operator.wait_for_line("serving sessions of")
    world.create("digits")
    wait_for_status(world, "digits", lambda status: "jobName" in status)
    world.operator()  # only for its connection to MongoDB
    world.publish("digits")
    world.end_job("Complete")
    ended = wait_for_status(world, "digits", lambda status: status.get("phase") == "Succeeded")
    operator.wait_for_line("Succeeded")
    assert operator.terminate(STOP_SECONDS) == 0

    again = run()
    world.create("other")
    wait_for_status(world, "other", lambda status: "jobName" in status)
    assert sample(again, "trainingsession_finished_total") == 0
    assert sample(again, "trainingsession_sessions") == 2
    assert world.session("digits")["status"] == ended


def test_a_deletion_that_was_seen_is_noted_although_the_operator_ends_right_after(world, run):
    operator = run()
    operator.wait_for_line("serving sessions of")
    uid = world.create("digits")["metadata"]["uid"]
    wait_for_status(world, "digits", lambda status: "jobName" in status)
    world.delete("digits")
    # The watch tells in the order of versions: whoever knows of this one knows of the deletion.
    world.create("other")
    wait_for_status(world, "other", lambda status: "jobName" in status)
    assert operator.terminate(STOP_SECONDS) == 0
    world.operator()  # only for its connection to MongoDB
    record = world.database()[COLLECTION].find_one({"_id": uid})
    assert record is not None
    assert "deletedAt" in record


@pytest.fixture
def lenient(world, tools, define, repo, tmp_path) -> Iterator[World]:
    """On an API server with a definition that lets everything through, as a newer one or a hand's might."""
    folder = tmp_path / "apiserver"
    folder.mkdir()
    server = RealApiServer(folder, tools)
    try:
        server.start()
        api = server.client()
        definition = yaml.safe_load((repo / "manifests/crd/trainingsessions.yaml").read_text())
        everything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = everything
        loose = tmp_path / "definition.yaml"
        loose.write_text(yaml.safe_dump(definition))
        define(api, loose)
        client.CoreV1Api(api).create_namespace({"metadata": {"name": world.namespace}})
        yield World(api, world.mongodb, world.namespace)
    finally:
        server.stop()


UNREADABLE = {
    "text": "text",
    "none": None,
    "list": {"dataset": [1], "baseModel": 3},
    "newer": {**builders.SPEC, "resources": {**builders.SPEC["resources"], "gpuWhenCached": "sometimes"}},
}
POISON = {
    "text": "text",
    "conditions": {"conditions": "none", "phase": 7, "attempts": "many", "placement": ["x"]},
    "newer": {"phase": "Paused", "conditions": [{"type": "Paused", "status": "Perhaps"}], "progress": {"percent": "x"}},
    "finished": {"conditions": [{"type": "Finished", "status": "True"}], "completionTime": "yesterday"},
}
"""Of sessions that can be read otherwise."""


def test_sessions_that_no_operator_can_read_are_told_so_cost_no_other_anything_and_recover_when_mended(lenient, run):
    where = (GROUP, VERSION, lenient.namespace, PLURAL)
    for name, spec in UNREADABLE.items():
        body = {"apiVersion": f"{GROUP}/{VERSION}", "kind": "TrainingSession", "spec": copy.deepcopy(spec)}
        body["metadata"] = {"name": name, "namespace": lenient.namespace}
        lenient.custom.create_namespaced_custom_object(*where, body)
    for name, status in POISON.items():
        lenient.create(f"status-{name}")
        whole = lenient.session(f"status-{name}") | {"status": status}
        lenient.custom.replace_namespaced_custom_object_status(*where, f"status-{name}", whole)
    operator = run(api=lenient.api)
    operator.wait_for_line("serving sessions of")
    good = lenient.create("good")
    wait_for_status(lenient, "good", lambda status: "jobName" in status)
    for name in UNREADABLE:
        status = wait_for_status(lenient, name, lambda status: status.get("phase") == "Pending")
        found = builders.condition(status, "Accepted")
        assert (found["status"], found["reason"]) == ("False", "InvalidSpec")
        assert found["message"].startswith("The spec cannot be read (")
    assert "gpuWhenCached is 'sometimes', and this operator knows never and always" in found["message"]
    for name in POISON:
        status = wait_for_status(lenient, f"status-{name}", lambda status: "jobName" in status)
        assert (status["phase"], readable(status)) == ("Pending", status)
    owners = {job.metadata.owner_references[0].name for job in lenient.jobs()}
    assert owners == {"good", *(f"status-{name}" for name in POISON)}
    assert operator.probe("HEALTH_PORT", "/healthz")[0] == 200
    assert sample(operator, "workqueue_keys_in_backoff") == len(UNREADABLE)
    said = [line["message"] for line in operator.lines if f"{lenient.namespace}/newer" in line["message"]]
    assert any("this operator knows never and always" in line and "trying again in" in line for line in said)

    mended = lenient.session("newer")
    mended["spec"]["resources"]["gpuWhenCached"] = "always"
    lenient.custom.replace_namespaced_custom_object(*where, "newer", mended)
    status = wait_for_status(lenient, "newer", lambda status: "jobName" in status)
    assert builders.condition(status, "Accepted")["status"] == "True"
    assert sample(operator, "workqueue_keys_in_backoff") == len(UNREADABLE) - 1
    assert lenient.session("good")["metadata"]["uid"] == good["metadata"]["uid"]


def test_mongodb_gone_is_unready_and_healthy_and_back_is_ready(world, run, tmp_path):
    folder = tmp_path / "mongod"
    folder.mkdir()
    server = RealMongod(folder)
    server.start()
    try:
        server.initiate()
        operator = run(server.uri)
        operator.wait_for_line("MongoDB can be used")
        assert operator.probe("METRICS_PORT", "/readyz")[0] == 200
        server.kill()
        operator.wait_for_line("MongoDB cannot be used")
        assert operator.probe("METRICS_PORT", "/readyz")[0] == 503
        assert operator.probe("HEALTH_PORT", "/healthz")[0] == 200
        assert sample(operator, "mongodb_up") == 0
        so_far = len(operator.lines)
        server.start()
        operator.wait_for_line("MongoDB can be used", after=so_far)
        assert operator.probe("METRICS_PORT", "/readyz") == (200, "ready\n")
        assert sample(operator, "mongodb_up") == 1
    finally:
        server.stop()


def test_a_wrong_password_is_said_once_and_sessions_wait_until_the_secret_is_mended(world, run, tmp_path):
    folder = tmp_path / "mongod"
    folder.mkdir()
    keyfile = folder / "keyfile"
    keyfile.write_text("c2VjcmV0" * 20)
    keyfile.chmod(0o400)
    server = RealMongod(folder, ("--auth", "--keyFile", str(keyfile)))
    server.start()
    try:
        server.initiate()
        with MongoClient(server.uri) as alone:
            alone.admin.command("createUser", "admin", pwd="right", roles=["root"])
        operator = run(server_uri(server.address, "rs0", "admin", "wr0ng"))
        line = operator.wait_for_line("MongoDB cannot be used: it refuses the user or the password; correct them")
        assert operator.probe("METRICS_PORT", "/readyz") == (503, line["message"] + "\n")
        world.create("waits")
        status = wait_for_status(world, "waits", lambda status: "conditions" in status)
        reasons = {c["reason"] for c in status["conditions"]}
        assert "StorageUnavailable" in reasons
        assert status["phase"] == "Pending"
        assert "wr0ng" not in operator.log() + str(status)
        assert operator.probe("HEALTH_PORT", "/healthz")[0] == 200
        (tmp_path / "mongodb").write_text(server_uri(server.address, "rs0", "admin", "right"))
        end = time.monotonic() + SOON
        while operator.probe("HEALTH_PORT", "/healthz")[0] == 200:  # kopf asks at most every ten seconds
            assert time.monotonic() < end
            time.sleep(0.2)
        operator.terminate(STOP_SECONDS)  # as the kubelet does for it
        operator.start()
        wait_for_status(world, "waits", lambda status: "jobName" in status)
    finally:
        server.stop()
