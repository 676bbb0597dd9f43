"""The backups at one place: one file each, and its SHA-256 beside it.

An archive counts when NAME.sha256 is there. That is written last, after the archive was read back.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import IO, TypeVar, cast

from .archive import Archive, ArchiveError
from .errors import StartError
from .places import PART_ENDING, READ_BYTES, Place, PlaceError

log = logging.getLogger(__name__)

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
        """Give the newest archive's name, or `name` where it is one.

        Where an older one has far more sessions, which of both is wanted has to be said: raises StartError.
        """
        names = self.names()
        if not names:
            raise StartError("there is no backup to restore")
        if name and name not in names:
            raise StartError(f'there is no backup "{name}"; there are: {", ".join(names)}')
        if name:
            return name
        counts = {one: self.sessions(one) for one in names}
        newest = names[-1]
        larger = next((one for one in reversed(names) if _dwarfs(counts[one], counts[newest])), None)
        if larger is not None:
            raise StartError(
                f"the newest backup, {newest}, holds the records of {counts[newest]} sessions, and {larger} before it "
                f"those of {counts[larger]}: MongoDB may have lost them between; name the one that you want (ARCHIVE)"
            )
        return newest

    def sessions(self, name: str) -> int:
        """How many sessions' records an archive holds; none where it cannot be read."""
        try:
            with self.place.read(name) as file:
                databases = Archive(file).manifest["databases"]
                return sum(int(found.get("sessions", 0)) for found in databases.values())
        except (ArchiveError, KeyError, TypeError, ValueError, AttributeError) as error:
            log.warning("%s cannot be read: %s", name, error)
            return 0

    def open(self, name: str) -> IO[bytes]:
        """Open an archive whose bytes are those that were written."""
        with self.place.read(f"{name}{DIGEST_ENDING}") as file:
            wanted = file.read(1_000).decode("ascii", "replace").split(" ")[0]
        if self._digest(name) != wanted:
            raise PlaceError(f"{name} is damaged: its SHA-256 is not the one beside it; restore an earlier one by name")
        return self.place.read(name)

    def thin_out(self, keep: int, now: datetime) -> list[str]:
        """Delete all but the newest `keep` archives, and what an unfinished one left a day ago; gives the archives.

        One stays whatever its age: the last with far more sessions than all that are newer, as after a loss of data.
        """
        whole, unfinished_before = self.names(), new_name(now - timedelta(days=1))
        last = self._last_large(whole, keep)
        gone = [name for name in whole[:-keep] if name != last]
        for name in gone:
            # First what makes it count.
            self.place.delete(f"{name}{DIGEST_ENDING}")
        for name in self.place.names():
            archive = name.removesuffix(PART_ENDING).removesuffix(DIGEST_ENDING)
            if archive in gone or (NAME.fullmatch(archive) and archive not in whole and archive < unfinished_before):
                self.place.delete(name)
        return gone

    def _last_large(self, whole: list[str], keep: int) -> str | None:
        for name in reversed(whole[:-keep]):
            count = self.sessions(name)
            # The newest first: where nothing was lost, it is enough to look at that one.
            if all(_dwarfs(count, self.sessions(newer)) for newer in reversed(whole[-keep:])):
                log.warning(
                    "the old backup %s is kept: it holds the records of %d sessions, and none of the newer more than "
                    "half of that; restore it if they were lost, and delete it if they are not needed", name, count,
                )  # fmt: skip
                return name
        return None

    def _digest(self, name: str) -> str:
        digest = hashlib.sha256()
        with self.place.read(name) as file:
            while piece := file.read(READ_BYTES):
                digest.update(piece)
        return digest.hexdigest()


def _dwarfs(sessions: int, others: int) -> bool:
    """Whether an archive has so many more sessions than another that a loss lies between them."""
    return sessions > 2 * others


def new_name(now: datetime) -> str:
    """Name of an archive that is begun at `now`; names sort by age."""
    return f"trainingsession-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}.zip"
