"""Pods whose sessions are told to MLflow."""

from __future__ import annotations

import uuid

import pytest

from trainer_pod import Pod
from trainingsession_trainer.mongodb import connect
from trainingsession_trainer.records import create_record


@pytest.fixture(scope="module")
def storage(mongod):
    found = connect(mongod.uri, f"tracking_{uuid.uuid4().hex[:12]}")
    yield found
    found.client.drop_database(found.name)
    found.client.close()


@pytest.fixture(scope="module")
def make_pod(storage, mongod, tmp_path_factory):
    def make(spec, name: str) -> Pod:
        pod = Pod(tmp_path_factory.mktemp("pod"), mongod.uri, storage.name, spec, name)
        create_record(storage, pod.uid, "team-a", name)
        return pod

    return make


@pytest.fixture(scope="module")
def record_of(storage):
    return lambda pod: storage["sessions"].find_one({"_id": pod.uid})
