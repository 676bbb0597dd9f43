"""What the chart's pod of MongoDB has, on loopback: a mongod with keyfile and passwords, and its sidecar."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

import pytest
from pymongo import MongoClient

from real_mongod import RealMongod, free_port

MODULE = "trainingsession_operator.mongodb_init"
USERNAME = "trainingsession-operator"
PASSWORD = "a-long-password"


@dataclass
class Sidecar:
    """The sidecar as a process of its own, its log read line by line."""

    arguments: list[str]
    port: int
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._queue: Queue[str | None] = Queue()
        self.process = subprocess.Popen(
            [sys.executable, "-m", MODULE, *self.arguments, f"--health-port={self.port}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._queue.put(line.rstrip("\n"))
        self._queue.put(None)

    def wait_for(self, pattern: str, seconds: float = 60) -> str:
        """The first new line that matches."""
        while True:
            try:
                line = self._queue.get(timeout=seconds)
            except Empty:
                line = None
            if line is None:
                pytest.fail(f"no line like {pattern!r} in {self.lines}")
            self.lines.append(line)
            if re.search(pattern, line):
                return line

    def probe(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(10)


class Pod:
    """What the chart's pod has: a mongod with keyfile and authentication, and the Secret's files."""

    def __init__(self, folder: Path) -> None:
        self.credentials = folder / "server"
        self.credentials.mkdir(parents=True)
        self.members: list[Pod] = [self]
        (self.credentials / "username").write_text(USERNAME)
        (self.credentials / "password").write_text(PASSWORD)
        keyfile = folder / "keyfile"
        keyfile.write_text("c2VjcmV0" * 20)
        keyfile.chmod(0o400)
        self.mongod = RealMongod(folder, ("--auth", "--keyFile", str(keyfile)))
        self.sidecars: list[Sidecar] = []

    def sidecar(self, **changed: str) -> Sidecar:
        told = {
            "mongod": self.mongod.address,
            "host": self.mongod.address,
            "members": ",".join(member.mongod.address for member in self.members),
            "replica-set": "rs0",
            "credentials": str(self.credentials),
            "secret": "the-server-secret",
        }
        arguments = [
            f"--{key}={value}" for key, value in (told | {k.replace("_", "-"): v for k, v in changed.items()}).items()
        ]
        self.sidecars.append(Sidecar(arguments, free_port()))
        return self.sidecars[-1]

    def localhost(self) -> MongoClient[dict[str, Any]]:
        return MongoClient(self.mongod.address, directConnection=True, serverSelectionTimeoutMS=30_000)

    def admin(self, **options: Any) -> MongoClient[dict[str, Any]]:
        """A client of the replica set, or of this member alone with directConnection."""
        uri = self.mongod.address if options else self.mongod.uri
        return MongoClient(uri, **options, username=USERNAME, password=PASSWORD, serverSelectionTimeoutMS=30_000)

    def lose_volume(self) -> None:
        """End mongod as a crash would, and empty its folder."""
        self.mongod.kill()
        shutil.rmtree(self.mongod.folder / "data")

    def end(self) -> None:
        for sidecar in self.sidecars:
            if sidecar.process.poll() is None:
                sidecar.end(signal.SIGKILL)
        self.mongod.kill()
