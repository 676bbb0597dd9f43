"""Archives of images, unpacked once and safely: nothing is written but image files under names of our own.

tar (also compressed) and zip are told apart by content. Path traversal, links, devices, bombs and truncation end with a
DataError that names the member and the reason.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from trainingsession_trainer.errors import DataError

from .files import CHUNK, Disk, Stop, check_stop, free_bytes, is_full
from .known_files import KnownFiles
from .tar import TarHeader, TarStream

MOST_FILES = 2_000_000
MOST_BYTES = 256 << 20
"""Largest single image file."""
ANY_TOTAL = 1 << 30
MOST_GROWTH = 100
"""An archive may grow to `ANY_TOTAL` bytes, or to this many times its size; images hardly shrink when packed."""
_DOING = "the images were unpacked"
_ADDED = (".", "__MACOSX")
"""What names begin with that systems add on their own."""
_ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_FAILURES = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    IndexError,
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


def most_bytes(archive: Path) -> int:
    """Give how many bytes an archive of this size may hold."""
    return max(ANY_TOTAL, MOST_GROWTH * archive.stat().st_size)


def unpack(archive: Path, folder: Path, suffixes: frozenset[str], stop: Stop, disk: Disk | None = None) -> list[Stored]:
    """Unpack the files with one of `suffixes` into `folder`; raises DataError, Stopped."""
    stored: list[Stored] = []
    names: set[PurePosixPath] = set()
    disk = disk or Disk(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        most, room, total = most_bytes(archive), disk.room(), 0
        for member in _members(archive, suffixes, room, disk.remedy, stop):
            check_stop(stop, _DOING)
            name = _safe(member.name)
            if not is_wanted(name, suffixes):
                continue
            if name in names:
                raise DataError(f"{name} is in the archive twice; pack it once, so that it is clear which one counts.")
            names.add(name)
            if len(stored) >= MOST_FILES:
                raise DataError(f"The archive holds more than {MOST_FILES:,} images; split the data set.")
            total += member.size
            if total > most:
                raise DataError(
                    f"The images up to {name} have {total:,} bytes, more than the {most:,} that an archive of this "
                    "size may hold; pack the images in smaller archives or as JPEG or PNG."
                )
            target = folder / f"{len(stored):08}{name.suffix.lower()}"
            _check_room(member, min(free_bytes(folder), room - total + member.size), disk.remedy)
            stored.append(Stored(name, target, _write(member, target, stop)))
    except _FAILURES as error:
        after = f" after {stored[-1].name}" if stored else ""
        if is_full(error):
            raise DataError(f"The disk is full{after}; {disk.remedy}.") from error
        reason = " ".join(readable(str(error)).split())[:200] or type(error).__name__
        raise DataError(
            f"The archive cannot be unpacked{after} ({reason}); it is damaged, cut off, or neither tar nor zip: "
            "pack it again."
        ) from error
    return stored


def scan(folder: Path, suffixes: frozenset[str], stop: Stop, known: KnownFiles) -> list[Stored]:
    """List the files of a folder that is there already, links left out; reads those that are not known.

    Raises DataError, Stopped.
    """
    stored = []
    for path in sorted(_files(folder)):
        check_stop(stop, "the images were listed")
        name = _place(path, folder)
        if not is_wanted(name, suffixes):
            continue
        try:
            if path.is_file() and not path.is_symlink():
                stored.append(Stored(name, path, known.digest(path, str(name), stop, "the images were listed")))
        except OSError as error:
            raise _closed(name, error) from error
    return stored


def _files(folder: Path) -> Iterator[Path]:
    """Give what is in a folder and those below it; raises DataError for one that cannot be listed."""

    def refuse(error: OSError) -> None:
        raise _closed(_place(Path(error.filename), folder), error) from error

    for parent, folders, files in os.walk(folder, onerror=refuse):
        # What is in these is not wanted, and the pod may not be allowed to read it: claims have a lost+found of root's.
        folders[:] = [name for name in folders if not name.startswith(_ADDED) and name != "lost+found"]
        yield from (Path(parent, name) for name in files)


def _place(path: Path, folder: Path) -> PurePosixPath:
    return PurePosixPath(readable(path.relative_to(folder).as_posix()))


def _closed(name: PurePosixPath, error: OSError) -> DataError:
    title = f"{name}" if name.parts else "The folder of the data set"
    return DataError(f"{title} cannot be read ({error.strerror}); make it readable or remove it.")


def is_wanted(name: PurePosixPath, suffixes: frozenset[str]) -> bool:
    """Whether a member is an image; what systems add on their own is not."""
    return name.suffix.lower() in suffixes and not any(part.startswith(_ADDED) for part in name.parts)


def readable(name: str) -> str:
    r"""Write a name that is not UTF-8 with escapes (\xe4), so that it can be shown and stored, and stays another's."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _members(archive: Path, suffixes: frozenset[str], room: int, remedy: str, stop: Stop) -> Iterator[_Member]:
    """Give the regular files; anything that is neither file nor folder is refused."""
    with archive.open("rb") as file:
        start = file.read(10)
    if start.startswith(_ZIP):
        yield from _zip_members(archive, suffixes, room, remedy)
        return
    with _decompressed(archive, start) as content:
        yield from _tar_members(TarStream(content, lambda: check_stop(stop, _DOING)))


def _decompressed(archive: Path, start: bytes) -> Any:
    """Open a tar in whatever it is packed with; tarfile's own way unpacks a block at once, however large it becomes."""
    if start.startswith(b"\x1f\x8b"):
        return gzip.open(archive)
    if start.startswith(b"\xfd7zXZ"):
        return lzma.open(archive)
    if start.startswith(b"BZh") and start[4:] == b"1AY&SY":
        return bz2.open(archive)
    return archive.open("rb")


def _zip_members(archive: Path, suffixes: frozenset[str], room: int, remedy: str) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as packed:
        # A zip lists its files first: what does not fit is known before the first is written.
        total = sum(info.file_size for info in packed.infolist() if is_wanted(PurePosixPath(info.filename), suffixes))
        if total > room:
            raise DataError(f"The images in the archive have {total:,} bytes, and {room:,} may be written; {remedy}.")
        for info in packed.infolist():
            name = _name(info.filename)
            if (info.external_attr >> 16) & 0o170000 == 0o120000:
                raise DataError(f"{name} in the archive is a link; pack the file itself.")
            # The others are unpacked in one piece, however large it is.
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise DataError(f"{name} in the archive is not packed with deflate, as zip does; pack it with that.")
            if not info.is_dir():
                with packed.open(info) as content:
                    yield _Member(name, info.file_size, content)


def _tar_members(stream: TarStream) -> Iterator[_Member]:
    with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r|", tarinfo=TarHeader) as packed:
        while (item := packed.next()) is not None:
            # tarfile keeps all headers, for members to be found again, and what global headers say.
            packed.members.clear()  # type: ignore[attr-defined]
            packed.pax_headers.clear()  # type: ignore[attr-defined]
            if item.isdir():
                continue
            name = _name(item.name)
            if not item.isreg():
                raise DataError(f"{name} in the archive is a link or a device; pack the file itself.")
            if item.issparse():
                raise DataError(f"{name} in the archive is a sparse file; pack without --sparse.")
            file = packed.extractfile(item)
            if file is not None:
                yield _Member(name, item.size, file)


def _name(name: str) -> str:
    """Write a member's name with the separators that all systems but one use."""
    return readable(name.replace("\\", "/"))


def _safe(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{name} in the archive leads out of the folder it is unpacked to; pack relative names only.")
    return path


def _check_room(member: _Member, room: int, remedy: str) -> None:
    if member.size > room:
        raise DataError(
            f"{member.name} has {member.size:,} bytes and the disk has room for {max(0, room):,}; {remedy}."
        )


def _write(member: _Member, target: Path, stop: Stop) -> bytes:
    """Write one member; returns its SHA-256. Never writes more than the member says it has."""
    if member.size > MOST_BYTES:
        raise DataError(f"{member.name} has {member.size:,} bytes, more than {MOST_BYTES:,}; make the image smaller.")
    digest, left = hashlib.sha256(), member.size
    with target.open("wb") as file:
        while left > 0 and (chunk := member.content.read(min(CHUNK, left))):
            check_stop(stop, _DOING)
            digest.update(chunk)
            file.write(chunk)
            left -= len(chunk)
    if left:
        raise EOFError(f"{member.name} is cut off")
    return digest.digest()
