"""Parts for tests of training: a database of one's own, and small features that a head can learn."""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from pymongo.database import Database

from trainingsession_trainer.batches import LabelledFeatures
from trainingsession_trainer.checkpoints import Checkpoints
from trainingsession_trainer.config import parse_spec
from trainingsession_trainer.mongodb import connect
from trainingsession_trainer.records import SessionRecord, create_record
from trainingsession_trainer.reporting import Reporter
from trainingsession_trainer.spec import Spec


@pytest.fixture
def database(mongod) -> Iterator[Database[dict[str, Any]]]:
    """An empty database that is dropped afterwards."""
    found = connect(mongod.uri, f"training_{uuid.uuid4().hex[:12]}")
    yield found
    found.client.drop_database(found.name)
    found.client.close()


@pytest.fixture
def reporter() -> Reporter:
    return Reporter(io.StringIO())


@pytest.fixture(scope="session")
def kept_reporter() -> Reporter:
    """The same for what a module makes once."""
    return Reporter(io.StringIO())


@pytest.fixture(scope="session")
def make_features():
    """Features [n, *shape] of which every third channel grows with the label; float16 as they are stored."""

    def make(count: int, shape: tuple[int, ...] = (2, 2, 9), classes: int = 3, seed: int = 0) -> LabelledFeatures:
        rng = np.random.default_rng([seed, count])
        labels = rng.integers(0, classes, count).astype(np.int32)
        signal = labels.reshape(-1, *[1] * len(shape)) * (np.arange(shape[-1]) % 3 == 0)
        features = rng.normal(size=(count, *shape)) * 0.5 + signal
        return LabelledFeatures(features.astype(np.float16), labels)

    return make


@pytest.fixture(scope="session")
def make_spec():
    """A valid spec with some blocks replaced."""

    def make(**blocks: Any) -> Spec:
        return parse_spec(
            {"dataset": {"name": "digits"}, "baseModel": {"name": "ResNet50", "weights": "none"}, **blocks}
        )

    return make


@pytest.fixture
def new_checkpoints(database, reporter):
    """Checkpoints of a session that is new, unless its `uid` was there before; another attempt each time."""
    return partial(_checkpoints, database, reporter)


@pytest.fixture(scope="session")
def kept_checkpoints(storage, kept_reporter):
    """The same in the database of all sessions, for what a module trains once."""
    return partial(_checkpoints, storage, kept_reporter)


def _checkpoints(
    database: Database[dict[str, Any]],
    reporter: Reporter,
    uid: str | None = None,
    binding: dict[str, str] | None = None,
    **settings: Any,
) -> Checkpoints:
    uid = uid or uuid.uuid4().hex
    create_record(database, uid, "team-a", "trained")
    record = SessionRecord(database, uid, uuid.uuid4().hex)
    record.claim({})
    bound = {"session": uid, **(binding or {})}
    return Checkpoints(database, record, bound, reporter, lambda: False, **settings)
