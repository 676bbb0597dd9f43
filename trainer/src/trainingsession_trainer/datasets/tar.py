"""What tarfile leaves open: headers of any size are read whole, and an archive that is cut off just ends."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from typing import IO

MOST_HEADER = 1 << 20
"""Bytes of one extended header; long names and attributes of a file need a few thousand."""
_EXTENDED = frozenset({
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
})  # fmt: skip


class TarStream:
    """The archive as tarfile reads it.

    Reading stops at the block of zeros that ends every archive, so whoever comes to the end of the file finds it cut
    off. tarfile would take that for the end of the archive, or go on skipping what is not there.
    """

    def __init__(self, file: IO[bytes], each: Callable[[], None]) -> None:
        self._file = file
        self._each = each

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes, at least one; calls `each` first and raises EOFError at the end."""
        self._each()
        content = self._file.read(size)
        if not content:
            raise EOFError("it ends before its end mark")
        return content


class TarHeader(tarfile.TarInfo):
    """A header that is refused when it is damaged, or larger than any honest one."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> TarHeader:
        """Read one block; tarfile itself takes a damaged one behind the first for the end of the archive."""
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if any(buf):
                raise tarfile.ReadError(f"{error} of a member") from error
            raise

    def _proc_member(self, archive: tarfile.TarFile) -> TarHeader:
        # tarfile reads these into memory; how long they are is up to who packed the archive.
        if self.type in _EXTENDED and self.size > MOST_HEADER:
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        return super()._proc_member(archive)  # type: ignore[misc,no-any-return]

    def _proc_gnusparse_10(self, *_: object) -> None:
        # A map of any length in front of the content.
        raise tarfile.ReadError(f"{self.name} is a sparse file")
