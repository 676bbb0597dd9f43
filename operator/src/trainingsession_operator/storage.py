"""What a namespace's database holds, and how a feature set is removed while trainers may open or compute it.

    mark      the set gets `evicting`, if nobody opened it since it was looked at
    shards    each document goes as it was seen, then its files: features and thumbnails
    set       the file of its manifest, then the document, if it still carries the same mark

A trainer that opens a marked set does the rest itself and makes the set anew, so whatever is deleted here is named by
what was seen under the mark. Whoever is interrupted leaves a marked set, which the next round completes. All times are
MongoDB's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any

from bson import ObjectId
from bson.datetime_ms import DatetimeMS
from pymongo.database import Database

from .eviction import StoredSet
from .mongodb import Document, translated

NamespaceDatabase = Database[Document]
Pace = Callable[[], bool]
"""Asked before every deletion: waits as long as the load on MongoDB asks for; False where the work must stop."""

SETS, SHARDS, USES, WEIGHTS = "feature_sets", "feature_shards", "feature_uses", "base_weights"
BUCKETS = FEATURES, ARTIFACTS, CHECKPOINTS, DIGESTS = "features", "artifacts", "checkpoints", "digests"
FACTS = "dataset_facts"
SESSIONS = "sessions"
NAMED_BY = {
    FEATURES: ((SHARDS, "file"), (SHARDS, "thumbnails.file"), (SETS, "manifest.file"), (WEIGHTS, "file")),
    ARTIFACTS: ((SESSIONS, "result.artifacts.id"),),
    CHECKPOINTS: ((SESSIONS, "checkpoint.file"),),
}
MOST_SETS = 10_000
"""Sets that are looked at, the least recently used first: what is read stays small whatever a namespace stores."""
LARGEST_RECORD = 256 * 1024
"""Bytes of a record whose result is read; a tenant may store anything, and a larger one is no trainer's."""
IS_KEY = {"$regex": "^[0-9a-f]{64}$"}
USED_AT = {"$ifNull": ["$lastUsedAt", "$createdAt", DatetimeMS(0)]}


@dataclass(frozen=True)
class Eviction:
    """What was removed of a feature set; not `complete` where a part was left for the next round."""

    key: str
    shards: int = 0
    bytes: int = 0
    complete: bool = False


def at_once() -> bool:
    """Delete without pauses and to the end."""
    return True


def make_indexes(database: NamespaceDatabase) -> None:
    """Index what is searched here; without, everything works, only slower."""
    with translated("make an index"):
        database[SHARDS].create_index([("set", 1), ("_id", 1)])
        for field in ("file", "thumbnails.file"):
            database[SHARDS].create_index(field, sparse=True)
        for field in ("result.artifacts.id", "checkpoint.file", "missingSince"):
            database[SESSIONS].create_index(field, sparse=True)


def namespace_in_records(database: NamespaceDatabase, cut: str) -> str:
    """Give the whole name of the namespace that begins with `cut`, as a record tells it; empty where none does."""
    whole = {"namespace": {"$regex": f"^{cut}[a-z0-9-]{{0,19}}$"}}
    with translated("read a record"):
        found = database[SESSIONS].find_one(whole, {"namespace": 1})
    return str(found["namespace"]) if found else ""


def server_time(database: NamespaceDatabase) -> datetime:
    """What MongoDB's clock says, in UTC and without a time zone, as the driver gives all times."""
    with translated("tell its time"):
        now: datetime = database.command("hello")["localTime"]
    return now


def bucket_bytes(database: NamespaceDatabase, bucket: str) -> int:
    """Bytes of the files in a GridFS bucket."""
    total = {"$group": {"_id": None, "bytes": {"$sum": "$length"}}}
    with translated(f"count the bytes of {bucket}"):
        return sum(int(found["bytes"]) for found in database[f"{bucket}.files"].aggregate([total]))


def read_sets(database: NamespaceDatabase, live_recipes: Collection[str] = ()) -> list[StoredSet]:
    """Give the feature sets that nobody is evicting, at most MOST_SETS, the least recently used first.

    A set is needed while an attempt uses it, a shard of it is leased, or one of `live_recipes` leads to it.
    """
    size = {
        "_id": None,
        "bytes": {"$sum": "$bytes"},
        "thumbnails": {"$sum": "$thumbnails.bytes"},
        "leased": {"$max": {"$gt": ["$leaseUntil", "$$NOW"]}},
    }
    common = {"$setIntersection": [{"$ifNull": ["$recipes", []]}, {"$literal": list(live_recipes)}]}
    pipeline: list[Mapping[str, Any]] = [
        {"$match": {"_id": IS_KEY, "evicting": {"$exists": False}}},
        {"$project": {"used": USED_AT, "manifest": "$manifest.bytes", "baseWeights": 1, "live": {"$size": common}}},
        {"$sort": {"used": 1}},
        {"$limit": MOST_SETS},
        look_up(SHARDS, "_id", "set", {"$group": size}),
        look_up(USES, "_id", "set", {"$match": {"$expr": {"$gt": ["$until", "$$NOW"]}}}),
        look_up(WEIGHTS, "baseWeights", "_id", {"$project": {"bytes": 1}}),
        {
            "$project": {
                "usedAt": {"$toLong": "$used"},
                "idle": {"$subtract": [{"$toLong": "$$NOW"}, {"$toLong": "$used"}]},
                "bytes": {"$sum": ["$manifest", {"$first": f"${SHARDS}.bytes"}, {"$first": f"${SHARDS}.thumbnails"}]},
                "weights": {"$first": f"${WEIGHTS}._id"},
                "weightsBytes": {"$sum": f"${WEIGHTS}.bytes"},
                "needed": {
                    "$or": [{"$gt": ["$live", 0]}, {"$ne": [f"${USES}", []]}, {"$first": f"${SHARDS}.leased"}],
                },
            }
        },
    ]
    with translated("look at the feature sets"):
        return [
            StoredSet(
                key=found["_id"],
                bytes=int(found["bytes"]),
                weights=found.get("weights"),
                weights_bytes=int(found["weightsBytes"]),
                used_at=int(found["usedAt"]),
                idle_seconds=int(found["idle"]) / 1000,
                needed=bool(found["needed"]),
            )
            for found in database[SETS].aggregate(pipeline, allowDiskUse=True)
        ]


def look_up(collection: str, local: str, foreign: str, stage: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give the stage that puts what `stage` makes of the other collection's documents under that collection's name."""
    return {
        "$lookup": {
            "from": collection,
            "localField": local,
            "foreignField": foreign,
            "pipeline": [stage],
            "as": collection,
        }
    }


def evict(database: NamespaceDatabase, key: str, used_at: int, pace: Pace = at_once) -> Eviction | None:
    """Remove a set that was last used at `used_at` (milliseconds since 1970); None where it was opened since."""
    seen = {"_id": key, "evicting": {"$exists": False}, "$expr": {"$eq": [USED_AT, DatetimeMS(used_at)]}}
    if not pace():
        return None
    with translated("mark a feature set"):
        marked = database[SETS].update_one(seen, {"$set": {"evicting": ObjectId()}}).matched_count
    return complete_eviction(database, key, pace) if marked else None


def marked_sets(database: NamespaceDatabase) -> list[str]:
    """Keys of the sets whose eviction has begun."""
    marked = {"_id": IS_KEY, "evicting": {"$exists": True}}
    with translated("find the interrupted evictions"):
        return [found["_id"] for found in database[SETS].find(marked, {"_id": 1}).limit(MOST_SETS)]


def complete_eviction(database: NamespaceDatabase, key: str, pace: Pace = at_once) -> Eviction:
    """Remove a marked set, whoever marked it; what another evictor removes at the same time does not count."""
    sets, done = database[SETS], Eviction(key)
    with translated("evict a feature set"):
        found = sets.find_one({"_id": key, "evicting": {"$exists": True}}, {"evicting": 1, "manifest.file": 1})
        if found is None:
            return done
        mark = {"_id": key, "evicting": found["evicting"]}
        for shard in shards_while(database, key, lambda: sets.find_one(mark, {"_id": 1}) is not None):
            if not pace():
                return done
            documents, freed = remove_shard(database, shard)
            done = replace(done, shards=done.shards + documents, bytes=done.bytes + freed)
        # One that was finished or claimed after it was passed is left to the next round.
        if database[SHARDS].find_one({"set": key}, {"_id": 1}) is not None or not pace():
            return done
        freed = delete_file(database, FEATURES, (found.get("manifest") or {}).get("file"))
        complete = sets.delete_one(mark).deleted_count == 1
        return replace(done, bytes=done.bytes + freed, complete=complete)


def shards_while(
    database: NamespaceDatabase, key: str, holds: Callable[[], bool], only: Mapping[str, Any] = MappingProxyType({})
) -> Iterator[Document]:
    """Give the set's shards, those matching `only`, each as it was seen while `holds` did.

    One by one, and asked after each was read: a shard of a set that was made anew meanwhile is never given.
    """
    last: Any = ""
    seen = {"file": 1, "token": 1, "leaseUntil": 1, "thumbnails.file": 1}
    while True:
        shard = database[SHARDS].find_one({**only, "set": key, "_id": {"$gt": last}}, seen, sort=[("_id", 1)])
        if shard is None or not holds():
            return
        yield shard
        last = shard["_id"]


def remove_shard(database: NamespaceDatabase, seen: Document) -> tuple[int, int]:
    """Remove a shard's document if it is as it was seen, and the files that it named; returns documents and bytes."""
    fields = ("file", "token", "leaseUntil")
    same = {name: {"$eq": seen[name]} if name in seen else {"$exists": False} for name in fields}
    documents = database[SHARDS].delete_one({"_id": seen["_id"]} | same).deleted_count
    thumbnails = seen.get("thumbnails")
    files = (seen.get("file"), thumbnails.get("file") if isinstance(thumbnails, dict) else None)
    return documents, sum(delete_file(database, FEATURES, file_id) for file_id in files)


def object_ids(values: Iterable[Any]) -> set[ObjectId]:
    """Those of the values that are IDs of files, given as ObjectIds or as text."""
    return {ObjectId(value) for value in values if isinstance(value, (ObjectId, str)) and ObjectId.is_valid(value)}


def named_files(
    database: NamespaceDatabase, bucket: str, ids: Collection[ObjectId], but: str | None = None
) -> set[ObjectId]:
    """Those of the bucket's files that are named, be it as ObjectId or as text; the record `but` does not count.

    Records share artifacts: a session that was answered from an earlier one names the same files.
    """
    wanted, named = {"$in": [*ids, *map(str, ids)]}, set[ObjectId]()
    for collection, field in NAMED_BY[bucket]:
        others: Document = {} if but is None else {"_id": {"$ne": but}}
        named |= object_ids(database[collection].distinct(field, {**others, field: wanted}))
    return named & set(ids)


def delete_file(database: NamespaceDatabase, bucket: str, file_id: Any) -> int:
    """Delete a file of a GridFS bucket as its drivers do, and return its bytes; 0 where it is not there."""
    if not isinstance(file_id, ObjectId):
        return 0
    found = database[f"{bucket}.files"].find_one_and_delete({"_id": file_id}, {"length": 1})
    database[f"{bucket}.chunks"].delete_many({"files_id": file_id})
    return int(found["length"]) if found else 0
