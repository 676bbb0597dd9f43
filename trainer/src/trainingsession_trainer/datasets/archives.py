"""Archives of images, unpacked once and safely: nothing is written but image files under names of our own.

tar (also compressed) and zip are told apart by content. Path traversal, links, devices, bombs and truncation end with a
DataError that names the member and the reason.
"""

from __future__ import annotations

import hashlib
import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from trainingsession_trainer.errors import DataError

CHUNK = 1 << 20
MOST_FILES = 2_000_000
MOST_BYTES = 256 << 20
"""Largest single image file."""
RESERVE_BYTES = 256 << 20
"""Disk that is left free."""
_FAILURES = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    NotImplementedError,
    RuntimeError,
)


@dataclass(frozen=True)
class Stored:
    """A file of the data set: its place there, where it is now, and the SHA-256 of its bytes."""

    name: PurePosixPath
    path: Path
    digest: bytes


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    content: IO[bytes]


def unpack(archive: Path, folder: Path, suffixes: frozenset[str]) -> list[Stored]:
    """Unpack the files with one of `suffixes` into `folder`; raises DataError."""
    folder.mkdir(parents=True, exist_ok=True)
    stored: list[Stored] = []
    try:
        for member in _members(archive):
            name = _safe(member.name)
            if not is_wanted(name, suffixes):
                continue
            if len(stored) >= MOST_FILES:
                raise DataError(f"The archive holds more than {MOST_FILES:,} images; split the data set.")
            target = folder / f"{len(stored):08}{name.suffix.lower()}"
            stored.append(Stored(name, target, _write(member, target)))
    except _FAILURES as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        after = f" after {stored[-1].name}" if stored else ""
        raise DataError(f"The archive cannot be unpacked{after} ({reason}); it is damaged or cut off.") from error
    return stored


def scan(folder: Path, suffixes: frozenset[str]) -> list[Stored]:
    """List the files of a folder that is there already, links left out; reads each once for its digest."""
    stored = []
    for path in sorted(folder.rglob("*")):
        name = PurePosixPath(path.relative_to(folder).as_posix())
        if is_wanted(name, suffixes) and path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                stored.append(Stored(name, path, hashlib.file_digest(file, "sha256").digest()))
    return stored


def is_wanted(name: PurePosixPath, suffixes: frozenset[str]) -> bool:
    """Whether a member is an image; what systems add on their own is not."""
    return name.suffix.lower() in suffixes and not any(part.startswith((".", "__MACOSX")) for part in name.parts)


def _members(archive: Path) -> Iterator[_Member]:
    """Give the regular files; anything that is neither file nor folder is refused."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            for info in packed.infolist():
                if (info.external_attr >> 16) & 0o170000 == 0o120000:
                    raise DataError(f"{info.filename} in the archive is a link; pack the file itself.")
                if not info.is_dir():
                    with packed.open(info) as content:
                        yield _Member(info.filename, info.file_size, content)
        return
    # As a stream: a compressed archive is read once from front to back.
    with tarfile.open(archive, "r|*") as packed_tar:
        for item in packed_tar:
            if item.isdir():
                continue
            if not item.isreg():
                raise DataError(f"{item.name} in the archive is a link or a device; pack the file itself.")
            file = packed_tar.extractfile(item)
            if file is not None:
                yield _Member(item.name, item.size, file)


def _safe(name: str) -> PurePosixPath:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{name} in the archive leads out of the folder it is unpacked to; pack relative names only.")
    return path


def _write(member: _Member, target: Path) -> bytes:
    """Write one member; returns its SHA-256. Never writes more than the member says it has."""
    if member.size > MOST_BYTES:
        raise DataError(f"{member.name} has {member.size:,} bytes, more than {MOST_BYTES:,}; make the image smaller.")
    free = shutil.disk_usage(target.parent).free - RESERVE_BYTES
    if member.size > free:
        raise DataError(f"{member.name} does not fit on the disk, which has {free:,} bytes left; use a larger node.")
    digest, left = hashlib.sha256(), member.size
    with target.open("wb") as file:
        while left > 0 and (chunk := member.content.read(min(CHUNK, left))):
            digest.update(chunk)
            file.write(chunk)
            left -= len(chunk)
    if left:
        raise EOFError(f"{member.name} is cut off")
    return digest.digest()
