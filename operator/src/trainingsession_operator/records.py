"""The sessions' records in MongoDB, and their changes."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from bson import ObjectId
from bson.errors import BSONError
from pymongo import ReturnDocument
from pymongo.database import Database
from pymongo.errors import PyMongoError

from . import plan, record_view
from .cluster import Cluster
from .errors import driver_words
from .mongodb import Document, connect, disk_of, member_states, primary_process, translated
from .mongodb_check import why_unusable
from .resource import Session
from .tenants import DATABASE_NAME, Server, Tenants, database_name, drop_replaced_users

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


class Records:
    """The namespaces' databases on one MongoDB deployment."""

    def __init__(self, server: Server, cluster: Cluster, replaced: Callable[[], None] = lambda: None) -> None:
        """Raises StartError for an address that cannot be used; does not wait for MongoDB.

        `replaced` is called when another process of MongoDB answers than before: its data may be others.
        """
        self._server = server
        self._client = connect(server.uri)
        self._cluster = cluster
        self._tenants = Tenants(self._client, server, cluster)
        self._replaced = replaced
        self._process: object = None

    def close(self) -> None:
        """End all connections; a waiting change stream ends with an error."""
        self._client.close()

    def ping(self) -> str:
        """Say in one sentence why MongoDB cannot be used; empty when it can."""
        reason = why_unusable(self._client, self._server.uri, managed_users=self._server.managed_users)
        if reason and not self._connect_anew():
            return reason
        process = primary_process(self._client)
        if process is not None and process != self._process:
            # Another one, or started again, maybe on an empty volume: the namespaces' users are made sure of anew.
            before, self._process = self._process, process
            self._tenants.forget()
            if before is not None:
                self._replaced()
        return ""

    def _connect_anew(self) -> bool:
        """Whether a new client can use MongoDB, which is then the one that is used.

        A client never takes the primary of a replica set that was made anew on an empty volume for one: its electionId
        is below those that the client has seen.
        """
        fresh = connect(self._server.uri)
        if why_unusable(fresh, self._server.uri, managed_users=self._server.managed_users):
            fresh.close()
            return False
        old, self._client = self._client, fresh
        self._tenants.use(fresh)
        # Whoever waits for it fails, and tries again with the new one.
        old.close()
        log.info("connected to MongoDB anew")
        return True

    def members(self) -> dict[str, int]:
        """How many members of the replica set are in which state, as the driver last saw them."""
        return member_states(self._client)

    def disk(self) -> tuple[int, int] | None:
        """Used and all bytes of the file system under the primary's data; None where the server does not tell."""
        return disk_of(self._client)

    def prepare(self, session: Session, identity: str | None = None, told: float | None = None) -> Document:
        """Make sure of the namespace's database, user and Secret and of the session's record; return the record.

        `identity` tells which other sessions are the same experiment, `told` (`time.monotonic()`) when the watch told
        of a session that was made just now. Raises StorageUnavailableError, and ApiError for the Secret.
        """
        if told is None:
            found = self._found(session)
            if found is not None:
                return found
            told = time.monotonic()
        # A new session: what was seen before it came is not believed; its namespace may be another of the same name.
        sessions = self._tenants.database(session.namespace, since=told)[COLLECTION]
        fields = {
            "recordVersion": RECORD_VERSION,
            "namespace": session.namespace,
            "name": session.name,
            "deletionPolicy": session.deletion_policy,
            **({"identity": identity} if identity else {}),
        }
        stage = {"$set": {key: {"$literal": value} for key, value in fields.items()}}
        stage["$set"]["createdAt"] = {"$ifNull": ["$createdAt", "$$NOW"]}
        with translated("create the record"):
            made = sessions.find_one_and_update(
                {"_id": session.uid}, [stage], upsert=True, return_document=ReturnDocument.AFTER
            )
        return made or {}

    def _found(self, session: Session) -> Document | None:
        """Give the record that is there, with the deletion policy that holds now."""
        sessions = self._tenants.database(session.namespace)[COLLECTION]
        with translated("read the record"):
            found = sessions.find_one({"_id": session.uid})
        if found is None or found.get("recordVersion") is None:
            return None
        if found.get("deletionPolicy") != session.deletion_policy:
            policy = {"$set": {"deletionPolicy": session.deletion_policy}}
            with translated("store the deletion policy"):
                sessions.update_one({"_id": session.uid}, policy)
        return found

    def reuse_result(self, session: Session, identity: str) -> Document | None:
        """Answer the session from the first one of the same identity whose artifacts are all there.

        Copies its result into the session's record and returns that; None where there is no such session.
        """
        database = self._tenants.database(session.namespace)
        sessions, files = database[COLLECTION], database["artifacts.files"]

        def is_whole(found: Document) -> bool:
            ids = [ObjectId(item["id"]) for item in record_view.artifacts(found)]
            return record_view.accuracy(found) is not None and files.count_documents({"_id": {"$in": ids}}) == len(ids)

        stays = {"removing": {"$exists": False}}

        with translated("look for the same experiment"):
            sessions.create_index("identity", sparse=True)
            same = {"identity": identity, "result": {"$exists": True}, "_id": {"$ne": session.uid}, **stays}
            for found in sessions.find(same).sort("result.publishedAt", 1).limit(MOST_ANSWERS):
                if not is_whole(found):
                    continue
                source = found.get("reusedFrom") or {"name": found.get("name"), "uid": found["_id"]}
                fields = {key: found[key] for key in ("result", "samples", "warnings", "trainer") if key in found}
                taken = {"$set": {key: {"$literal": value} for key, value in (fields | {"reusedFrom": source}).items()}}
                mine = {"_id": session.uid, "result": {"$exists": False}}
                sessions.update_one(mine, [taken])
                # Whoever removes a deleted session says so before looking for others that name its artifacts, and here
                # they are named before looking for that: one of both sees the other.
                if is_whole(found) and sessions.find_one({"_id": found["_id"], **stays}, {"_id": 1}) is not None:
                    return sessions.find_one({"_id": session.uid})
                sessions.update_one({"_id": session.uid}, {"$unset": {"result": "", "reusedFrom": ""}})
        return None

    def note_end(self, session: Session, phase: str) -> None:
        """Store that the session is at its end; once, and before its status says so."""
        sessions = self._tenants.database(session.namespace)[COLLECTION]
        stage = {"$set": {"ended": {"phase": phase, "at": "$$NOW"}}}
        mine = {"_id": session.uid, "ended": {"$exists": False}}
        with translated("note the end"):
            sessions.update_one(mine, [stage])

    def has_ended(self, session: Session) -> bool:
        """Whether the end that its status tells was noted, or its record is of an operator that did not note ends."""
        uid = self._cluster.namespace_uid(session.namespace)
        if uid is None:
            # It goes with its namespace.
            return True
        # Only read: neither user nor Secret are made for a session that was refused.
        sessions = self.namespace_database(session.namespace, uid)[COLLECTION]
        with translated("read the record"):
            found = sessions.find_one({"_id": session.uid}, {"ended": 1, "recordVersion": 1})
        if found is None:
            return False
        # Another end may have been noted, whose status was refused.
        noted = record_view.ended(found)
        is_this = noted is not None and noted == session.status.get("phase")
        return is_this or (record_view.whole(found.get("recordVersion")) or 0) < RECORD_VERSION

    def count_lost_job(self, session: Session) -> None:
        """Note that the session's Job vanished and was made again."""
        sessions = self._tenants.database(session.namespace)[COLLECTION]
        # A pipeline, because $inc refuses a count that a session's own code made into something else.
        count = {"$add": [{"$cond": [{"$isNumber": "$jobsLost"}, "$jobsLost", 0]}, 1]}
        stage = {"$set": {"jobsLost": count}}
        with translated("note a lost Job"):
            sessions.update_one({"_id": session.uid}, [stage])

    def holds_features(self, session: Session, recipe: str) -> bool:
        """Whether every shard that the session needs, of both splits, is stored. Raises StorageUnavailableError.

        Only a hint of what the trainer will find: a shard may go or turn out damaged later.
        """
        database = self._tenants.database(session.namespace)
        query = {"recipes": recipe, "evicting": None}
        fields = {"split": 1, "images": 1, "shardImages": 1}
        with translated("look for stored features"):
            found = list(database[FEATURE_SETS].find(query, fields).limit(MOST_SETS))
            return all(
                any(one.get("split") == split and _holds(database, one, subset) for one in found)
                for split, subset in (("train", session.subset), ("test", session.test_subset))
            )

    def namespace_database(self, namespace: str, namespace_uid: str) -> Database[Document]:
        """The database itself, for reading artifacts."""
        return self._client[database_name(namespace, namespace_uid)]

    def now(self) -> datetime:
        """What MongoDB's clock says, in UTC and without a time zone, as the driver gives all times."""
        with translated("tell its time"):
            now: datetime = self._client.admin.command("hello")["localTime"]
        return now

    def databases(self) -> list[Database[Document]]:
        """All databases that bear the name of a namespace's, also of namespaces that are gone."""
        with translated("list the databases"):
            names = self._client.list_database_names()
        return [self._client[name] for name in names if re.fullmatch(DATABASE_NAME, name)]

    def drop_replaced_administrators(self) -> list[str]:
        """Drop the administrators whose time ended after a rotation. Raises StorageUnavailableError."""
        return drop_replaced_users(self._client.admin)

    def drop_database(self, database: str) -> None:
        """Drop the database of a namespace that is gone, with its user. Raises StorageUnavailableError."""
        self._tenants.drop(database)

    def follow(self, changed: Callable[[str, bool], None], lost: Callable[[], None], stop: threading.Event) -> None:
        """Call `changed` with the UID of every record that changes, and whether it is progress alone, until `stop`.

        A stream that ended is begun anew at now; `lost` is called then, because changes may have been missed.
        """
        written = {"$ifNull": ["$updateDescription.updatedFields", {"replaced": True}]}
        # Only the operator inserts records, and it knows.
        pipeline: list[Mapping[str, Any]] = [
            {"$match": {"ns.coll": COLLECTION, "operationType": {"$in": ["update", "replace"]}}},
            {
                "$project": {
                    "documentKey": 1,
                    "fields": {"$map": {"input": {"$objectToArray": written}, "in": "$$this.k"}},
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
                            fields = {name.split(".")[0] for name in change["fields"]}
                            changed(str(change["documentKey"]["_id"]), bool(fields) and fields <= PROGRESS)
            except (PyMongoError, BSONError) as error:
                if stop.is_set():
                    return
                log.warning("lost the records' changes, trying again in %.0f s: %s", pause, driver_words(error))
                stop.wait(pause)
                pause = min(2 * pause, 30.0)


def _holds(database: Database[Document], found: Document, subset: Decimal) -> bool:
    """Whether a feature set has its first shards, as many as hold `subset` of its images."""
    key, images, per_shard = found.get("_id"), found.get("images"), found.get("shardImages")
    if not isinstance(key, str) or not isinstance(images, int) or not isinstance(per_shard, int) or per_shard < 1:
        return False
    shards = -(-plan.needed(images, subset) // per_shard)
    # By the range of their IDs, key/index, for which there is always an index: "0" comes after "/".
    mine = {"$gte": f"{key}/", "$lt": f"{key}0"}
    stored = {"_id": mine, "index": {"$gte": 0, "$lt": shards}, "file": {"$type": "objectId"}}
    return database[FEATURE_SHARDS].count_documents(stored) >= shards
