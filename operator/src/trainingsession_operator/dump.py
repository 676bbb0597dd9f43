"""Reads the namespaces' databases into an archive, of one moment, while everybody goes on working.

MongoDB reads as of one moment only for some minutes back (its minSnapshotHistoryWindowInSeconds, 300), and the contents
of the files take longer. But a stored file never changes. So their contents come first, round after round with what is
new, until a round was short; then everything that changes, and the few newest files, is read as of one moment. What was
deleted before that moment has contents in the archive that no file names: orphans, which the sweeper removes.

Users are not in it: the operator makes them, with the passwords that the namespaces' Secrets name.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC
from typing import IO, Any, cast

from bson import ObjectId, json_util
from pymongo import MongoClient
from pymongo.client_session import ClientSession
from pymongo.cursor import RawBatchCursor
from pymongo.database import Database
from pymongo.errors import InvalidName, OperationFailure

from .archive import ArchiveWriter, Json, count
from .errors import StorageUnavailableError, driver_words
from .mongodb import Document, translated
from .storage import FEATURES, SETS, SHARDS, USES, WEIGHTS
from .tenants import DATABASE_NAME

log = logging.getLogger(__name__)

SHORT_SECONDS = 60.0
"""A round over the files' contents that took no longer is the last one before the moment."""
CHUNKS = 16
"""Asked for at once: 4 MiB as GridFS cuts files, so that memory stays small."""
MOST_ROUNDS = 20
MOST_MOMENTS = 3
CATALOG = {SETS, SHARDS, USES}
"""Collections that tell of features; without features they would name files that are not there."""
SNAPSHOT_ERRORS = {239, 246}
"""SnapshotTooOld, SnapshotUnavailable: the moment is gone, or a collection's indexes changed after it."""

Client = MongoClient[Document]
Session = ClientSession | None


@dataclass
class _Bucket:
    """A GridFS bucket, and the files whose contents are in the archive whole."""

    database: Database[Document]
    name: str
    stored: set[ObjectId] = field(default_factory=set)


@dataclass
class Dump:
    """One backup of one MongoDB deployment."""

    client: Client
    archive: ArchiveWriter
    features: bool = False
    """Whether features are in it too; without, sessions compute them again."""
    short_seconds: float = SHORT_SECONDS
    between: Callable[[], None] = lambda: None
    """Called between the rounds over files and the moment, for tests."""
    _buckets: dict[tuple[str, str], _Bucket] = field(default_factory=dict, init=False)

    def run(self) -> Json:
        """Fill the archive, and return its manifest; raises StorageUnavailableError."""
        try:
            with translated("be read for a backup"):
                return self._run()
        except BaseException:
            self.archive.abandon()
            raise

    def _run(self) -> Json:
        parts = self._contents()
        self.between()
        last = parts[-1] + 1
        for part in range(last, last + MOST_MOMENTS):
            try:
                manifest = self._moment(part)
            except OperationFailure as error:
                if error.code not in SNAPSHOT_ERRORS:
                    raise
                log.warning("the moment of the backup was lost, it takes another: %s", driver_words(error))
                continue
            manifest["parts"] = [*parts, part]
            self.archive.finish(manifest)
            return manifest
        raise StorageUnavailableError(
            "MongoDB could not be read as of one moment: records and newest files took longer than its "
            "minSnapshotHistoryWindowInSeconds; raise that, or back up at a quieter time"
        )

    def _contents(self) -> list[int]:
        for part in range(1, MOST_ROUNDS + 1):
            began = time.monotonic()
            for bucket in self._found_buckets():
                with self.archive.documents(part, bucket.database.name, f"{bucket.name}.chunks") as file:
                    self._store_contents(bucket, file, None, bucket.stored)
            seconds = time.monotonic() - began
            log.info("contents of files: round %d took %.0f s", part, seconds)
            if seconds <= self.short_seconds:
                break
        return list(range(1, part + 1))

    def _moment(self, part: int) -> Json:
        # The names first: what comes into being after the moment cannot be read as of it.
        collections = {database.name: _collections(database) for database in self._databases()}
        buckets = self._found_buckets()
        contents = {(bucket.database.name, f"{bucket.name}.chunks") for bucket in buckets}
        found: dict[str, dict[str, int]] = {name: {} for name in collections}
        at = self.client.admin.command("hello")["localTime"].replace(tzinfo=UTC)
        with self.client.start_session(snapshot=True) as session:
            for name, there in collections.items():
                database = self.client[name]
                for collection in there:
                    if (name, collection) in contents or (not self.features and collection in CATALOG):
                        continue
                    wanted = self._wanted(database, collection, session)
                    with self.archive.documents(part, name, collection) as file:
                        batches = database[collection].find_raw_batches(wanted, session=session)
                        found[name][collection] = _store(batches, file)
            for bucket in buckets:
                with self.archive.documents(part, bucket.database.name, f"{bucket.name}.chunks") as file:
                    # A lost moment must not leave its files out of the next one.
                    self._store_contents(bucket, file, session, set(bucket.stored))
        for named, collection in sorted(contents | {(name, one) for name in found for one in found[name]}):
            self._store_metadata(part, self.client[named], collection)
        return {
            "at": at.isoformat(timespec="seconds"),
            "features": self.features,
            "mongodb": self.client.server_info()["version"],
            "databases": found,
        }

    def _databases(self) -> list[Database[Document]]:
        names = self.client.list_database_names()
        return [self.client[name] for name in sorted(names) if re.fullmatch(DATABASE_NAME, name)]

    def _found_buckets(self) -> list[_Bucket]:
        for database in self._databases():
            there = _collections(database)
            for name in (one.removesuffix(".chunks") for one in there if one.endswith(".chunks")):
                if f"{name}.files" in there:
                    self._buckets.setdefault((database.name, name), _Bucket(database, name))
        return list(self._buckets.values())

    def _wanted(self, database: Database[Document], collection: str, session: Session) -> Document:
        """What is read of a collection: without features, of their bucket only the base models' weights."""
        if collection != f"{FEATURES}.files" or self.features:
            return {}
        return {"_id": {"$in": database[WEIGHTS].distinct("file", session=session)}}

    def _store_contents(self, bucket: _Bucket, out: IO[bytes], session: Session, stored: set[ObjectId]) -> None:
        files, chunks = bucket.database[f"{bucket.name}.files"], bucket.database[f"{bucket.name}.chunks"]
        wanted = self._wanted(bucket.database, files.name, session)
        fields = {"length": 1, "chunkSize": 1}
        # Listed whole at first: a cursor that is read slowly is lost after ten minutes.
        listed = [
            (file["_id"], _chunks(file))
            for file in files.find(wanted, fields, session=session)
            if not (isinstance(file["_id"], ObjectId) and file["_id"] in stored)
        ]
        for file_id, expected in listed:
            batches = chunks.find_raw_batches({"files_id": file_id}, batch_size=CHUNKS, session=session).sort("n", 1)
            there = _store(batches, out)
            # Of a file that is being stored, the rest comes later.
            if there == expected and isinstance(file_id, ObjectId):
                stored.add(file_id)

    def _store_metadata(self, part: int, database: Database[Document], collection: str) -> None:
        indexes = [dict(index) for index in database[collection].list_indexes()]
        metadata = {"options": {}, "indexes": indexes, "collectionName": collection, "type": "collection"}
        text = json_util.dumps(metadata, json_options=json_util.CANONICAL_JSON_OPTIONS)
        self.archive.metadata(part, database.name, collection, text)


def _collections(database: Database[Document]) -> list[str]:
    """Ordinary collections; views, MongoDB's own, and what the driver cannot speak of are left out."""
    found = [one["name"] for one in database.list_collections(filter={"type": "collection"})]
    return sorted(name for name in found if not name.startswith("system.") and _is_legal(database, name))


def _is_legal(database: Database[Document], collection: str) -> bool:
    # No namespace may keep the others from being backed up by a strange name.
    try:
        return bool(database[collection].name)
    except InvalidName as error:
        log.warning("collection %r of %s is not backed up: %s", collection, database.name, error)
        return False


def _chunks(file: dict[str, Any]) -> int:
    """How many chunks the file has when it is whole; -1 where its document does not tell."""
    length, size = file.get("length"), file.get("chunkSize")
    if isinstance(length, int) and isinstance(size, int) and length >= 0 and size > 0:
        return -(-length // size)
    return -1


def _store(batches: RawBatchCursor[Document], out: IO[bytes]) -> int:
    """Pass documents on as MongoDB gives them, and count them."""
    found = 0
    with batches:
        for batch in cast("Iterator[bytes]", batches):
            out.write(batch)
            found += count(batch)
    return found
