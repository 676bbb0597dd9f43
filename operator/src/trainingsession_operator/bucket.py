"""A bucket that speaks S3 as a place for files."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Callable, Iterator
from html import escape, unescape
from pathlib import Path
from typing import IO, Any, cast

from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse

from .errors import StartError
from .places import READ_BYTES, PlaceError
from .s3 import S3, Credentials, S3Error, role_credentials

UPLOAD_BYTES = 64 << 20
"""A piece of an upload. S3 takes 10,000 of them, so 625 GiB."""


class Bucket:
    """A bucket, or what is below a prefix in it."""

    def __init__(
        self, url: str, *, endpoint: str = "", region: str = "", secret: Path | None = None, authorities: str = ""
    ) -> None:
        found = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]+)(?:/(.*?))?/?", url)
        if found is None:
            raise StartError(f'the bucket is "{url}"; write s3://NAME or s3://NAME/FOLDER')
        self._url = url
        self._prefix = f"{found[2]}/" if found[2] else ""
        with self._translated("be used"):
            credentials = role_credentials(authorities=authorities) if secret is None else _secret_credentials(secret)
            region = region or os.environ.get("AWS_REGION") or "us-east-1"
            self._s3 = S3(found[1], endpoint, region, credentials, authorities)

    def names(self) -> list[str]:
        """Names of all files."""
        with self._translated("be listed"):
            return [key.removeprefix(self._prefix) for key in self._s3.keys(self._prefix)]

    @contextlib.contextmanager
    def write(self, name: str) -> Iterator[IO[bytes]]:
        """A stream; the file has its name only when the block ended well."""
        with self._translated(f"take {name}"):
            upload = _Upload(self._s3, f"{self._prefix}{name}")
            try:
                yield cast("IO[bytes]", upload)
                upload.complete()
            except BaseException:
                upload.abort()
                raise

    def read(self, name: str) -> IO[bytes]:
        """A file that can be read at any position."""
        with self._translated(f"give {name}"):
            reader = _Seekable(self._s3, f"{self._prefix}{name}", self._translated)
        return cast("IO[bytes]", io.BufferedReader(reader, READ_BYTES))

    def delete(self, name: str) -> None:
        """Delete a file that may be gone already."""
        with self._translated(f"delete {name}"):
            self._s3.ask("DELETE", f"{self._prefix}{name}")

    @contextlib.contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except S3Error as error:
            remedy = "check backup.s3, and the rights to list, get, put and delete there"
            raise PlaceError(f"{self._url} cannot {what}: {error}; {remedy}") from error


class _Upload:
    """An object that is written in pieces, and is there when all of them are."""

    def __init__(self, s3: S3, key: str) -> None:
        self._s3, self._key = s3, key
        self._piece = bytearray()
        self._id = ""
        self._tags: list[str] = []

    def write(self, data: bytes) -> int:
        self._piece += data
        while len(self._piece) >= UPLOAD_BYTES:
            self._send(bytes(self._piece[:UPLOAD_BYTES]))
            del self._piece[:UPLOAD_BYTES]
        return len(data)

    def complete(self) -> None:
        if not self._id:
            self._s3.ask("PUT", self._key, body=bytes(self._piece))
            return
        if self._piece:
            self._send(bytes(self._piece))
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(tag)}</ETag></Part>"
            for number, tag in enumerate(self._tags, 1)
        )
        body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
        self._s3.ask("POST", self._key, {"uploadId": self._id}, body)

    def abort(self) -> None:
        if self._id:
            # What stays costs money until the bucket's own rule removes it.
            with contextlib.suppress(S3Error):
                self._s3.ask("DELETE", self._key, {"uploadId": self._id})

    def _send(self, piece: bytes) -> None:
        if not self._id:
            text = self._s3.ask("POST", self._key, {"uploads": ""}).data.decode()
            found = re.search(r"<UploadId>([^<]+)</UploadId>", text)
            if found is None:
                raise S3Error("it began no upload")
            self._id = unescape(found[1])
        query = {"partNumber": str(len(self._tags) + 1), "uploadId": self._id}
        self._tags.append(self._s3.ask("PUT", self._key, query, piece).headers["etag"])


class _Seekable(io.RawIOBase):
    """An object as Python's own files are: read on from wherever it was sought to."""

    def __init__(self, s3: S3, key: str, translated: Callable[[str], contextlib.AbstractContextManager[None]]) -> None:
        self._s3, self._key, self._translated = s3, key, translated
        self._size = int(s3.ask("HEAD", key).headers["content-length"])
        self._at = 0
        self._answer: BaseHTTPResponse | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        wanted = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if wanted != self._at:
            self._drop()
        self._at = wanted
        return wanted

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        if self._at >= self._size:
            return 0
        with self._translated("be read"):
            found = self._read(len(buffer))
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)

    def close(self) -> None:
        self._drop()
        super().close()

    def _read(self, most: int) -> bytes:
        for last in (False, False, True):
            try:
                if self._answer is None:
                    self._answer = self._s3.ask("GET", self._key, first=self._at)
                found = self._answer.read(most)
                if found:
                    return found
            except HTTPError as error:
                if last:
                    raise S3Error(str(error)) from error
            # The connection was cut: go on from here with another one.
            self._drop()
        raise S3Error("it ends too early")

    def _drop(self) -> None:
        if self._answer is not None:
            self._answer.close()
        self._answer = None


def _secret_credentials(folder: Path) -> Callable[[], Credentials]:
    values = {
        key: (folder / key).read_text(encoding="utf-8").strip() if (folder / key).is_file() else ""
        for key in ("accessKeyId", "secretAccessKey", "sessionToken")
    }
    if not values["accessKeyId"] or not values["secretAccessKey"]:
        raise StartError("the Secret of the bucket lacks accessKeyId or secretAccessKey")
    credentials = Credentials(values["accessKeyId"], values["secretAccessKey"], values["sessionToken"])
    return lambda: credentials
