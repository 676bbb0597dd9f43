"""A git server, and pods of sessions with modules."""

from __future__ import annotations

import pytest

from git_server import GitServer
from trainer_pod import Pod


@pytest.fixture(scope="session")
def git(tmp_path_factory):
    with GitServer(tmp_path_factory.mktemp("git")).running() as server:
        yield server


@pytest.fixture(scope="session")
def make_pod(make_pod):
    def make(module, name="own", **blocks) -> Pod:
        spec = {
            "dataset": {"name": "digits", "subset": 0.2},
            "baseModel": {"name": "ResNet50", "weights": "none", "inputSize": [32, 32]},
            "training": {"epochs": 3, "batchSize": 32, "seed": 5},
            "resources": {"gpus": 0},
            "module": module,
            **blocks,
        }
        return make_pod(spec, name)

    return make
