"""Weights files in MongoDB, once per content: fetched from outside by the first session, read from here by the others.

    base_weights   _id sha256 of the file · fileName · names (what sessions ask for) · file (GridFS) · bytes · keptAt

A set of features names the file it was computed with, and the file stays as long as such a set does.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path

from gridfs import GridFSBucket
from gridfs.errors import CorruptGridFile, NoFile
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError, PyMongoError

from .datasets import Disk
from .errors import DataError
from .mongodb import Document, patiently

BUCKET = "features"
_PIECE = 1 << 20


class KeptWeights:
    """The weights files of one database. Every method raises StorageError and Stopped."""

    def __init__(self, database: Database[Document], stop: Callable[[], bool]) -> None:
        self._weights = database["base_weights"]
        self._bucket = GridFSBucket(database, BUCKET)
        self._stop = stop

    def restore(self, name: str, folder: Path, disk: Disk | None = None) -> Path | None:
        """Write the file of this name into `folder`, under its own file name; None where there is none or a bad one.

        Raises DataError where `disk` has no room for it.
        """
        found = patiently(
            lambda: self._weights.find_one({"names": name}, sort=[("keptAt", -1)]), "find the weights", stop=self._stop
        )
        if found is None:
            return None
        if disk is not None and found["bytes"] > (room := disk.room()):
            raise DataError(
                f"The weights in {found['fileName']} have {found['bytes']:,} bytes, and {room:,} may be written; "
                f"{disk.remedy}."
            )
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / Path(found["fileName"]).name
        if patiently(lambda: self._read(found, target), "read the weights", stop=self._stop):
            return target
        target.unlink(missing_ok=True)
        # Whoever fetches it next keeps it again.
        bad = {"_id": found["_id"], "file": found["file"]}
        patiently(lambda: self._weights.delete_one(bad), "drop damaged weights", stop=self._stop)
        self._delete(found)
        return None

    def keep(self, name: str, path: Path) -> str:
        """Store a file under a name, unless it is there; gives the SHA-256 of its content."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        named = {"$addToSet": {"names": name}}
        if patiently(lambda: self._weights.update_one({"_id": digest}, named), "keep the weights").matched_count:
            return digest

        def upload() -> Document:
            with path.open("rb") as file:
                file_id = self._bucket.upload_from_stream(f"weights/{path.name}", file)
            return {"file": file_id, "fileName": path.name, "bytes": path.stat().st_size, "names": [name]}

        document = patiently(upload, "keep the weights", stop=self._stop)
        stage: Document = {key: {"$ifNull": [f"${key}", {"$literal": value}]} for key, value in document.items()}
        stage["keptAt"] = {"$ifNull": ["$keptAt", "$$NOW"]}

        def name_it() -> Document | None:
            with contextlib.suppress(DuplicateKeyError):
                self._weights.update_one({"_id": digest}, [{"$set": stage}], upsert=True)
            return self._weights.find_one({"_id": digest})

        found = patiently(name_it, "keep the weights", stop=self._stop)
        if found is None or found["file"] != document["file"]:
            self._delete(document)
        return digest

    def _read(self, found: Document, target: Path) -> bool:
        digest = hashlib.sha256()
        try:
            with self._bucket.open_download_stream(found["file"]) as stream, target.open("wb") as file:
                while piece := stream.read(_PIECE):
                    digest.update(piece)
                    file.write(piece)
        except (NoFile, CorruptGridFile):
            return False
        return bool(digest.hexdigest() == found["_id"])

    def _delete(self, document: Document) -> None:
        # What cannot be deleted now is an orphan for the sweeper.
        with contextlib.suppress(NoFile, PyMongoError):
            self._bucket.delete(document["file"])
