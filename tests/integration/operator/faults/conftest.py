"""An API server where Kubernetes' own controllers run Jobs and collect garbage, and operators behind proxies."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from kubernetes import client

from operator_lane import Lane
from real_apiserver import RealApiServer
from real_mongod import RealMongod


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
