"""Large files in GridFS's own layout, in as few round trips as MongoDB allows, read only with the right SHA-256.

Any GridFS client can read and delete them. The document of a file is stored before its chunks, dated by MongoDB's
clock: what a killed writer leaves behind is a file that nothing names, which a sweep finds by its date.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from bson import Int64, ObjectId
from pymongo import ASCENDING
from pymongo.database import Database
from pymongo.errors import BulkWriteError, OperationFailure

from .mongodb import Document

CHUNK_BYTES = 1024 * 1024
_CHUNKS_PER_REPLY = 4  # as many as stay in the processor's cache until they are hashed
_DUPLICATE = 11000


class ShardFiles:
    """The files of one bucket. Methods raise PyMongoError; the same call may be repeated after one."""

    def __init__(self, database: Database[Document], bucket: str) -> None:
        self._files = database[bucket].files
        self._chunks = database[bucket].chunks
        self._indexed = False

    def write(self, file_id: ObjectId, name: str, data: bytes | memoryview) -> None:
        """Store a file; when this returns, a majority of the replica set has it on disk."""
        if not self._indexed:
            self._chunks.create_index([("files_id", ASCENDING), ("n", ASCENDING)], unique=True)
            self._indexed = True
        description: dict[str, Any] = {
            "filename": {"$literal": name},
            "length": Int64(len(data)),
            "chunkSize": CHUNK_BYTES,
            "uploadDate": "$$NOW",
        }
        self._files.update_one({"_id": file_id}, [{"$set": description}], upsert=True)
        chunks = (
            {"files_id": file_id, "n": n, "data": bytes(data[start : start + CHUNK_BYTES])}
            for n, start in enumerate(range(0, len(data), CHUNK_BYTES))
        )
        try:
            if data:
                self._chunks.insert_many(chunks, ordered=False)
        except BulkWriteError as error:
            _raise_unless_repeated(error.details)

    def read(self, file_id: ObjectId, size: int, sha256: str) -> memoryview | None:
        """Give the bytes, which can be written to; None when they are not all there or not the right ones."""
        found = self._files.find_one({"_id": file_id}, {"length": 1})
        if found is None or found["length"] != size:
            return None
        data = np.empty(size, np.uint8).data
        digest, end = hashlib.sha256(), 0
        chunks = self._chunks.find(
            {"files_id": file_id}, {"_id": 0, "n": 1, "data": 1}, sort=[("n", ASCENDING)], batch_size=_CHUNKS_PER_REPLY
        )
        with chunks:
            for expected, chunk in enumerate(chunks):
                start, end = end, end + len(chunk["data"])
                if chunk["n"] != expected or end > size:
                    return None
                data[start:end] = chunk["data"]
                digest.update(data[start:end])
        return data if end == size and digest.hexdigest() == sha256 else None

    def delete(self, file_id: ObjectId) -> None:
        """Remove a file as far as it is there; its document goes last, so that no chunk is left without one."""
        self._chunks.delete_many({"files_id": file_id})
        self._files.delete_one({"_id": file_id})


def _raise_unless_repeated(details: Mapping[str, Any] | None) -> None:
    """Chunks that an earlier attempt stored are no error; the first other refusal is raised with its own code."""
    refused = [error for error in (details or {}).get("writeErrors", []) if error.get("code") != _DUPLICATE]
    refused += (details or {}).get("writeConcernErrors", [])
    for error in refused:
        raise OperationFailure(str(error.get("errmsg", "")), error.get("code"), error)
