"""A namespace's database on a real mongod."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.database import Database

from real_mongod import RealMongod


@pytest.fixture(scope="session")
def client(mongod: RealMongod) -> Iterator[MongoClient[dict[str, Any]]]:
    with MongoClient(mongod.uri, readConcernLevel="majority", w="majority") as connected:
        yield connected


@pytest.fixture
def database(client: MongoClient[dict[str, Any]]) -> Iterator[Database[dict[str, Any]]]:
    name = f"trainings_{uuid.uuid4().hex}"
    yield client[name]
    client.drop_database(name)
