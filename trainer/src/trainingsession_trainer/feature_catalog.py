"""Which feature sets a database has, what each is about, and who needs them now.

    feature_sets   _id key · split · images · shardImages · featureShape · imageShape · classNames · storedType ·
                   description (what the key is made of) · manifest (GridFS: labels and image digests) ·
                   baseWeights · recipes (digests of specs whose features these are) · lastUsedAt ·
                   evicting, while it is removed
    feature_uses   _id attempt/key · set · session · until: nothing that an unexpired use names is ever removed

All times are MongoDB's own. The operator removes sets that nobody has used for long; whoever finds such a removal
unfinished finishes it, and every deletion names the very files it saw, so that a set made anew loses nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import keras
import numpy as np
import numpy.typing as npt
from bson import ObjectId
from gridfs import GridFSBucket
from gridfs.errors import CorruptGridFile, NoFile
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError, PyMongoError

from .feature_sets import EXTRACTOR_VERSION, FeatureSet
from .mongodb import Document, patiently

T = TypeVar("T")

BUCKET = "features"
USE_SECONDS = 600
RENEWAL_SECONDS = 60.0
_DIGEST_BYTES = 32


@dataclass(frozen=True)
class Manifest:
    """What a set knows of its images, in their order: `labels` int32 [n], n digests of 32 bytes."""

    labels: npt.NDArray[np.int32]
    digests: tuple[bytes, ...]
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int] | None  # None where sizes differ

    def packed(self) -> bytes:
        """Give labels and digests as they are stored: in GridFS, half a million would not fit into a document."""
        return self.labels.astype("<i4").tobytes() + b"".join(self.digests)


@dataclass(frozen=True)
class StoredSet:
    """A set as it is found without its images."""

    found: FeatureSet
    manifest: Manifest
    description: Mapping[str, Any]

    def is_current(self) -> bool:
        """Whether this trainer would compute the same under the same recipe."""
        weights = self.description.get("weights", {})
        same_draw = weights.get("keras", keras.__version__) == keras.__version__
        return self.description.get("extractorVersion") == EXTRACTOR_VERSION and same_draw


class Use:
    """Holds sets as needed by an attempt for as long as it runs; a thread renews, and a dead process's use passes."""

    def __init__(self, database: Database[Document], session: str, attempt: str) -> None:
        self._uses = database["feature_uses"]
        self._session = session
        self._attempt = attempt
        self._keys: set[str] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="uses", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        with contextlib.suppress(PyMongoError):
            self._uses.delete_many({"_id": {"$in": [self._id(key) for key in self._keys]}})

    def hold(self, key: str) -> None:
        """Hold a set from now on; raises StorageError."""
        # MongoDB removes what has passed.
        patiently(lambda: self._uses.create_index("until", expireAfterSeconds=0), "hold the features")
        patiently(lambda: self._write(key), "hold the features")
        self._keys = self._keys | {key}

    def _renew(self) -> None:
        while not self._over.wait(RENEWAL_SECONDS):
            for key in self._keys:
                # Missed ones are made up for by the next: a use lasts for ten of them.
                with contextlib.suppress(PyMongoError):
                    self._write(key)

    def _write(self, key: str) -> None:
        until = {"$add": ["$$NOW", 1000 * USE_SECONDS]}
        values = {"set": {"$literal": key}, "session": {"$literal": self._session}, "until": until}
        self._uses.update_one({"_id": self._id(key)}, [{"$set": values}], upsert=True)

    def _id(self, key: str) -> str:
        return f"{self._attempt}/{key}"


class FeatureCatalog:
    """The feature sets of one database. Every method raises StorageError and Stopped."""

    def __init__(self, database: Database[Document], use: Use, stop: Callable[[], bool]) -> None:
        self._use = use
        self._sets = database["feature_sets"]
        self._shards = database["feature_shards"]
        self._bucket = GridFSBucket(database, BUCKET)
        self._stop = stop

    def open(
        self,
        wanted: FeatureSet,
        description: Mapping[str, Any],
        manifest: Manifest,
        recipe: str | None,
        weights_file: str | None = None,
        digests_of: str | None = None,
    ) -> FeatureSet:
        """Find the set or make it, and mark it as used; the answer has the stored set's shard size.

        `weights_file` is the kept file that the set is computed with, `digests_of` the folder whose files' digests are
        kept; both stay as long as the set.
        """
        known = self._touch(wanted.key, recipe)
        if known is None or not {"manifest", "imageShape"} <= set(known):
            known = self._create(wanted, description, manifest, recipe)
        names: Document = {}
        if weights_file is not None and known.get("baseWeights") != weights_file:
            names["$set"] = {"baseWeights": weights_file}
        # The same images may lie on several claims.
        if digests_of is not None and digests_of not in known.get("digestsOf", []):
            names["$addToSet"] = {"digestsOf": digests_of}
        if names:
            self._do(lambda: self._sets.update_one({"_id": wanted.key}, names), "name what the features need")
        return FeatureSet(wanted.key, wanted.split, wanted.images, int(known["shardImages"]), wanted.feature_shape)

    def find(self, split: str, *, key: str | None, recipe: str | None) -> StoredSet | None:
        """Find a split's set by its key, or the latest of a recipe, and mark it as used.

        None where there is none or its manifest is damaged.

        Whether its shards are there, and whether this trainer would compute the same, is for the caller to see.
        """
        known = self._latest(split, key=key, recipe=recipe)
        if known is None or self._touch(known["_id"], recipe) is None:
            return None
        return self._stored(known, split)

    def peek(self, split: str, recipe: str) -> StoredSet | None:
        """Find a split's set by a recipe without using it: it may be removed the next moment."""
        known = self._latest(split, key=None, recipe=recipe)
        return None if known is None else self._stored(known, split)

    def _latest(self, split: str, *, key: str | None, recipe: str | None) -> Document | None:
        there: Document = {"manifest": {"$exists": True}, "imageShape": {"$exists": True}}
        named = {"recipes": recipe} if key is None else {"_id": key}
        wanted: Document = {**named, "split": split, "evicting": None, **there}
        return self._do(lambda: self._sets.find_one(wanted, sort=[("lastUsedAt", -1)]), "find the features")

    def _stored(self, known: Document, split: str) -> StoredSet | None:
        count = int(known["images"])
        packed = self._read_manifest(known["manifest"], count * (4 + _DIGEST_BYTES))
        if packed is None:
            # Whoever opens the images next writes it again.
            bad = {"_id": known["_id"], "manifest.file": known["manifest"]["file"]}
            self._do(lambda: self._sets.update_one(bad, {"$unset": {"manifest": ""}}), "drop a damaged manifest")
            self._delete(known["manifest"]["file"])
            return None
        labels = np.frombuffer(packed, "<i4", count).astype(np.int32)
        rest = packed[4 * count :]
        digests = tuple(rest[start : start + _DIGEST_BYTES] for start in range(0, len(rest), _DIGEST_BYTES))
        shape = known["imageShape"]
        found = FeatureSet(known["_id"], split, count, int(known["shardImages"]), tuple(known["featureShape"]))
        manifest = Manifest(labels, digests, tuple(known["classNames"]), None if shape is None else tuple(shape))
        return StoredSet(found, manifest, known["description"])

    def _touch(self, key: str, recipe: str | None) -> Document | None:
        """Hold a set, mark it as used and give its document; None where there is none, any more or yet.

        In this order: whoever removes sets looks at their uses after their last use, and misses neither.
        """
        self._use.hold(key)
        recipes = {"$setUnion": [{"$ifNull": ["$recipes", []]}, [recipe] if recipe else []]}
        used = [{"$set": {"lastUsedAt": "$$NOW", "recipes": recipes}}]
        there = {"_id": key, "evicting": None}
        found = self._do(lambda: self._sets.find_one_and_update(there, used, return_document=True), "find the features")
        if found is None:
            self._finish_eviction(key)
        return found

    def _create(
        self, wanted: FeatureSet, description: Mapping[str, Any], manifest: Manifest, recipe: str | None
    ) -> Document:
        data = manifest.packed()
        file_id = self._do(
            lambda: self._bucket.upload_from_stream(f"{wanted.key}/manifest", data), "store the features' manifest"
        )
        document: Document = {
            "split": wanted.split,
            "images": wanted.images,
            "shardImages": wanted.shard_images,
            "featureShape": list(wanted.feature_shape),
            "imageShape": None if manifest.image_shape is None else list(manifest.image_shape),
            "classNames": list(manifest.class_names),
            "description": dict(description),
            "manifest": {"file": file_id, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)},
            "recipes": [recipe] if recipe else [],
        }
        literal = {key: {"$literal": value} for key, value in document.items()}
        values: Document = {**literal, "createdAt": "$$NOW", "lastUsedAt": "$$NOW"}

        def attempt() -> Document | None:
            with contextlib.suppress(DuplicateKeyError):
                # A pipeline, for MongoDB's clock; it leaves alone what is there.
                keep = {key: {"$ifNull": [f"${key}", value]} for key, value in values.items()}
                self._sets.update_one({"_id": wanted.key}, [{"$set": keep}], upsert=True)
            return self._sets.find_one({"_id": wanted.key})

        found = self._do(attempt, "store the features' manifest") or document
        if found["manifest"]["file"] != file_id:
            self._delete(file_id)
            self._touch(wanted.key, recipe)
        return found

    def _read_manifest(self, manifest: Mapping[str, Any], size: int) -> bytes | None:
        def attempt() -> bytes | None:
            try:
                with self._bucket.open_download_stream(manifest["file"]) as stream:
                    return bytes(stream.read()) if stream.length == size else None
            except (NoFile, CorruptGridFile):
                return None

        data = self._do(attempt, "read the features' manifest")
        return data if data is not None and hashlib.sha256(data).hexdigest() == manifest["sha256"] else None

    def _finish_eviction(self, key: str) -> None:
        """Remove what an interrupted removal left of a set, exactly as the operator does it."""
        going = self._do(
            lambda: self._sets.find_one({"_id": key, "evicting": {"$type": "objectId"}}), "find the features"
        )
        if going is None:
            return
        shards = self._do(lambda: list(self._shards.find({"set": key})), "remove features")
        for shard in shards:
            seen = {"_id": shard["_id"], **{name: shard.get(name) for name in ("file", "token", "leaseUntil")}}
            self._do(lambda seen=seen: self._shards.delete_one(seen), "remove features")  # type: ignore[misc]
            for named in (shard, shard.get("thumbnails") or {}):
                if named.get("file"):
                    self._delete(named["file"])
        self._do(lambda: self._sets.delete_one({"_id": key, "evicting": going["evicting"]}), "remove features")
        if "manifest" in going:
            self._delete(going["manifest"]["file"])

    def _delete(self, file_id: ObjectId) -> None:
        # What cannot be deleted now is an orphan for the sweeper.
        with contextlib.suppress(NoFile, PyMongoError):
            self._bucket.delete(file_id)

    def _do(self, operation: Callable[[], T], what: str) -> T:
        return patiently(operation, what, stop=self._stop)
