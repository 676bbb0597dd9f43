"""Where files are put: a folder on a volume, or a bucket that speaks S3."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Protocol, cast

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from .errors import OperatorError, StartError

PART_ENDING = ".part"
"""Of a file in a folder that is being written."""
READ_BYTES = 1 << 20
UPLOAD_BYTES = 64 << 20
"""A piece of an upload. S3 takes 10,000 of them, so 625 GiB; two are in memory."""
SECRET_KEYS = {"accessKeyId": "access_key_id", "secretAccessKey": "secret_access_key", "sessionToken": "session_token"}
"""Keys of the Secret, as those of sessions' data sets, and what the client calls them."""


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


class Bucket:
    """A bucket, or what is below a prefix in it."""

    def __init__(self, url: str, *, endpoint: str = "", region: str = "", secret: Path | None = None) -> None:
        found = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]+)(?:/(.*?))?/?", url)
        if found is None:
            raise StartError(f'the bucket is "{url}"; write s3://NAME or s3://NAME/FOLDER')
        self._url = url
        keys = {
            option: (secret / key).read_text(encoding="utf-8").strip()
            for key, option in SECRET_KEYS.items()
            if secret is not None and (secret / key).is_file()
        }
        if secret is not None and not {"access_key_id", "secret_access_key"} <= keys.keys():
            raise StartError("the Secret of the bucket lacks accessKeyId or secretAccessKey")
        options: dict[str, Any] = {**keys, **({"region": region} if region else {})}
        if endpoint:
            # Servers of one's own are seldom found below the bucket's name.
            options |= {"endpoint": endpoint, "virtual_hosted_style_request": False}
        plain = endpoint.startswith("http://")
        self._store = S3Store(found[1], prefix=found[2] or None, client_options={"allow_http": plain}, **options)

    def names(self) -> list[str]:
        """Names of all files."""
        with self._translated("be listed"):
            return [str(one["path"]) for page in obstore.list(self._store) for one in page if "/" not in one["path"]]

    @contextlib.contextmanager
    def write(self, name: str) -> Iterator[IO[bytes]]:
        """A stream; the file has its name only when the block ended well."""
        with self._translated(f"take {name}"):
            writer = obstore.open_writer(self._store, name, buffer_size=UPLOAD_BYTES, max_concurrency=2)
            yield cast("IO[bytes]", writer)
            # Not after an error: what is not closed is no object.
            writer.close()

    def read(self, name: str) -> IO[bytes]:
        """A file that can be read at any position."""
        with self._translated(f"give {name}"):
            reader = obstore.open_reader(self._store, name, buffer_size=READ_BYTES)
        return cast("IO[bytes]", io.BufferedReader(_Seekable(reader, self._translated), READ_BYTES))

    def delete(self, name: str) -> None:
        """Delete a file that may be gone already."""
        with self._translated(f"delete {name}"), contextlib.suppress(FileNotFoundError):
            obstore.delete(self._store, name)

    @contextlib.contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError) as error:
            words = str(error).split(" - ", 1)[-1].splitlines()[0][:300]
            code = re.search(r"<Code>(\w+)</Code>", str(error))
            raise PlaceError(
                f"{self._url} cannot {what}: {code[1] if code else words}; check backup.s3, and the rights to list, "
                "get, put and delete there"
            ) from error


class _Seekable(io.RawIOBase):
    """An object as Python's own files are."""

    def __init__(self, reader: Any, translated: Callable[[str], contextlib.AbstractContextManager[None]]) -> None:
        self._reader = reader
        self._translated = translated

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._reader.seek(offset, whence))

    def tell(self) -> int:
        return int(self._reader.tell())

    def readinto(self, buffer: Any) -> int:
        with self._translated("be read"):
            found = bytes(self._reader.read(len(buffer)))
        buffer[: len(found)] = found
        return len(found)


def _remedy(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "enlarge the volume, or set backup.keep lower"
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return "the volume must let group 65532 write"
    return "look at the volume"
