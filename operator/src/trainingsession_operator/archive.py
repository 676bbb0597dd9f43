"""The form of a backup: one zip, written from front to back, of the files that mongorestore reads too.

    1/DATABASE/artifacts.chunks.bson    contents of stored files, read while they are in use; in 2/, 3/ of newer ones
    N/DATABASE/COLLECTION.bson          everything else, and the files that are newer still: all of one moment
    N/DATABASE/COLLECTION.metadata.json the collection's indexes
    MANIFEST.json                       the last one; without it, the archive was not finished

Documents are passed on as MongoDB gave them, one behind the other, and never taken apart.
"""

from __future__ import annotations

import contextlib
import json
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Any
from urllib.parse import quote, unquote

from .errors import OperatorError

Json = dict[str, Any]

FORMAT = 1
MANIFEST = "MANIFEST.json"
COMPRESSION = 1
"""zlib's quickest level: models hardly shrink, records do at any."""
LARGEST_DOCUMENT = (16 << 20) + (16 << 10)
"""MongoDB's limit, with the room that it leaves for its own fields."""
LARGEST_TEXT = 64 << 20

_LENGTH = struct.Struct("<i")


class ArchiveError(OperatorError):
    """What was read is no archive, or not a whole one."""


def count(documents: bytes) -> int:
    """How many BSON documents lie one behind the other."""
    at = found = 0
    while at < len(documents):
        at += _LENGTH.unpack_from(documents, at)[0]
        found += 1
    return found


class ArchiveWriter:
    """Writes an archive into a stream that is only written to."""

    def __init__(self, out: IO[bytes]) -> None:
        self._zip = zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=COMPRESSION)

    @contextlib.contextmanager
    def documents(self, part: int, database: str, collection: str) -> Iterator[IO[bytes]]:
        """A file of documents; one at a time."""
        with self._zip.open(_path(part, database, f"{collection}.bson"), "w", force_zip64=True) as file:
            yield file

    def metadata(self, part: int, database: str, collection: str, text: str) -> None:
        """What mongodump writes beside a collection's documents, in extended JSON."""
        self._zip.writestr(_path(part, database, f"{collection}.metadata.json"), text)

    def abandon(self) -> None:
        """Write nothing more: without its end, it is no archive."""
        # Else ZipFile writes the end when it is collected as garbage.
        self._zip.fp = None

    def finish(self, manifest: Json) -> None:
        """Write the manifest and the end of the archive."""
        self._zip.writestr(MANIFEST, json.dumps({"format": FORMAT, **manifest}, indent=1))
        self._zip.close()


class Archive:
    """Reads an archive from a file; every method raises ArchiveError where it is damaged."""

    def __init__(self, file: IO[bytes]) -> None:
        try:
            self._zip = zipfile.ZipFile(file)
            manifest: Json = dict(json.loads(self._zip.read(MANIFEST)))
        except (zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
            raise ArchiveError(f"it is not a whole archive of a backup ({_words(error)})") from error
        if manifest.get("format") != FORMAT:
            raise ArchiveError(
                f"its format is {manifest.get('format')}, and this operator reads {FORMAT}; "
                "restore it with the version of TrainingSession that made it"
            )
        self.manifest = manifest
        self.parts: list[int] = [int(part) for part in manifest["parts"]]
        self._names = set(self._zip.namelist())

    def databases(self) -> list[str]:
        """Names of the databases that it holds."""
        return sorted(self.manifest["databases"])

    def collections(self, part: int, database: str) -> list[str]:
        """Names of the collections of which the part holds documents."""
        folder, ending = _path(part, database, ""), ".bson"
        files = [name.removeprefix(folder) for name in self._names if name.startswith(folder) and name.endswith(ending)]
        return sorted(unquote(file.removesuffix(ending)) for file in files)

    def documents(self, part: int, database: str, collection: str) -> Iterator[bytes]:
        """The documents, one by one; the last one comes only if the file is whole."""
        try:
            with self._zip.open(_path(part, database, f"{collection}.bson")) as file:
                before = b""
                while head := file.read(_LENGTH.size):
                    if before:
                        yield before
                    length = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else 0
                    if not 5 <= length <= LARGEST_DOCUMENT:
                        raise ArchiveError(f"{database}.{collection} is damaged in the archive")
                    before = head + file.read(length - len(head))
                    if len(before) != length:
                        raise ArchiveError(f"{database}.{collection} is cut off in the archive")
                if before:
                    yield before
        except (zipfile.BadZipFile, EOFError, zlib.error) as error:
            raise ArchiveError(f"{database}.{collection} is damaged in the archive ({_words(error)})") from error

    def metadata(self, part: int, database: str, collection: str) -> str:
        """What `ArchiveWriter.metadata` was given; an empty object where it was not."""
        name = _path(part, database, f"{collection}.metadata.json")
        if name not in self._names:
            return "{}"
        if self._zip.getinfo(name).file_size > LARGEST_TEXT:
            raise ArchiveError(f"the metadata of {database}.{collection} is damaged in the archive")
        return self._zip.read(name).decode()


def _path(part: int, database: str, file: str) -> str:
    # Whatever a tenant calls a collection, the file is in its folder; mongorestore takes the escapes back.
    return f"{part}/{database}/{quote(file, safe=' $')}"


def _words(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
