"""The backups at one place: one file each, and its SHA-256 beside it.

An archive counts when NAME.sha256 is there. That is written last, after the archive was read back.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import IO, TypeVar, cast

from .errors import StartError
from .places import PART_ENDING, READ_BYTES, Place, PlaceError

Result = TypeVar("Result")

NAME = re.compile(r"trainingsession-\d{8}T\d{6}Z\.zip")
DIGEST_ENDING = ".sha256"


class _Digesting:
    """Counts and digests what is written into a stream. It does not tell its position, so it is never sought in."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self.digest = hashlib.sha256()
        self.bytes = 0

    def write(self, data: bytes | memoryview) -> int:
        piece = bytes(data)
        self._out.write(piece)
        self.digest.update(piece)
        self.bytes += len(piece)
        return len(piece)

    def flush(self) -> None:
        """Pieces are flushed when they are full."""


@dataclass(frozen=True)
class Archives:
    """The backups at one place."""

    place: Place

    def names(self) -> list[str]:
        """Names of the whole archives, the oldest first."""
        found = set(self.place.names())
        return sorted(name for name in found if NAME.fullmatch(name) and f"{name}{DIGEST_ENDING}" in found)

    def store(self, name: str, write: Callable[[IO[bytes]], Result]) -> tuple[Result, int]:
        """Have an archive written and read it back; gives what `write` gave, and the archive's bytes."""
        with self.place.write(name) as out:
            stream = _Digesting(out)
            result = write(cast("IO[bytes]", stream))
        written = stream.digest.hexdigest()
        if self._digest(name) != written:
            raise PlaceError(f"{name} does not read back as it was written; the volume or bucket is damaged")
        with self.place.write(f"{name}{DIGEST_ENDING}") as out:
            # As sha256sum writes it, and checks it with -c.
            out.write(f"{written}  {name}\n".encode())
        return result, stream.bytes

    def chosen(self, name: str = "") -> str:
        """Give the newest archive's name, or `name` where it is one."""
        names = self.names()
        if not names:
            raise StartError("there is no backup to restore")
        if name and name not in names:
            raise StartError(f'there is no backup "{name}"; there are: {", ".join(names)}')
        return name or names[-1]

    def open(self, name: str) -> IO[bytes]:
        """Open an archive whose bytes are those that were written."""
        with self.place.read(f"{name}{DIGEST_ENDING}") as file:
            wanted = file.read(1_000).decode("ascii", "replace").split(" ")[0]
        if self._digest(name) != wanted:
            raise PlaceError(f"{name} is damaged: its SHA-256 is not the one beside it; restore an earlier one by name")
        return self.place.read(name)

    def thin_out(self, keep: int, now: datetime) -> list[str]:
        """Delete all but the newest `keep` archives, and what an unfinished one left a day ago; gives the archives."""
        whole = self.names()
        gone, unfinished_before = whole[:-keep], new_name(now - timedelta(days=1))
        for name in gone:
            # First what makes it count.
            self.place.delete(f"{name}{DIGEST_ENDING}")
        for name in self.place.names():
            archive = name.removesuffix(PART_ENDING).removesuffix(DIGEST_ENDING)
            if archive in gone or (NAME.fullmatch(archive) and archive not in whole and archive < unfinished_before):
                self.place.delete(name)
        return gone

    def _digest(self, name: str) -> str:
        digest = hashlib.sha256()
        with self.place.read(name) as file:
            while piece := file.read(READ_BYTES):
                digest.update(piece)
        return digest.hexdigest()


def new_name(now: datetime) -> str:
    """Name of an archive that is begun at `now`; names sort by age."""
    return f"trainingsession-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}.zip"
