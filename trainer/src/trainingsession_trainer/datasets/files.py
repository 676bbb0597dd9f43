"""What reading and writing large files have in common: a session that is stopped, or a full disk, shows in time."""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

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
