"""Digests of files that were read before: a file of the same path, size and time of change is not read again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from .files import Stop, sha256_of

RACY_NS = 2_000_000_000
"""A file that changed just now may change again without its time showing it: file systems count in up to 2 seconds."""


@dataclass(frozen=True)
class KnownFile:
    """A file as it was when it was read: bytes, nanoseconds of its last change, SHA-256."""

    size: int
    changed: int
    digest: bytes


class Memory(Protocol):
    """Where they are kept, by the folder's place and the file's name in it."""

    def recall(self, place: str) -> Mapping[str, KnownFile]:
        """Give what is known of the files of a folder."""

    def remember(self, place: str, files: Mapping[str, KnownFile]) -> None:
        """Keep that in the place of what was known."""


@dataclass
class KnownFiles:
    """The files of one folder; without a memory, each is read."""

    place: str = ""
    memory: Memory | None = None
    now: Callable[[], int] = time.time_ns
    _known: Mapping[str, KnownFile] = field(default_factory=dict)
    _seen: dict[str, KnownFile] = field(default_factory=dict)
    _read: int = 0

    def __post_init__(self) -> None:
        if self.memory is not None:
            self._known = self.memory.recall(self.place)

    def digest(self, path: Path, name: str, stop: Stop, doing: str) -> bytes:
        """Digest a file, from memory where it has not changed; raises OSError, Stopped."""
        before = path.stat()
        known = self._known.get(name)
        if known is not None and (known.size, known.changed) == (before.st_size, before.st_mtime_ns):
            self._seen[name] = known
            return known.digest
        digest = sha256_of(path, stop, doing)
        self._read += 1
        after = path.stat()
        same = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
        if self.memory is not None and same and self.now() - after.st_mtime_ns > RACY_NS:
            self._seen[name] = KnownFile(after.st_size, after.st_mtime_ns, digest)
        return digest

    def keep(self) -> int:
        """Remember what was seen, if that is anything new; gives how many files were read."""
        if self.memory is not None and self._seen != self._known:
            self.memory.remember(self.place, self._seen)
        return self._read
