"""What the values give trainers' pods, which Kubernetes' own Job controller makes on a real API server."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client

import builders
from builders import condition
from forward_proxy import Authority
from operator_world import World
from real_apiserver import RealApiServer
from trainingsession_operator.cluster import Cluster
from trainingsession_operator.reconcile import Reconciler
from trainingsession_operator.records import Records
from trainingsession_operator.tenants import Server
from trainingsession_operator.trainer_pod import CA_BUNDLE_ANNOTATION

SOON = 60


@pytest.fixture(scope="module")
def api(
    repo: Path, tools: Path, define: Callable[..., None], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[client.ApiClient]:
    server = RealApiServer(tmp_path_factory.mktemp("controllers"), tools)
    try:
        server.start()
        server.start_controllers("job-controller")
        define(server.client(), repo / "manifests/crd/trainingsessions.yaml")
        yield server.client()
    finally:
        server.stop()


@pytest.fixture
def look(world: World, tmp_path: Path) -> Iterator[Callable[[str], dict[str, Any]]]:
    """Have an operator with settings look at a session; gives its status."""
    settings = builders.settings(
        SERVICE_ACCOUNTS="reader,missing",
        CA_BUNDLE_FILE=str(Authority(tmp_path).certificate),
        TRAINER_HTTPS_PROXY="http://proxy:3128",
        TRAINER_POD_ANNOTATIONS=json.dumps({"karpenter.sh/do-not-disrupt": "true"}),
        TRAINER_POD_LABELS=json.dumps({"cost-center": "7"}),
        TRAINER_GPU_TOLERATIONS=json.dumps([{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]),
    )
    cluster = Cluster(world.api)
    records = Records(Server(world.mongodb, managed_users=False), cluster)

    def once(name: str) -> dict[str, Any]:
        Reconciler(settings, cluster, records).look((world.namespace, name))
        found: dict[str, Any] = world.session(name)["status"]
        return found

    yield once
    records.close()


def until(what: str, find: Callable[[], Any]) -> Any:
    end = time.monotonic() + SOON
    while not (found := find()):
        assert time.monotonic() < end, f"not within {SOON} s: {what}"
        time.sleep(0.1)
    return found


def test_the_pod_runs_as_the_allowed_account_without_a_token_and_with_what_the_values_give(world, look, tmp_path):
    world.core.create_namespaced_service_account(world.namespace, {"metadata": {"name": "reader"}})
    world.create("digits", scheduling={"serviceAccountName": "reader"})
    look("digits")
    (pod,) = until("a pod", lambda: world.core.list_namespaced_pod(world.namespace).items)
    assert pod.spec.service_account_name == "reader"
    assert not any(volume.projected for volume in pod.spec.volumes), "a token for the API server"
    assert pod.metadata.annotations["karpenter.sh/do-not-disrupt"] == "true"
    assert pod.metadata.annotations[CA_BUNDLE_ANNOTATION] == (tmp_path / "ca.crt").read_text()
    assert pod.metadata.labels["cost-center"] == "7"
    assert any(one.key == "nvidia.com/gpu" and one.operator == "Exists" for one in pod.spec.tolerations)
    environment = {one.name: one.value for one in pod.spec.containers[0].env}
    assert environment["HTTPS_PROXY"] == environment["https_proxy"] == "http://proxy:3128"


def test_an_account_that_is_not_there_is_named_in_the_api_server_s_words(world, look):
    world.create("digits", scheduling={"serviceAccountName": "missing"})
    told = until(
        "the refusal",
        lambda: (c := condition(look("digits"), "PodsReady"))["reason"] == "PodsDenied" and c,
    )
    assert 'serviceaccount "missing" not found' in told["message"]


def test_an_account_that_is_not_allowed_ends_the_session_before_any_job(world, look):
    world.create("digits", scheduling={"serviceAccountName": "builder"})
    status = look("digits")
    assert (status["phase"], condition(status, "Failed")["reason"]) == ("Failed", "ServiceAccountNotAllowed")
    assert "sessions may use: reader, missing" in condition(status, "Failed")["message"]
    assert world.jobs() == []
