"""An API server where Kubernetes' own controllers run Jobs and collect garbage, and operators behind proxies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kubernetes import client

from operator_lane import Lane
from real_apiserver import RealApiServer
from real_mongod import RealMongod


@pytest.fixture(scope="session")
def server(
    repo: Path, tools: Path, define: Callable[..., None], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RealApiServer]:
    found = RealApiServer(tmp_path_factory.mktemp("faults"), tools)
    try:
        found.start()
        # Before the controllers: what is defined later they look for only every 30 s.
        define(found.client(), repo / "manifests/crd/trainingsessions.yaml")
        found.start_controllers("job-controller", "garbage-collector-controller")
        yield found
    finally:
        found.stop()


@pytest.fixture(scope="module")
def new_lane(
    server: RealApiServer,
    mongod: RealMongod,
    new_namespace: Callable[[client.ApiClient], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[], Lane]]:
    """Makes a namespace whose operator is not started yet."""
    made: list[Lane] = []

    def make() -> Lane:
        lane = Lane(server, mongod, new_namespace(server.client()), tmp_path_factory.mktemp("lane"))
        made.append(lane)
        return lane

    yield make
    for lane in made:
        lane.close()


@pytest.fixture(scope="module")
def lane(new_lane: Callable[[], Lane]) -> Lane:
    """A namespace whose operator runs."""
    made = new_lane()
    made.start()
    return made
