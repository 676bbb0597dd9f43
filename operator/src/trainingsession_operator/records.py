"""The only module with MongoDB: a database and a user per namespace, the sessions' records, and their changes.

The operator connects as the administrator, never through a namespace's Secret. Names are derived from the namespace,
never read back from the Secret.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar
from urllib.parse import quote_plus, unquote_plus, urlsplit

from bson import ObjectId
from bson.errors import BSONError
from pymongo import MongoClient, ReturnDocument
from pymongo.database import Database
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.uri_parser import parse_uri

from . import plan, record_view
from .cluster import Cluster
from .errors import ConflictError, StartError, StorageUnavailableError, driver_words
from .jobs import TENANT_SECRET
from .resource import Session

log = logging.getLogger(__name__)

COLLECTION = "sessions"
RECORD_VERSION = 2
"""From 2 on, the operator notes a session's end in its record before it writes it into the status."""
FEATURE_SETS, FEATURE_SHARDS = "feature_sets", "feature_shards"
PROGRESS = {"progress", "updatedAt"}
"""Fields that a trainer changes every few seconds."""
MOST_ANSWERS = 16
"""Earlier sessions of the same experiment that are looked at, until one has all of its artifacts."""
MOST_SETS = 64
"""Feature sets of one recipe that are looked at: two, and more where an older trainer stored them in another way."""
ENSURE_SECONDS = 600.0
"""How long a namespace's database, user and Secret are believed to be as they were left."""
NAMESPACE_CUT = 44
DATABASE_NAME = r"trainings_([a-z0-9-]{1,44})_[0-9a-f]{8}"
SELECTION_MS = 5_000
SOCKET_MS = 20_000

Document = dict[str, Any]
T = TypeVar("T")


def database_name(namespace: str, namespace_uid: str) -> str:
    """Name of a namespace's database, at most MongoDB's 63 bytes; a namespace made again gets another."""
    return f"trainings_{namespace[:NAMESPACE_CUT]}_{hashlib.sha256(namespace_uid.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Server:
    """How MongoDB is reached: by the operator with `uri` (secret), by trainers with a user of their own or the same."""

    uri: str
    managed_users: bool


@dataclass(frozen=True)
class _Ensured:
    """A namespace's database, when its user was last set, and when namespace and Secret were last looked at."""

    database: str
    set_at: float
    looked_at: float


_NOTHING = _Ensured("", float("-inf"), float("-inf"))


class Records:
    """The namespaces' databases on one MongoDB deployment."""

    def __init__(self, server: Server, cluster: Cluster) -> None:
        """Raises StartError for an address that cannot be used; does not wait for MongoDB."""
        self._server = server
        self._cluster = cluster
        self._client = _connect(server.uri)
        self._ensured: dict[str, _Ensured] = {}
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}

    def close(self) -> None:
        """End all connections; a waiting change stream ends with an error."""
        self._client.close()

    def ping(self) -> str:
        """Say in one sentence why MongoDB cannot be used; empty when it can."""
        try:
            hello = self._client.admin.command("hello")
        except PyMongoError as error:
            return f"MongoDB cannot be used: {driver_words(error)}"
        if not hello.get("setName"):
            return "MongoDB is no replica set; start mongod with --replSet and initiate it."
        return ""

    def prepare(self, session: Session, identity: str | None = None) -> Document:
        """Make sure of the namespace's database, user and Secret and of the session's record; return the record.

        `identity` tells which other sessions are the same experiment. Raises StorageUnavailableError, and ApiError for
        the Secret.
        """
        sessions = self._namespace_database(session.namespace)[COLLECTION]
        found = _storage("read the record", lambda: sessions.find_one({"_id": session.uid}))
        if found is not None and found.get("recordVersion") is not None:
            if found.get("deletionPolicy") != session.deletion_policy:
                policy = {"$set": {"deletionPolicy": session.deletion_policy}}
                _storage("store the deletion policy", lambda: sessions.update_one({"_id": session.uid}, policy))
            return found
        # A new session: nothing is believed from before, as its namespace may be another one under the same name.
        sessions = self._namespace_database(session.namespace, anew=True)[COLLECTION]
        fields = {
            "recordVersion": RECORD_VERSION,
            "namespace": session.namespace,
            "name": session.name,
            "deletionPolicy": session.deletion_policy,
            **({"identity": identity} if identity else {}),
        }
        stage = {"$set": {key: {"$literal": value} for key, value in fields.items()} | {"createdAt": "$$NOW"}}
        made = lambda: sessions.find_one_and_update(  # noqa: E731
            {"_id": session.uid}, [stage], upsert=True, return_document=ReturnDocument.AFTER
        )
        return _storage("create the record", made) or {}

    def reuse_result(self, session: Session, identity: str) -> Document | None:
        """Answer the session from the first one of the same identity whose artifacts are all there.

        Copies its result into the session's record and returns that; None where there is no such session.
        """
        database = self._namespace_database(session.namespace)
        sessions, files = database[COLLECTION], database["artifacts.files"]

        def is_whole(found: Document) -> bool:
            ids = [ObjectId(item["id"]) for item in record_view.artifacts(found)]
            return record_view.accuracy(found) is not None and files.count_documents({"_id": {"$in": ids}}) == len(ids)

        stays = {"removing": {"$exists": False}}

        def answer() -> Document | None:
            sessions.create_index("identity", sparse=True)
            same = {"identity": identity, "result": {"$exists": True}, "_id": {"$ne": session.uid}, **stays}
            for found in sessions.find(same).sort("result.publishedAt", 1).limit(MOST_ANSWERS):
                if not is_whole(found):
                    continue
                source = found.get("reusedFrom") or {"name": found.get("name"), "uid": found["_id"]}
                fields = {key: found[key] for key in ("result", "samples", "trainer") if key in found}
                taken = {"$set": {key: {"$literal": value} for key, value in (fields | {"reusedFrom": source}).items()}}
                mine = {"_id": session.uid, "result": {"$exists": False}}
                sessions.update_one(mine, [taken])
                # Whoever removes a deleted session says so before looking for others that name its artifacts, and here
                # they are named before looking for that: one of both sees the other.
                if is_whole(found) and sessions.find_one({"_id": found["_id"], **stays}, {"_id": 1}) is not None:
                    return sessions.find_one({"_id": session.uid})
                sessions.update_one({"_id": session.uid}, {"$unset": {"result": "", "reusedFrom": ""}})
            return None

        return _storage("look for the same experiment", answer)

    def note_end(self, session: Session, phase: str) -> None:
        """Store that the session is at its end; once, and before its status says so."""
        sessions = self._namespace_database(session.namespace)[COLLECTION]
        stage = {"$set": {"ended": {"phase": phase, "at": "$$NOW"}}}
        mine = {"_id": session.uid, "ended": {"$exists": False}}
        _storage("note the end", lambda: sessions.update_one(mine, [stage]))

    def has_ended(self, session: Session) -> bool:
        """Whether the session's end was noted, or its record cannot tell: it is gone, or of an older operator."""
        sessions = self._namespace_database(session.namespace)[COLLECTION]
        found = _storage(
            "read the record", lambda: sessions.find_one({"_id": session.uid}, {"ended": 1, "recordVersion": 1})
        )
        return (
            found is None or "ended" in found or (record_view.whole(found.get("recordVersion")) or 0) < RECORD_VERSION
        )

    def count_lost_job(self, session: Session) -> None:
        """Note that the session's Job vanished and was made again."""
        sessions = self._namespace_database(session.namespace)[COLLECTION]
        # A pipeline, because $inc refuses a count that a session's own code made into something else.
        count = {"$add": [{"$cond": [{"$isNumber": "$jobsLost"}, "$jobsLost", 0]}, 1]}
        stage = {"$set": {"jobsLost": count}}
        _storage("note a lost Job", lambda: sessions.update_one({"_id": session.uid}, [stage]))

    def holds_features(self, session: Session, recipe: str) -> bool:
        """Whether every shard that the session needs, of both splits, is stored. Raises StorageUnavailableError.

        Only a hint of what the trainer will find: a shard may go or turn out damaged later.
        """
        database = self._namespace_database(session.namespace)
        query = {"recipes": recipe, "evicting": None}
        fields = {"split": 1, "images": 1, "shardImages": 1}
        sets = lambda: list(database[FEATURE_SETS].find(query, fields).limit(MOST_SETS))  # noqa: E731
        found = _storage("look for stored features", sets)
        return all(
            any(one.get("split") == split and _holds(database, one, subset) for one in found)
            for split, subset in (("train", session.subset), ("test", session.test_subset))
        )

    def namespace_database(self, namespace: str, namespace_uid: str) -> Database[Document]:
        """The database itself, for reading artifacts."""
        return self._client[database_name(namespace, namespace_uid)]

    def now(self) -> datetime:
        """What MongoDB's clock says, in UTC and without a time zone, as the driver gives all times."""
        now: datetime = _storage("tell its time", lambda: self._client.admin.command("hello"))["localTime"]
        return now

    def databases(self) -> list[Database[Document]]:
        """All databases that bear the name of a namespace's, also of namespaces that are gone."""
        names = _storage("list the databases", self._client.list_database_names)
        return [self._client[name] for name in names if re.fullmatch(DATABASE_NAME, name)]

    def drop_database(self, database: str) -> None:
        """Drop a namespace's database, after its user: who is interrupted between finds the database again."""
        own = self._client[database]
        if self._server.managed_users:
            try:
                own.command("dropUser", database)
            except OperationFailure as error:
                if (error.details or {}).get("codeName") != "UserNotFound":
                    raise StorageUnavailableError(
                        f"The user of database {database} cannot be dropped: {driver_words(error)}"
                    ) from error
            except PyMongoError as error:
                raise StorageUnavailableError(f"MongoDB cannot be used: {driver_words(error)}") from error
        _storage("drop a database", lambda: self._client.drop_database(database))

    def _namespace_database(self, namespace: str, *, anew: bool = False) -> Database[Document]:
        asked = time.monotonic()
        known = self._ensured.get(namespace, _NOTHING)
        if not anew and asked < known.set_at + ENSURE_SECONDS:
            return self._client[known.database]
        # Outside of the lock: while MongoDB is away, all sessions of the namespace wait for it at once and not in turn.
        _storage("be reached", lambda: self._client.admin.command("ping"))
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

    def _ensure(self, namespace: str, database: str, *, user_is_there: bool) -> None:
        """Write the Secret first, then make the user match it: a crash between leaves nothing that cannot go on."""
        present = self._cluster.secret(namespace, TENANT_SECRET)
        password = _password((present or {}).get("uri", ""), database) or secrets.token_urlsafe(32)
        wanted = {"uri": self._tenant_uri(database, password), "database": database}
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
            self._ensure_user(database, password)

    def _ensure_user(self, database: str, password: str) -> None:
        roles = [{"role": "readWrite", "db": database}]
        own = self._client[database]
        try:
            own.command("updateUser", database, pwd=password, roles=roles)
        except OperationFailure as error:
            if (error.details or {}).get("codeName") != "UserNotFound":
                raise StorageUnavailableError(
                    f"The user of database {database} cannot be set: {driver_words(error)}"
                ) from error
            _storage("create the user", lambda: own.command("createUser", database, pwd=password, roles=roles))
            log.info("database %s: user made", database)
        except PyMongoError as error:
            raise StorageUnavailableError(f"MongoDB cannot be used: {driver_words(error)}") from error

    def _tenant_uri(self, database: str, password: str) -> str:
        if not self._server.managed_users:
            parts = urlsplit(self._server.uri)
            source = "" if "authSource=" in parts.query else "authSource=admin"
            return parts._replace(path=f"/{database}", query="&".join(filter(None, (parts.query, source)))).geturl()
        parts = urlsplit(self._server.uri)
        hosts = parts.netloc.rpartition("@")[2]
        options = [
            o for o in parts.query.split("&") if o and not o.lower().startswith(("authsource=", "authmechanism"))
        ]
        options.append(f"authSource={database}")
        user = f"{quote_plus(database)}:{quote_plus(password)}"
        return f"{parts.scheme}://{user}@{hosts}/{database}?{'&'.join(options)}"

    def follow(self, changed: Callable[[str, bool], None], lost: Callable[[], None], stop: threading.Event) -> None:
        """Call `changed` with the UID of every record that changes, and whether it is progress alone, until `stop`.

        A stream that ended is begun anew at now; `lost` is called then, because changes may have been missed.
        """
        fields = {"$ifNull": ["$updateDescription.updatedFields", {"replaced": True}]}
        # Only the operator inserts records, and it knows.
        pipeline: list[Mapping[str, Any]] = [
            {"$match": {"ns.coll": COLLECTION, "operationType": {"$in": ["update", "replace"]}}},
            {
                "$project": {
                    "documentKey": 1,
                    "fields": {"$map": {"input": {"$objectToArray": fields}, "in": "$$this.k"}},
                }
            },
        ]
        pause = 1.0
        while not stop.is_set():
            try:
                with self._client.watch(pipeline, max_await_time_ms=1_000) as stream:
                    log.info("following the records' changes")
                    lost()
                    pause = 1.0
                    while not stop.is_set():
                        change = stream.try_next()
                        if change is not None:
                            courtesy = all(name.split(".")[0] in PROGRESS for name in change["fields"])
                            changed(str(change["documentKey"]["_id"]), courtesy)
            except (PyMongoError, BSONError) as error:
                if stop.is_set():
                    return
                log.warning("lost the records' changes, trying again in %.0f s: %s", pause, driver_words(error))
                stop.wait(pause)
                pause = min(2 * pause, 30.0)


def _connect(uri: str) -> MongoClient[Document]:
    try:
        return MongoClient(
            uri,
            serverSelectionTimeoutMS=SELECTION_MS,
            connectTimeoutMS=SELECTION_MS,
            socketTimeoutMS=SOCKET_MS,
            # Whatever the administrator's URI says: a stale record would end a session without its result.
            readPreference="primary",
            readConcernLevel="majority",
            w="majority",
            # What a namespace writes into its own database must not be more than the driver can read.
            datetime_conversion="DATETIME_AUTO",
            unicode_decode_error_handler="replace",
            appname="trainingsession-operator",
        )
    except (PyMongoError, ValueError) as error:
        # Without the driver's words, which may quote the address and so the password.
        raise StartError(
            f"the MongoDB URI cannot be used ({type(error).__name__}); check its form and hosts"
        ) from error


def server_uri(hosts: str, replica_set: str, username: str, password: str) -> str:
    """Give the administrator's URI of the chart's own MongoDB."""
    credentials = f"{quote_plus(username)}:{quote_plus(password)}"
    return f"mongodb://{credentials}@{hosts}/?replicaSet={replica_set}&authSource=admin"


def check_uri(uri: str) -> str:
    """Say in one sentence what is wrong with an administrator's URI; empty when nothing is. Never shows the URI."""
    try:
        # Of an SRV address only the form is looked at here: its hosts stand in the DNS.
        named = bool(urlsplit(uri).hostname) if uri.startswith("mongodb+srv://") else bool(parse_uri(uri)["nodelist"])
    except (PyMongoError, ValueError):
        named = False
    example = "mongodb://user:password@host:27017/?replicaSet=name&authSource=admin"
    return "" if named else f"The MongoDB URI is not valid; use one such as {example}."


def _password(uri: str, database: str) -> str:
    """Password of the namespace's own user in `uri`; empty where the URI is not the one that the operator writes."""
    try:
        parts = urlsplit(uri)
        user, password = parts.username, parts.password
    except ValueError:
        return ""
    return unquote_plus(password) if password and user == quote_plus(database) else ""


def _holds(database: Database[Document], found: Document, subset: Decimal) -> bool:
    """Whether a feature set has its first shards, as many as hold `subset` of its images."""
    key, images, per_shard = found.get("_id"), found.get("images"), found.get("shardImages")
    if not isinstance(key, str) or not isinstance(images, int) or not isinstance(per_shard, int) or per_shard < 1:
        return False
    shards = -(-plan.needed(images, subset) // per_shard)
    # By the range of their IDs, key/index, for which there is always an index: "0" comes after "/".
    mine = {"$gte": f"{key}/", "$lt": f"{key}0"}
    stored = {"_id": mine, "index": {"$gte": 0, "$lt": shards}, "file": {"$type": "objectId"}}
    return _storage("look for stored features", lambda: database[FEATURE_SHARDS].count_documents(stored)) >= shards


def _storage(what: str, call: Callable[[], T]) -> T:
    try:
        return call()
    except (PyMongoError, BSONError) as error:
        raise StorageUnavailableError(f"MongoDB could not {what}: {driver_words(error)}") from error
