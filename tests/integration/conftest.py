"""Sessions as pods run them, on one database for all of them, so that they find each other's features."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

import pytest

from real_apiserver import RealApiServer
from trainer_pod import Pod
from trainingsession_trainer.mongodb import connect
from trainingsession_trainer.records import create_record


@pytest.fixture(scope="session")
def tools(repo: Path) -> Path:
    """Folder with the programs of a control plane and its clients."""
    tools = Path(os.environ.get("TS_API_SERVER", repo / ".cluster" / "bin"))
    missing = RealApiServer.missing(tools) or ("" if (tools / "helm").is_file() else "helm")
    if missing:
        reason = f"{tools} holds no {missing}; run `make cluster`, or set TS_API_SERVER to the folder that does"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return tools


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
