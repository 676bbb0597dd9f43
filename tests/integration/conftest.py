"""Sessions as pods run them, on one database for all of them, so that they find each other's features."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from trainer_pod import Pod
from trainingsession_trainer.mongodb import connect
from trainingsession_trainer.records import create_record


@pytest.fixture(scope="session")
def storage(mongod):
    found = connect(mongod.uri, f"sessions_{uuid.uuid4().hex[:12]}")
    yield found
    found.client.drop_database(found.name)
    found.client.close()


@pytest.fixture(scope="session")
def make_pod(storage, mongod, tmp_path_factory):
    def make(spec: Any, name: str = "quick") -> Pod:
        pod = Pod(tmp_path_factory.mktemp("pod"), mongod.uri, storage.name, spec, name)
        create_record(storage, pod.uid, "team-a", name)
        return pod

    return make


@pytest.fixture(scope="session")
def record_of(storage):
    return lambda pod: storage["sessions"].find_one({"_id": pod.uid})
