"""What nothing names any more, or never did, is removed from a namespace's database.

GridFS joins no transaction: files are stored first and named afterwards, so whoever is killed between leaves orphans.
What is younger than the grace may still be on its way to its name. The time of storing is that of ObjectIds and upload
dates, so of the trainer's node: the grace must be far longer than a clock is wrong.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from bson import ObjectId
from pymongo.collection import Collection
from pymongo.errors import DuplicateKeyError

from .mongodb import Document, translated
from .storage import (
    DIGESTS,
    FACTS,
    FEATURES,
    IS_KEY,
    NAMED_BY,
    SESSIONS,
    SETS,
    SHARDS,
    WEIGHTS,
    NamespaceDatabase,
    Pace,
    at_once,
    delete_file,
    look_up,
    named_files,
    remove_shard,
    server_time,
    shards_while,
)

log = logging.getLogger(__name__)

FILES, CHUNKS = 1_000, 20_000
"""Looked at in one query, so that memory is bounded and every answer comes well within the driver's timeout."""

_FIRST = ObjectId(b"\0" * 12)


@dataclass(frozen=True)
class Removed:
    """How many of `what` a sweep removed, and the bytes that this freed."""

    what: str
    count: int
    bytes: int


def sweep(
    database: NamespaceDatabase, grace: timedelta, pace: Pace = at_once, kept: frozenset[ObjectId] = frozenset()
) -> list[Removed]:
    """Remove what is named by nothing and older than `grace`; the answer is empty where there was nothing to remove.

    Artifacts in `kept` are named by somebody who is not in the database, so they stay.
    It may be interrupted anywhere, and run beside trainers and other sweeps. Raises StorageUnavailableError.
    """
    cutoff = server_time(database) - grace
    kinds = {
        "shards of evicted feature sets": _stray_shards(database, cutoff),
        "base weights that no feature set names": _unnamed_weights(database, cutoff),
    }
    for bucket in NAMED_BY:
        kinds[f"files of {bucket} that nothing names"] = _unnamed_files(database, bucket, cutoff, kept)
        kinds[f"files of {bucket} of which only chunks are there"] = _lost_chunks(database, bucket, cutoff)
    kinds |= {
        "digests of files that no feature set names": _unnamed_digests(database, cutoff),
        "facts of data sets that no feature set names": _unnamed_facts(database, cutoff),
        f"files of {DIGESTS} of which only chunks are there": _lost_chunks(database, DIGESTS, cutoff),
    }
    swept = [remove_each(database, what, sizes, pace) for what, sizes in kinds.items()]
    return [one for one in swept if one.count]


def remove_each(database: NamespaceDatabase, what: str, sizes: Iterator[int], pace: Pace) -> Removed:
    """Have one kind removed, of which `sizes` gives the bytes of each after it was removed."""
    count = total = 0
    try:
        with translated(f"remove {what}"):
            while pace() and (size := next(sizes, None)) is not None:
                count, total = count + 1, total + size
    finally:
        if count:
            log.info("database %s: removed %d %s, %d bytes", database.name, count, what, total)
    return Removed(what, count, total)


def _stray_shards(database: NamespaceDatabase, cutoff: datetime) -> Iterator[int]:
    """A trainer whose use had passed may go on to store shards of a set that was evicted meanwhile."""
    without_set: list[Mapping[str, Any]] = [
        {"$match": {"set": IS_KEY}},
        {"$group": {"_id": "$set"}},
        look_up(SETS, "_id", "_id", {"$project": {"_id": 1}}),
        {"$match": {SETS: []}},
    ]
    abandoned = {"file": {"$exists": False}, "leaseUntil": {"$not": {"$gt": cutoff}}}
    stale = {"$or": [{"file": {"$lt": _ids_until(cutoff)}}, abandoned]}
    for found in database[SHARDS].aggregate(without_set):
        for shard in shards_while(database, found["_id"], partial(_is_absent, database[SETS], found["_id"]), stale):
            documents, freed = remove_shard(database, shard)
            if documents:
                yield freed


def _is_absent(sets: Collection[Document], key: str) -> bool:
    return sets.find_one({"_id": key}, {"_id": 1}) is None


def _unnamed_weights(database: NamespaceDatabase, cutoff: datetime) -> Iterator[int]:
    weights = database[WEIGHTS]
    for found in weights.find({"file": {"$lt": _ids_until(cutoff)}}, {"file": 1}):
        if _is_named(database, found):
            continue
        taken = weights.find_one_and_delete(found)
        if taken is None:
            continue
        if not _is_named(database, taken):
            yield delete_file(database, FEATURES, taken["file"])
            continue
        # A set that was made just now found them there.
        with contextlib.suppress(DuplicateKeyError):
            weights.insert_one(taken)


def _is_named(database: NamespaceDatabase, weights: Document) -> bool:
    return database[SETS].find_one({"baseWeights": weights["_id"]}, {"_id": 1}) is not None


def _unnamed_digests(database: NamespaceDatabase, cutoff: datetime) -> Iterator[int]:
    """Digests of a folder's files: when its features are gone, or others took their place."""
    files = database[f"{DIGESTS}.files"]
    for found in files.find({"uploadDate": {"$not": {"$gt": cutoff}}}, {"filename": 1, "uploadDate": 1}):
        # A tenant may have stored anything.
        place, then = {"$eq": found.get("filename")}, found.get("uploadDate")
        later = {"filename": place, "uploadDate": {"$gt": then}}
        named = database[SETS].find_one({"digestsOf": place}, {"_id": 1}) is not None
        if not named or files.find_one(later, {"_id": 1}) is not None:
            yield delete_file(database, DIGESTS, found["_id"])


def _unnamed_facts(database: NamespaceDatabase, cutoff: datetime) -> Iterator[int]:
    """What looking at all images of a data set found: when the features of either split are gone."""
    for found in database[FACTS].aggregate(
        [
            {"$match": {"foundAt": {"$not": {"$gt": cutoff}}}},
            {"$project": {"trainOrder": 1, "testOrder": 1, "bytes": {"$bsonSize": "$$ROOT"}}},
        ]
    ):
        orders = [
            {"split": split, "description.order": {"$eq": found.get(f"{split}Order")}} for split in ("train", "test")
        ]
        if not all(database[SETS].find_one(order, {"_id": 1}) for order in orders):
            yield found["bytes"] * database[FACTS].delete_one({"_id": found["_id"]}).deleted_count


def _unnamed_files(
    database: NamespaceDatabase, bucket: str, cutoff: datetime, kept: frozenset[ObjectId]
) -> Iterator[int]:
    files, last = database[f"{bucket}.files"], _FIRST
    while True:
        here = {"_id": {"$gt": last, "$lt": _ids_until(cutoff)}, "uploadDate": {"$not": {"$gt": cutoff}}}
        ids = [file["_id"] for file in files.find(here, {"_id": 1}).sort("_id", 1).limit(FILES)]
        if not ids or _is_without_records(database, bucket):
            return
        for file_id in set(ids) - named_files(database, bucket, ids) - kept:
            yield delete_file(database, bucket, file_id)
        last = ids[-1]


def _is_without_records(database: NamespaceDatabase, bucket: str) -> bool:
    """Whether files of sessions are there but no record at all: then it is the records that were lost."""
    if bucket == FEATURES or database[SESSIONS].find_one({}, {"_id": 1}) is not None:
        return False
    log.warning(
        "database %s holds %s but no record of a session; they are left alone: restore the collection %s, or drop the "
        "database if nobody needs it",
        database.name,
        bucket,
        SESSIONS,
    )
    return True


def _lost_chunks(database: NamespaceDatabase, bucket: str, cutoff: datetime) -> Iterator[int]:
    """An upload or a removal that was interrupted leaves chunks without their file."""
    files, chunks, last = database[f"{bucket}.files"], database[f"{bucket}.chunks"], _FIRST
    size = {"$group": {"_id": None, "bytes": {"$sum": {"$binarySize": "$data"}}}}
    while True:
        # Answered from the index alone; the chunks' bytes are not read.
        ids_here: list[Mapping[str, Any]] = [
            {"$match": {"files_id": {"$gt": last, "$lt": _ids_until(cutoff)}}},
            {"$sort": {"files_id": 1, "n": 1}},
            {"$limit": CHUNKS},
            {"$group": {"_id": "$files_id"}},
        ]
        ids = [chunk["_id"] for chunk in chunks.aggregate(ids_here)]
        if not ids:
            return
        there = {file["_id"] for file in files.find({"_id": {"$in": ids}}, {"_id": 1})}
        for file_id in set(ids) - there:
            of_file = {"files_id": file_id}
            freed = sum(int(found["bytes"]) for found in chunks.aggregate([{"$match": of_file}, size]))
            chunks.delete_many(of_file)
            yield freed
        last = max(ids)


def _ids_until(cutoff: datetime) -> ObjectId:
    """Give an id above all that were made until then; they count whole seconds."""
    return ObjectId.from_datetime(cutoff + timedelta(seconds=1))
