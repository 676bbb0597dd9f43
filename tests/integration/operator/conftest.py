"""A real API server and a real mongod for the operator's own modules."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from kubernetes import client, watch

from operator_world import World
from real_apiserver import RealApiServer
from real_mongod import RealMongod
from trainingsession_operator import cluster, inventory, mongodb


@pytest.fixture(scope="session")
def api(repo: Path, tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[client.ApiClient]:
    """Client of a bare API server with the definition applied."""
    server = RealApiServer(tmp_path_factory.mktemp("apiserver"), tools)
    try:
        server.start()
        connected = server.client()
        _define(connected, repo / "manifests/crd/trainingsessions.yaml")
        yield connected
    finally:
        server.stop()


def _define(api: client.ApiClient, definition: Path) -> None:
    """Apply the definition and return when it is served."""
    definitions = client.ApiextensionsV1Api(api)
    manifest = yaml.safe_load(definition.read_text())
    definitions.create_custom_resource_definition(manifest)
    only = {"field_selector": f"metadata.name={manifest['metadata']['name']}", "timeout_seconds": 60}
    for event in watch.Watch().stream(definitions.list_custom_resource_definition, **only):
        conditions = event["object"].status.conditions or []
        if any(c.type == "Established" and c.status == "True" for c in conditions):
            return
    pytest.fail("the definition was not established within 60 s")


@pytest.fixture(scope="session")
def define() -> Callable[[client.ApiClient, Path], None]:
    """For a module with an API server of its own."""
    return _define


@pytest.fixture(scope="session")
def server(
    repo: Path, tools: Path, define: Callable[..., None], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RealApiServer]:
    """An API server where Kubernetes' own controllers make pods for Jobs and take along what an object owned."""
    found = RealApiServer(tmp_path_factory.mktemp("controlled"), tools)
    try:
        found.start()
        # Before the controllers: what is defined later they look for only every 30 s.
        define(found.client(), repo / "manifests/crd/trainingsessions.yaml")
        found.start_controllers("job-controller", "garbage-collector-controller", "resourcequota-controller")
        yield found
    finally:
        found.stop()


@pytest.fixture(scope="session")
def new_namespace() -> Callable[[client.ApiClient], str]:
    """Makes a namespace; it ends with the server."""

    def make(api: client.ApiClient) -> str:
        name = f"team-{uuid.uuid4().hex[:8]}"
        core = client.CoreV1Api(api)
        core.create_namespace({"metadata": {"name": name}})
        # Its controller does not run, and no pod is admitted without one.
        core.create_namespaced_service_account(name, {"metadata": {"name": "default"}})
        return name

    return make


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> int:
    """Sessions are listed and compared so few at a time that a dozen make several pages."""
    for module in (cluster, inventory):
        monkeypatch.setattr(module, "PAGE", 5)
    return 5


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A MongoDB that is away is given up at once; no option of the URI has a say in this."""
    monkeypatch.setattr(mongodb, "SELECTION_MS", 100)


@pytest.fixture
def namespace(api: client.ApiClient, new_namespace: Callable[[client.ApiClient], str]) -> str:
    """A fresh namespace."""
    return new_namespace(api)


@pytest.fixture
def world(api: client.ApiClient, mongod: RealMongod, namespace: str) -> Iterator[World]:
    made = World(api, mongod.uri, namespace)
    yield made
    for records in made.opened:
        records.close()
