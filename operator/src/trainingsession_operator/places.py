"""Where files are put: what a place does, and a folder on a volume."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol

from .errors import OperatorError

PART_ENDING = ".part"
"""Of a file in a folder that is being written."""
READ_BYTES = 1 << 20


class PlaceError(OperatorError):
    """The place of the backups does not do what was asked."""


class Place(Protocol):
    """Files under names. Every method raises PlaceError."""

    def names(self) -> list[str]:
        """Names of all files."""

    def write(self, name: str) -> contextlib.AbstractContextManager[IO[bytes]]:
        """A stream; the file has its name only when the block ended well."""

    def read(self, name: str) -> IO[bytes]:
        """A file that can be read at any position."""

    def delete(self, name: str) -> None:
        """Delete a file that may be gone already."""


class Folder:
    """A folder on a volume."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> list[str]:
        """Names of all files."""
        with self._translated("be listed"):
            return [entry.name for entry in self._path.iterdir() if entry.is_file()]

    @contextlib.contextmanager
    def write(self, name: str) -> Iterator[IO[bytes]]:
        """A stream; the file has its name only when the block ended well."""
        part = self._path / f"{name}{PART_ENDING}"
        with self._translated(f"take {name}"):
            try:
                with part.open("wb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                part.rename(self._path / name)
                self._sync()
            except BaseException:
                part.unlink(missing_ok=True)
                raise

    def read(self, name: str) -> IO[bytes]:
        """A file that can be read at any position."""
        with self._translated(f"give {name}"):
            return (self._path / name).open("rb")

    def delete(self, name: str) -> None:
        """Delete a file that may be gone already."""
        with self._translated(f"delete {name}"):
            (self._path / name).unlink(missing_ok=True)

    def _sync(self) -> None:
        """The new name survives a crash of the node too."""
        folder = os.open(self._path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    @contextlib.contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            words = error.strerror or str(error)
            raise PlaceError(f"the folder of the backups cannot {what}: {words}; {_remedy(error)}") from error


def _remedy(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "enlarge the volume, or set backup.keep lower"
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return "the volume must let group 65532 write"
    return "look at the volume"
