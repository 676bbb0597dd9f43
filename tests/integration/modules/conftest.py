"""A git server, and sessions with modules that share one database."""

from __future__ import annotations

import uuid

import pytest

from git_server import GitServer
from trainer_pod import Pod
from trainingsession_trainer.mongodb import connect
from trainingsession_trainer.records import create_record


@pytest.fixture(scope="session")
def git(tmp_path_factory):
    with GitServer(tmp_path_factory.mktemp("git")).running() as server:
        yield server


@pytest.fixture(scope="session")
def storage(mongod):
    found = connect(mongod.uri, f"modules_{uuid.uuid4().hex[:12]}")
    yield found
    found.client.drop_database(found.name)
    found.client.close()


@pytest.fixture(scope="session")
def make_pod(storage, mongod, tmp_path_factory):
    def make(module, name="own", **blocks) -> Pod:
        spec = {
            "dataset": {"name": "digits", "subset": 0.2},
            "baseModel": {"name": "ResNet50", "weights": "none", "inputSize": [32, 32]},
            "training": {"epochs": 3, "batchSize": 32, "seed": 5},
            "resources": {"gpus": 0},
            "module": module,
            **blocks,
        }
        pod = Pod(tmp_path_factory.mktemp("pod"), mongod.uri, storage.name, spec, name)
        create_record(storage, pod.uid, "team-a", name)
        return pod

    return make


@pytest.fixture
def record_of(storage):
    return lambda pod: storage["sessions"].find_one({"_id": pod.uid})
