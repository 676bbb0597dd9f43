"""What a namespace has in MongoDB: a database and a user of its own, and the Secret that tells its trainers of them.

The operator connects as the administrator, never through a namespace's Secret. Names are derived from the namespace,
never read back from the Secret.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import threading
import time
from dataclasses import dataclass
from datetime import timedelta

from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import OperationFailure, PyMongoError

from .cluster import Cluster
from .errors import ConflictError, StorageUnavailableError, driver_words
from .mongodb import Document, credentials_in, shared_uri, tenant_uri, translated
from .mongodb_check import NO_REPLICA_SET
from .trainer_pod import CA_KEY, TENANT_SECRET

log = logging.getLogger(__name__)

ENSURE_SECONDS = 600.0
"""How long a namespace's database, user and Secret are believed to be as they were left."""
NAMESPACE_CUT = 44
DATABASE_NAME = r"trainings_([a-z0-9-]{1,44})_[0-9a-f]{8}"


def database_name(namespace: str, namespace_uid: str) -> str:
    """Name of a namespace's database, at most MongoDB's 63 bytes; a namespace made again gets another."""
    return f"trainings_{namespace[:NAMESPACE_CUT]}_{hashlib.sha256(namespace_uid.encode()).hexdigest()[:8]}"


def user_roles(database: str) -> list[Document]:
    """What a namespace's user may do: read and write its own database."""
    return [{"role": "readWrite", "db": database}]


def end_other_users(database: Database[Document], user: str, grace: timedelta, named: Document | None = None) -> str:
    """Give every user of the database but `user`, or each whose name is as `named`, its end; returns a sentence.

    They can be used for `grace` from now, by MongoDB's clock, or until an earlier end that they have.
    """
    with translated("give the old users their end"):
        end = database.command("hello")["localTime"] + grace
        others = database.command("usersInfo", filter={"user": {"$ne": user, **(named or {})}})["users"]
        for other in others:
            earlier = (other.get("customData") or {}).get("dropAfter")
            ends = min(end, earlier) if earlier else end
            database.command("updateUser", other["user"], customData={"dropAfter": ends})
    dropped = drop_replaced_users(database)
    kept = len(others) - len(dropped)
    until = f"; {kept} old user(s) can be used until {end:%Y-%m-%d %H:%M} UTC at the latest" if kept else ""
    return f"{len(dropped)} old user(s) dropped{until}"


def drop_replaced_users(database: Database[Document]) -> list[str]:
    """Drop the database's users whose time ended after a rotation, not the one that asks; give their names."""
    with translated("look for replaced users"):
        now = database.command("hello")["localTime"]
        asking = {user["user"] for user in database.command("connectionStatus")["authInfo"]["authenticatedUsers"]}
        users = database.command("usersInfo", filter={"customData.dropAfter": {"$lte": now}})["users"]
        dropped = [str(user["user"]) for user in users if user["user"] not in asking]
        for user in dropped:
            database.command("dropUser", user)
    return dropped


@dataclass(frozen=True)
class Server:
    """How MongoDB is reached: by the operator with `uri` (secret), by trainers with a user of their own or the same."""

    uri: str
    managed_users: bool
    authorities: str = ""
    """Certificates in PEM that trainers trust MongoDB by; empty where their image's own authorities suffice."""

    def secret(self, uri: str, database: str) -> dict[str, str]:
        """What a namespace's Secret holds."""
        return {"uri": uri, "database": database} | ({CA_KEY: self.authorities} if self.authorities else {})


@dataclass(frozen=True)
class _Ensured:
    """A namespace's database, when its user was last set, and when namespace and Secret were last looked at."""

    database: str
    set_at: float
    looked_at: float


_NOTHING = _Ensured("", float("-inf"), float("-inf"))


class Tenants:
    """The namespaces on one MongoDB deployment."""

    def __init__(self, client: MongoClient[Document], server: Server, cluster: Cluster) -> None:
        self._client = client
        self._server = server
        self._cluster = cluster
        self._ensured: dict[str, _Ensured] = {}
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}

    def database(self, namespace: str, *, since: float | None = None) -> Database[Document]:
        """Give the namespace's database, with its user and Secret; where `since` is given, looked at after it.

        Raises StorageUnavailableError, and ApiError for the Secret.
        """
        now, known = time.monotonic(), self._ensured.get(namespace, _NOTHING)
        asked = now if since is None else since
        if now < known.set_at + ENSURE_SECONDS and (since is None or since < known.looked_at):
            return self._client[known.database]
        # Outside of the lock: while MongoDB is away, all sessions of the namespace wait for it at once and not in turn.
        with translated("be reached"):
            hello = self._client.admin.command("hello")
        if not hello.get("setName"):
            raise StorageUnavailableError(NO_REPLICA_SET)
        with self._lock:
            lock = self._locks.setdefault(namespace, threading.Lock())
        with lock:
            known = self._ensured.get(namespace, _NOTHING)
            if known.looked_at < asked:  # else another session has just seen to it
                began = time.monotonic()
                uid = self._cluster.namespace_uid(namespace)
                if uid is None:
                    raise StorageUnavailableError(f"Namespace {namespace} is gone.")
                database = database_name(namespace, uid)
                believed = database == known.database and began < known.set_at + ENSURE_SECONDS
                # Where the Secret was written and its answer lost, the user has still to follow: nothing is believed.
                self._ensured.pop(namespace, None)
                self._ensure(namespace, database, user_is_there=believed)
                known = _Ensured(database, known.set_at if believed else began, began)
                self._ensured[namespace] = known
        return self._client[known.database]

    def use(self, client: MongoClient[Document]) -> None:
        """Ask through another client from now on."""
        self._client = client

    def forget(self) -> None:
        """Believe nothing of what was seen: another mongod answers, perhaps with other data."""
        self._ensured = {}

    def drop(self, database: str) -> None:
        """Drop a namespace's database, after its users: who is interrupted between finds the database again."""
        if self._server.managed_users:
            with translated("drop the users of a database"):
                self._client[database].command("dropAllUsersFromDatabase")
        with translated("drop a database"):
            self._client.drop_database(database)

    def _ensure(self, namespace: str, database: str, *, user_is_there: bool) -> None:
        """Write the Secret first, then make the user match it: a crash between leaves nothing that cannot go on."""
        present = self._cluster.secret(namespace, TENANT_SECRET)
        user, password = credentials_in((present or {}).get("uri", ""), database)
        user, password = user or database, password or secrets.token_urlsafe(32)
        shared, server = not self._server.managed_users, self._server.uri
        uri = shared_uri(server, database) if shared else tenant_uri(server, database, user, password)
        wanted = self._server.secret(uri, database)
        if present is None or any(present.get(key) != value for key, value in wanted.items()):
            try:
                self._cluster.write_secret(namespace, TENANT_SECRET, wanted, exists=present is not None)
            except ConflictError as error:
                raise StorageUnavailableError(
                    "The namespace's Secret was written by somebody else just now."
                ) from error
            log.info("namespace %s: Secret %s written for database %s", namespace, TENANT_SECRET, database)
        elif user_is_there:
            return
        if self._server.managed_users:
            self._ensure_user(database, user, password)

    def _ensure_user(self, database: str, user: str, password: str) -> None:
        roles = user_roles(database)
        own = self._client[database]
        try:
            own.command("updateUser", user, pwd=password, roles=roles)
        except OperationFailure as error:
            if (error.details or {}).get("codeName") != "UserNotFound":
                raise StorageUnavailableError(
                    f"The user of database {database} cannot be set: {driver_words(error)}"
                ) from error
            with translated("create the user"):
                own.command("createUser", user, pwd=password, roles=roles)
            log.info("database %s: user made", database)
        except PyMongoError as error:
            raise StorageUnavailableError(f"MongoDB cannot be used: {driver_words(error)}") from error
