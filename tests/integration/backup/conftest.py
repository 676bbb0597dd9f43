"""Two real mongods with authentication: one that is backed up, and an empty one to restore into."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.database import Database

from real_mongod import RealMongod
from trainingsession_operator.mongodb import connect, server_uri
from trainingsession_operator.mongodb_member import ROLES

USER, PASSWORD = "trainingsession-operator", "a-long-password"
Client = MongoClient[dict[str, Any]]


class Guarded:
    """A mongod as the chart's, with the operator's user and no other."""

    def __init__(self, folder: Path) -> None:
        self.credentials = folder / "server"
        self.credentials.mkdir(parents=True)
        (self.credentials / "username").write_text(USER)
        (self.credentials / "password").write_text(PASSWORD)
        keyfile = folder / "keyfile"
        keyfile.write_text("c2VjcmV0" * 20)
        keyfile.chmod(0o400)
        test_commands = ("--setParameter", "enableTestCommands=1")
        self.mongod = RealMongod(folder, ("--auth", "--keyFile", str(keyfile), *test_commands))
        self.mongod.start()
        with MongoClient(self.mongod.address, directConnection=True, serverSelectionTimeoutMS=30_000) as local:
            member = {"_id": 0, "host": self.mongod.address}
            local.admin.command("replSetInitiate", {"_id": "rs0", "members": [member]})
            self.mongod.wait_for_primary()
            roles = [{"role": role, "db": "admin"} for role in ROLES]
            local.admin.command("createUser", USER, pwd=PASSWORD, roles=roles)
        self.client: Client = connect(server_uri(self.mongod.address, "rs0", USER, PASSWORD))

    def fail(self, command: str, code: int, times: int) -> None:
        """Have MongoDB answer the next commands of this name with an error."""
        # Only tests may do that, so the operator's user may not.
        with MongoClient(self.mongod.address, directConnection=True) as anybody:
            anybody.admin.command(
                "configureFailPoint", "failCommand", mode={"times": times},
                data={"failCommands": [command], "errorCode": code},
            )  # fmt: skip

    def clear(self) -> None:
        for name in self.client.list_database_names():
            if name.startswith("trainings_"):
                self.client.drop_database(name)

    def end(self) -> None:
        self.client.close()
        self.mongod.kill()


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Guarded]]:
    made = [Guarded(tmp_path_factory.mktemp("guarded")) for _ in range(2)]
    yield made
    for one in made:
        one.end()


@pytest.fixture
def source(guarded: list[Guarded]) -> Iterator[Guarded]:
    yield guarded[0]
    guarded[0].clear()


@pytest.fixture
def target(guarded: list[Guarded]) -> Iterator[Guarded]:
    """An empty MongoDB."""
    yield guarded[1]
    guarded[1].clear()


@pytest.fixture
def database(source: Guarded) -> Database[dict[str, Any]]:
    """A namespace's database to be backed up."""
    return source.client[f"trainings_team-a_{uuid.uuid4().hex[:8]}"]
