"""Brings an archive back into MongoDB, beside whatever is there and while everybody goes on working.

What is there stays: a document of the same _id is not written over. Two exceptions. A record that only the operator has
made since, with no attempt and no result yet, gives way to the archive's; and the sentinel says that a backup is being
restored, so that nothing is swept meanwhile. Files come before the records that name them, so none ever names a file
that is on its way.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from bson import json_util
from bson.raw_bson import RawBSONDocument
from pymongo import InsertOne, MongoClient, ReplaceOne, UpdateOne
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError, OperationFailure

from . import sentinel
from .archive import Archive, ArchiveError
from .errors import StartError, driver_words
from .mongodb import Document, translated
from .storage import SESSIONS

log = logging.getLogger(__name__)

BATCH_BYTES, BATCH_DOCUMENTS = 8 << 20, 1_000
DUPLICATE_KEY = 11000
SETTLE_SECONDS = 5 * sentinel.LOOK_SECONDS
"""Until nobody sweeps any more, in a database of which it is noted that it is being restored."""
UNTOUCHED = {"attempt": {"$exists": False}, "result": {"$exists": False}}
"""A record that no trainer has written to."""

Write = InsertOne[Document] | ReplaceOne[Document] | UpdateOne


@dataclass
class Loaded:
    """What came of a database: documents written, and those that were there already."""

    written: int = 0
    present: int = 0


def load(client: MongoClient[Document], archive: Archive, only: str = "") -> dict[str, Loaded]:
    """Bring back every database of the archive, or `only` one; raises ArchiveError, StorageUnavailableError."""
    databases = archive.databases()
    if only and only not in databases:
        raise StartError(f'the backup has no database "{only}"; it has: {", ".join(databases) or "none"}')
    done: dict[str, Loaded] = {}
    wanted = [only] if only else databases
    for name in wanted:
        # Nothing names the files that come first.
        sentinel.note_restore(client[name])
    time.sleep(SETTLE_SECONDS)
    for name in wanted:
        with translated(f"take database {name}"):
            done[name] = _load_database(client, archive, name)
            # Again, because it may have taken a day.
            sentinel.note_restore(client[name])
        log.info(
            "database %s: %d documents restored, %d were there already", name, done[name].written, done[name].present
        )
    return done


def _load_database(client: MongoClient[Document], archive: Archive, name: str) -> Loaded:
    done, moment = Loaded(), archive.parts[-1]
    for collection in archive.collections(moment, name):
        _make_indexes(client[name][collection], archive.metadata(moment, name, collection))
    for part in archive.parts:
        for collection in sorted(archive.collections(part, name), key=_order):
            _load_collection(client[name][collection], archive.documents(part, name, collection), done)
    return done


def _order(collection: str) -> tuple[int, str]:
    """Contents, then the files that have them, then what names files."""
    endings = (".chunks", ".files")
    rank = next((at for at, ending in enumerate(endings) if collection.endswith(ending)), len(endings))
    return rank + (collection in (SESSIONS, sentinel.COLLECTION)), collection


def _load_collection(collection: Collection[Document], documents: Iterable[bytes], done: Loaded) -> None:
    for batch in _batches(documents):
        writes = [_write(collection.name, document) for document in batch]
        try:
            result = collection.bulk_write(writes, ordered=False)
            written = result.inserted_count + result.upserted_count + result.matched_count
        except BulkWriteError as error:
            details = error.details or {}
            refused = details.get("writeErrors", [])
            other = next((one for one in refused if one.get("code") != DUPLICATE_KEY), None)
            if other is not None or details.get("writeConcernErrors"):
                raise
            written = len(batch) - len(refused)
        done.written += written
        done.present += len(batch) - written


def _write(collection: str, raw: bytes) -> Write:
    # Passed on as it is; only its _id is looked at.
    document = cast("Document", RawBSONDocument(raw))
    if collection == SESSIONS:
        # Where the one that is there is not untouched, this is an insertion of a duplicate.
        return ReplaceOne({"_id": document["_id"], **UNTOUCHED}, document, upsert=True)
    if collection == sentinel.COLLECTION and document["_id"] == sentinel.ID:
        return sentinel.taking_over(document)
    return InsertOne(document)


def _batches(documents: Iterable[bytes]) -> Iterator[Sequence[bytes]]:
    batch: list[bytes] = []
    size = 0
    for document in documents:
        if batch and (size + len(document) > BATCH_BYTES or len(batch) == BATCH_DOCUMENTS):
            yield batch
            batch, size = [], 0
        batch.append(document)
        size += len(document)
    if batch:
        yield batch


def _make_indexes(collection: Collection[Document], text: str) -> None:
    try:
        indexes: list[dict[str, Any]] = json_util.loads(text).get("indexes", [])
    except (ValueError, TypeError, AttributeError) as error:
        raise ArchiveError(f"the metadata of {collection.full_name} is damaged in the archive") from error
    for index in indexes:
        if index.get("name") == "_id_":
            continue
        wanted = {key: value for key, value in index.items() if key not in ("v", "ns")}
        try:
            collection.database.command("createIndexes", collection.name, indexes=[wanted])
        except OperationFailure as error:
            # A namespace may have indexed its own collections in any way.
            log.warning("index %s of %s was not made: %s", index.get("name"), collection.full_name, driver_words(error))
