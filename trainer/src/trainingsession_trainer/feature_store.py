"""Features in MongoDB: shards claimed with a lease and kept in GridFS.

    feature_shards  _id key/index · set · index · token and leaseUntil while it is computed ·
                    file, sha256, bytes, images, dtype when it is there ·
                    thumbnails {file, sha256, bytes} of its first images, where they have some

Several sessions may need the same shard: who claims it computes it. The lease is measured by MongoDB's clock, and
finishing is conditional on the claim's token, so that a process that was believed dead changes nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from bson import ObjectId
from pymongo import ReturnDocument
from pymongo.database import Database
from pymongo.errors import PyMongoError

from .codec import CodecError, decode, encode
from .feature_sets import FeatureSet
from .mongodb import PATIENCE_SECONDS, Document, patiently
from .shard_files import ShardFiles
from .thumbnails import largest_file

T = TypeVar("T")
Array = npt.NDArray[np.generic]

BUCKET = "features"
LEASE_SECONDS = 180
_EPOCH = datetime.fromtimestamp(0, UTC)
_SLACK_BYTES = 1 << 16


class FeatureStore:
    """The feature sets of one database, as one process uses them. Every method raises StorageError and Stopped."""

    def __init__(
        self,
        database: Database[Document],
        stop: Callable[[], bool],
        lease_seconds: float = LEASE_SECONDS,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._sets = database["feature_sets"]
        self._shards = database["feature_shards"]
        self._files = ShardFiles(database, BUCKET)
        self._stop = stop
        self._patience = patience
        self.lease_seconds = lease_seconds
        self._token = uuid.uuid4().hex

    def stored_type(self, key: str) -> np.dtype[Any] | None:
        """Give the type that the set's features are stored in, or None when nothing is stored yet."""
        found = self._do(lambda: self._sets.find_one({"_id": key}, {"storedType": 1}), "find the features")
        name = found.get("storedType") if found else None
        return None if name is None else np.dtype(name)

    def fix_stored_type(self, key: str, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """Decide the set's stored type, unless another process was first; the answer is what counts."""
        self._do(
            lambda: self._sets.update_one(
                {"_id": key, "storedType": {"$exists": False}}, {"$set": {"storedType": dtype.name}}
            ),
            "store the features' type",
        )
        return self.stored_type(key) or dtype

    def finished(self, found: FeatureSet, shards: int) -> dict[int, Document]:
        """Give the documents of the first `shards` shards that are there, by index."""
        ids = [_shard_id(found, index) for index in range(shards)]
        documents = self._do(
            lambda: list(self._shards.find({"_id": {"$in": ids}, "file": {"$type": "objectId"}})), "find the features"
        )
        return {int(document["index"]): document for document in documents}

    def find(self, found: FeatureSet, index: int) -> Document | None:
        """Give the document of a shard that is there."""
        wanted = {"_id": _shard_id(found, index), "file": {"$type": "objectId"}}
        return self._do(lambda: self._shards.find_one(wanted), "find the features")

    def look(self, found: FeatureSet, indices: Iterable[int]) -> tuple[dict[int, int], set[int]]:
        """Give of these shards those that are there, with their images, and those that somebody else computes now."""
        there = {"$eq": [{"$type": "$file"}, "objectId"]}
        leased = {"$and": [{"$gt": ["$leaseUntil", "$$NOW"]}, {"$ne": ["$token", self._token]}]}
        wanted = {"_id": {"$in": [_shard_id(found, index) for index in indices]}}
        answer = {"_id": 0, "index": 1, "images": 1, "there": there, "leased": leased}
        documents = self._do(
            lambda: list(self._shards.aggregate([{"$match": wanted}, {"$project": answer}])), "find the features"
        )
        images = {int(document["index"]): int(document["images"]) for document in documents if document["there"]}
        busy = {int(document["index"]) for document in documents if document["leased"] and not document["there"]}
        return images, busy

    def claim(self, found: FeatureSet, index: int) -> bool:
        """Take a shard that is neither there nor leased by somebody else; repeating it is harmless."""
        passed = {"$lte": [{"$ifNull": ["$leaseUntil", _EPOCH]}, "$$NOW"]}
        mine = {"$eq": ["$token", self._token]}
        free = {"$and": [{"$eq": [{"$ifNull": ["$file", None]}, None]}, {"$or": [mine, passed]}]}
        # In one step, and decided in the update: MongoDB's clock cannot be in the filter of an upsert.
        values = {
            "set": {"$literal": found.key},
            "index": index,
            "token": {"$cond": [free, self._token, "$token"]},
            "leaseUntil": {"$cond": [free, self._until(), "$leaseUntil"]},
        }

        def attempt() -> bool:
            document = self._shards.find_one_and_update(
                {"_id": _shard_id(found, index)},
                [{"$set": values}],
                {"token": 1},
                upsert=True,
                return_document=ReturnDocument.AFTER,
            )
            return document is not None and document.get("token") == self._token

        return self._do(attempt, "claim a shard of features")

    def renew(self, found: FeatureSet, index: int) -> bool:
        """Lengthen the lease; False when it was lost."""
        mine = {"_id": _shard_id(found, index), "token": self._token}
        update = [{"$set": {"leaseUntil": self._until()}}]
        return self._do(lambda: self._shards.update_one(mine, update), "renew a lease").matched_count == 1

    def release(self, found: FeatureSet, index: int) -> None:
        """Give a claimed shard back; if MongoDB is away, the lease passes by itself."""
        with contextlib.suppress(PyMongoError):
            self._shards.delete_one({"_id": _shard_id(found, index), "token": self._token, "file": None})

    def finish(
        self, found: FeatureSet, index: int, features: Array, facts: Mapping[str, Any], thumbnails: bytes = b""
    ) -> bool:
        """Store a claimed shard; False, with nothing left behind, when the claim was lost meanwhile."""
        name = _shard_id(found, index)
        named = self._write(name, encode(features))
        values: Document = {
            **named,
            "images": len(features),
            "dtype": features.dtype.name,
            "facts": dict(facts),
        }
        if thumbnails:
            try:
                values["thumbnails"] = self._write(f"{name}/thumbnails", thumbnails)
            except BaseException:
                self._delete(named["file"])
                raise
        mine = {"_id": name, "token": self._token, "file": None}
        update = {"$set": values, "$unset": {"token": "", "leaseUntil": ""}}

        def attempt() -> bool:
            if self._shards.update_one(mine, update).matched_count == 1:
                return True
            # The answer to an earlier attempt may have been lost on its way.
            return self._shards.find_one({"_id": name, "file": named["file"]}) is not None

        finished = self._do(attempt, "store features")
        if not finished:
            self._delete_files(values)
        return finished

    def read(self, found: FeatureSet, index: int, document: Mapping[str, Any]) -> Array | None:
        """Read a shard that is there [n, *feature_shape]; None when it is damaged or missing. Any thread may do it."""
        shape = found.shape(index)
        dtype = np.dtype(str(document.get("dtype", "float16")))
        plain = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if dtype not in (np.float16, np.float32) or not 0 <= int(document.get("bytes", -1)) <= plain + _SLACK_BYTES:
            return None

        file_id, digest = document["file"], str(document.get("sha256"))
        data = self._do(lambda: self._files.read(file_id, int(document["bytes"]), digest), "read features")
        try:
            return None if data is None else decode(data, shape, dtype)
        except CodecError:
            return None

    def thumbnails(self, found: FeatureSet, index: int) -> memoryview | None:
        """Read a shard's thumbnails as they were stored; None when there are none or they are damaged."""
        named = (self.find(found, index) or {}).get("thumbnails")
        if named is None or not 0 < int(named["bytes"]) <= largest_file(found.shape(index)[0]):
            return None
        read = lambda: self._files.read(named["file"], int(named["bytes"]), str(named["sha256"]))  # noqa: E731
        return self._do(read, "read thumbnails")

    def drop(self, found: FeatureSet, index: int, document: Mapping[str, Any]) -> None:
        """Forget a damaged shard; one that was computed again meanwhile stays."""
        bad = {"_id": _shard_id(found, index), "file": document["file"]}
        self._do(lambda: self._shards.delete_one(bad), "drop damaged features")
        self._delete_files(document)

    def _until(self) -> Document:
        return {"$add": ["$$NOW", int(1000 * self.lease_seconds)]}

    def _write(self, name: str, data: bytes | memoryview) -> Document:
        """Store a file; gives what names it."""
        file_id = ObjectId()
        try:
            self._do(lambda: self._files.write(file_id, name, data), "store features")
        except BaseException:
            self._delete(file_id)
            raise
        return {"file": file_id, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}

    def _delete_files(self, shard: Mapping[str, Any]) -> None:
        for named in (shard, shard.get("thumbnails") or {}):
            if named.get("file"):
                self._delete(named["file"])

    def _delete(self, file_id: ObjectId) -> None:
        # What cannot be deleted now is an orphan for the sweeper.
        with contextlib.suppress(PyMongoError):
            self._files.delete(file_id)

    def _do(self, operation: Callable[[], T], what: str) -> T:
        return patiently(operation, what, self._patience, self._stop)


def _shard_id(found: FeatureSet, index: int) -> str:
    return f"{found.key}/{index}"
