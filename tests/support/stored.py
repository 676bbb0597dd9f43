"""What trainers leave in a namespace's database, made by hand: feature sets, shards, uses, files of any age."""

from __future__ import annotations

import hashlib
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from bson import ObjectId
from gridfs import GridFSBucket
from pymongo.database import Database

Json = dict[str, Any]
SHARD_BYTES = 300_000
"""Two chunks."""
MANIFEST_BYTES = 1_000
THUMBNAIL_BYTES = 2_000
DAY = timedelta(days=1)


def key_of(name: str) -> str:
    """The key of the feature set that a test calls by this name."""
    return hashlib.sha256(name.encode()).hexdigest()


def store_file(database: Database[Json], bucket: str, size: int, age: timedelta = timedelta(0)) -> ObjectId:
    """Store a file as its driver does on a node whose clock says what it said `age` ago."""
    then = datetime.now(UTC) - age
    file_id = ObjectId(ObjectId.from_datetime(then).binary[:4] + ObjectId().binary[4:])
    GridFSBucket(database, bucket).upload_from_stream_with_id(file_id, f"{bucket} of a test", b"x" * size)
    database[f"{bucket}.files"].update_one({"_id": file_id}, {"$set": {"uploadDate": then}})
    return file_id


def store_shard(database: Database[Json], name: str, index: int, age: timedelta = timedelta(0)) -> ObjectId:
    """Store a finished shard, the first with thumbnails; returns the file of its features."""
    file_id = store_file(database, "features", SHARD_BYTES, age)
    shard = {"set": key_of(name), "index": index, "file": file_id, "bytes": SHARD_BYTES}
    if index == 0:
        shard["thumbnails"] = {
            "file": store_file(database, "features", THUMBNAIL_BYTES, age),
            "bytes": THUMBNAIL_BYTES,
        }
    database["feature_shards"].replace_one({"_id": f"{key_of(name)}/{index}"}, shard, upsert=True)
    return file_id


def store_set(
    database: Database[Json], name: str, *, used: timedelta = DAY, shards: int = 2, age: timedelta = DAY, **fields: Any
) -> str:
    """Store a feature set that was last opened `used` ago by MongoDB's clock; returns its key."""
    manifest = {"file": store_file(database, "features", MANIFEST_BYTES, age), "bytes": MANIFEST_BYTES}
    then = {"$subtract": ["$$NOW", int(1000 * used.total_seconds())]}
    new = {"manifest": manifest, "recipes": [], **fields, "createdAt": then, "lastUsedAt": then}
    database["feature_sets"].update_one({"_id": key_of(name)}, [{"$set": new}], upsert=True)
    for index in range(shards):
        store_shard(database, name, index, age)
    return key_of(name)


def open_set(database: Database[Json], name: str) -> bool:
    """Open a set as a trainer does; False where it is being evicted or is not there."""
    free = {"_id": key_of(name), "evicting": {"$exists": False}}
    return database["feature_sets"].update_one(free, [{"$set": {"lastUsedAt": "$$NOW"}}]).matched_count == 1


def use_set(database: Database[Json], name: str, until: timedelta) -> None:
    """Note that an attempt uses the set until `until` from now by MongoDB's clock."""
    use = {"_id": f"{uuid.uuid4()}/{key_of(name)}"}
    moment = {"$add": ["$$NOW", int(1000 * until.total_seconds())]}
    database["feature_uses"].update_one(use, [{"$set": {"set": key_of(name), "until": moment}}], upsert=True)


def lease_shard(database: Database[Json], name: str, index: int, until: timedelta, token: str = "worker") -> None:
    """Claim a shard as a trainer does, until `until` from now by MongoDB's clock."""
    moment = {"$add": ["$$NOW", int(1000 * until.total_seconds())]}
    claimed = {"set": key_of(name), "index": index, "token": token, "leaseUntil": moment}
    database["feature_shards"].update_one({"_id": f"{key_of(name)}/{index}"}, [{"$set": claimed}], upsert=True)


def store_weights(database: Database[Json], digest: str, size: int, age: timedelta = DAY) -> ObjectId:
    """Store base weights; returns their file."""
    file_id = store_file(database, "features", size, age)
    database["base_weights"].insert_one({"_id": digest, "file": file_id, "sha256": digest, "bytes": size})
    return file_id


def store_digests(database: Database[Json], place: str, size: int, age: timedelta = DAY) -> ObjectId:
    """Store the digests of a folder's files; returns their file."""
    file_id = store_file(database, "digests", size, age)
    database["digests.files"].update_one({"_id": file_id}, {"$set": {"filename": place}})
    return file_id


def store_facts(database: Database[Json], train: str, test: str, age: timedelta = DAY) -> None:
    """Store what was found out about a data set whose splits have these orders."""
    found = {
        "trainOrder": train,
        "testOrder": test,
        "train": 60,
        "test": 20,
        "nearDuplicates": b"",
        "orders": train + test,
    }
    then = {"foundAt": {"$subtract": ["$$NOW", int(1000 * age.total_seconds())]}}
    database["dataset_facts"].update_one({"_id": f"{train}{test}/60/20"}, [{"$set": {**found, **then}}], upsert=True)


def set_bytes(shards: int = 2) -> int:
    """Bytes of a set as `store_set` makes it."""
    return shards * SHARD_BYTES + (THUMBNAIL_BYTES if shards else 0) + MANIFEST_BYTES


def everything(database: Database[Json]) -> dict[str, set[Any]]:
    """The ids of all documents by collection, without the collections that are empty."""
    found = {name: set(database[name].distinct("_id")) for name in database.list_collection_names()}
    return {name: ids for name, ids in found.items() if ids}
