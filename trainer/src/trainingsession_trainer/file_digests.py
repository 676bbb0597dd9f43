"""Digests of the files on claims, kept in MongoDB, so that a folder is digested once and not by every session.

One GridFS file for each folder in the bucket `digests`, called by claim and path: packed lines of size, time of change,
SHA-256 and name. What is lost or damaged costs reading the files again, nothing else. It stays as long as a feature set
names the folder.
"""

from __future__ import annotations

import contextlib
import gzip
import json
from collections.abc import Callable, Mapping

from gridfs import GridFSBucket
from gridfs.errors import CorruptGridFile, NoFile
from pymongo.database import Database
from pymongo.errors import PyMongoError

from .datasets import KnownFile
from .mongodb import Document, patiently

BUCKET = "digests"


class FileDigests:
    """The memory of one database; raises StorageError, Stopped."""

    def __init__(self, database: Database[Document], stop: Callable[[], bool]) -> None:
        self._bucket = GridFSBucket(database, BUCKET)
        self._stop = stop

    def recall(self, place: str) -> Mapping[str, KnownFile]:
        """Give what is known of the files of a folder; nothing where that is damaged."""
        return patiently(lambda: self._read(place), "read the digests of files", stop=self._stop)

    def remember(self, place: str, files: Mapping[str, KnownFile]) -> None:
        """Keep it in the place of what was known."""
        patiently(lambda: self._write(place, files), "store the digests of files", stop=self._stop)

    def _read(self, place: str) -> Mapping[str, KnownFile]:
        found: dict[str, KnownFile] = {}
        try:
            with self._bucket.open_download_stream_by_name(place) as stored, gzip.open(stored) as lines:
                for line in lines:
                    size, changed, digest, name = line.split(b" ", 3)
                    found[json.loads(name)] = KnownFile(int(size), int(changed), bytes.fromhex(digest.decode("ascii")))
        except (NoFile, CorruptGridFile, OSError, EOFError, ValueError):
            return {}
        return found

    def _write(self, place: str, files: Mapping[str, KnownFile]) -> None:
        old = [stored._id for stored in self._bucket.find({"filename": place})]
        with self._bucket.open_upload_stream(place) as stored, gzip.open(stored, "wb", compresslevel=1) as packed:
            for name, file in files.items():
                packed.write(f"{file.size} {file.changed} {file.digest.hex()} {json.dumps(name)}\n".encode("ascii"))
        for number in old:
            # Another session may have removed it just now.
            with contextlib.suppress(NoFile, PyMongoError):
                self._bucket.delete(number)
