"""The connection to the namespace's database, and the patience with which it is used.

A MongoDB that is away for a moment (restart, election) is waited for; after two minutes the session gives up with
StorageError, frees its GPU and is tried again later.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pymongo import MongoClient, ReadPreference
from pymongo.database import Database
from pymongo.errors import (
    AutoReconnect,
    ConfigurationError,
    ExecutionTimeout,
    InvalidName,
    InvalidURI,
    OperationFailure,
    PyMongoError,
    WaitQueueTimeoutError,
)
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from .errors import Stopped, StorageError

Document = dict[str, Any]
T = TypeVar("T")

PATIENCE_SECONDS = 120.0
PAUSE_SECONDS = 1.0
# The server's own words for "not now": elections, shutdowns, write concern not reached in time.
_TRANSIENT_CODES = frozenset({6, 7, 64, 89, 91, 112, 189, 262, 9001, 10058, 10107, 11600, 11602, 13435, 13436})
_DISK_CODES = frozenset({14031, 365})


def connect(
    uri: str, database: str, patience: float = PATIENCE_SECONDS, stop: Callable[[], bool] | None = None
) -> Database[Document]:
    """Connect and make sure that the database answers; raises StorageError."""
    try:
        client: MongoClient[Document] = MongoClient(
            uri,
            appname="trainingsession-trainer",
            connectTimeoutMS=5_000,
            serverSelectionTimeoutMS=5_000,
            # A stalled connection has to be noticed, and a 16 MB batch over a slow network has to pass.
            socketTimeoutMS=60_000,
            retryWrites=True,
            retryReads=True,
        )
        found = client.get_database(
            database,
            write_concern=WriteConcern("majority", j=True, wtimeout=60_000),
            read_concern=ReadConcern("majority"),
            read_preference=ReadPreference.PRIMARY,
        )
    except (ConfigurationError, InvalidURI, InvalidName, ValueError) as error:
        # Never the URI: it holds the password.
        raise StorageError(f"The MongoDB URI is not valid ({type(error).__name__}); correct it.") from error
    patiently(lambda: found.command("ping"), "connect to MongoDB", patience, stop)
    return found


def read_setting(path: Path, what: str) -> str:
    """Read a one-line file that is mounted into the pod; raises StorageError."""
    try:
        text = path.read_text("utf-8").strip()
    except OSError as error:
        raise StorageError(f"Could not read {what} from {path} ({error.strerror}); check what is mounted.") from error
    if not text:
        raise StorageError(f"{path} is empty; it must hold {what}.")
    return text


def patiently(
    operation: Callable[[], T],
    what: str,
    patience: float = PATIENCE_SECONDS,
    stop: Callable[[], bool] | None = None,
) -> T:
    """Run an operation that may be repeated, and repeat it while MongoDB is away; raises StorageError after `patience`.

    `what` completes the sentence "Could not …". When `stop` answers True, the waiting ends with Stopped.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            return operation()
        except PyMongoError as error:
            if not is_transient(error):
                raise storage_error(error, what) from error
            if time.monotonic() + PAUSE_SECONDS > deadline:
                within = f" within {patience:.0f} s" if patience else ""
                raise StorageError(f"Could not {what}{within} ({reason(error)}); check that MongoDB runs.") from error
            if stop is not None and stop():
                raise Stopped(f"Stopped while waiting to {what}; the next attempt goes on.") from error
        time.sleep(PAUSE_SECONDS)


def is_transient(error: PyMongoError) -> bool:
    """Whether the same operation can succeed a little later."""
    if isinstance(error, AutoReconnect | WaitQueueTimeoutError | ExecutionTimeout):  # ServerSelectionTimeoutError too
        return True
    return isinstance(error, OperationFailure) and error.code in _TRANSIENT_CODES


def storage_error(error: PyMongoError, what: str) -> StorageError:
    """Turn what MongoDB refused into a sentence with its remedy."""
    code = error.code if isinstance(error, OperationFailure) else None
    if code in _DISK_CODES or "No space left" in str(error):
        remedy = "free or enlarge its disk"
    elif code in (13, 18):
        remedy = "check the user and password in the Secret"
    else:
        remedy = "see the log of MongoDB"
    return StorageError(f"Could not {what} ({reason(error)}); {remedy}.")


def reason(error: PyMongoError) -> str:
    """Give MongoDB's own words, without the topology dump and short enough for a sentence."""
    words = str(error).split(", full error", 1)[0].split(", Timeout:", 1)[0].split(" (configured timeouts", 1)[0]
    return " ".join(words.split())[:200].rstrip(".,") or type(error).__name__
