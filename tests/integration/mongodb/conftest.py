"""A pod of MongoDB that is ready."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mongod_pod import Pod


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pod]:
    made = Pod(tmp_path)
    made.mongod.start()
    made.sidecar().wait_for("ready")
    yield made
    made.end()
