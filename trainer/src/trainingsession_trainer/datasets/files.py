"""What reading and writing large files have in common: a session that is stopped, or a full disk, shows in time."""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from trainingsession_trainer.errors import Stopped

CHUNK = 1 << 20
RESERVE_BYTES = 256 << 20
"""Disk that is left free: a node whose disk is full evicts pods that have nothing to do with the session."""

Stop = Callable[[], bool]
"""Whether the session was asked to stop; asked at every chunk, member and image."""


def check_stop(stop: Stop, doing: str) -> None:
    """Raise Stopped when the session was asked to; `doing` completes the sentence "Stopped while …"."""
    if stop():
        raise Stopped(f"Stopped while {doing}; the next attempt does it again.")


def free_bytes(folder: Path) -> int:
    """Say how much may still be written into `folder`."""
    return max(0, shutil.disk_usage(folder).free - RESERVE_BYTES)


class Readable(Protocol):
    """What bytes are read from."""

    def read(self, size: int, /) -> bytes:
        """Give at most `size` bytes, none at the end."""


@dataclass(frozen=True)
class Disk:
    """Where a session writes, and the bytes that it may have there: the pod's own limit where it has one."""

    folder: Path
    limit: int | None = None

    def room(self) -> int:
        """Say how many bytes may still be written; counts every file that is there, so it is not asked for each."""
        free = free_bytes(self.folder)
        if self.limit is None:
            return free
        files = (path for path in self.folder.rglob("*") if path.is_file() and not path.is_symlink())
        return max(0, min(free, self.limit - RESERVE_BYTES - sum(path.stat().st_size for path in files)))

    @property
    def remedy(self) -> str:
        """What helps when there is too little."""
        return "use a node with a larger disk" if self.limit is None else "raise spec.resources.ephemeralStorage"


def is_full(error: BaseException) -> bool:
    """Whether an error says that the disk, or the pod's share of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def sha256_of(path: Path, stop: Stop, doing: str) -> bytes:
    """Digest a file; raises OSError, Stopped."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            check_stop(stop, doing)
            digest.update(chunk)
    return digest.digest()


def copy_bytes(content: Readable, file: IO[bytes], most: int, stop: Stop, doing: str) -> int:
    """Copy at most `most` bytes in chunks; gives how many there were. Raises Stopped."""
    done = 0
    while done < most and (chunk := content.read(min(CHUNK, most - done))):
        check_stop(stop, doing)
        file.write(chunk)
        done += len(chunk)
    return done
