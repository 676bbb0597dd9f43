"""A file by its address: downloaded, or found on a mounted claim, and checked against its SHA-256 on the way."""

from __future__ import annotations

import hashlib
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from trainingsession_trainer.config import FileSource
from trainingsession_trainer.errors import DataError
from trainingsession_trainer.reporting import Reporter

DATASET_MOUNT = Path("/mnt/dataset")
WEIGHTS_MOUNT = Path("/mnt/weights")
CHUNK = 1 << 20
NETWORK_SECONDS = 60
REPORT_SECONDS = 10.0


def fetch(source: FileSource, field: str, mount: Path, folder: Path, reporter: Reporter) -> Path:
    """Give the local path of the file, or of a folder on a claim; raises DataError naming `field`.

    A file URI with a claim is a path below `mount`; a download goes into `folder` under the address's last part.
    """
    if source.uri.startswith("file:"):
        path = _local(source, field, mount)
        if path.is_dir():
            if source.sha256:
                raise DataError(f"{field}.sha256 is set, but {source.uri} is a folder; remove it or name an archive.")
            return path
        if source.sha256:
            with path.open("rb") as file:
                _check(source, field, _digest(_chunks(file)))
        return path
    target = folder / (PurePosixPath(unquote(urlsplit(source.uri).path)).name or "download")
    folder.mkdir(parents=True, exist_ok=True)
    _check(source, field, _download(source.uri, field, target, reporter))
    return target


def _local(source: FileSource, field: str, mount: Path) -> Path:
    inside = unquote(urlsplit(source.uri).path)
    if source.claim_name is None:
        path, where = Path(inside), source.uri
    else:
        path, where = mount / inside.lstrip("/"), f"{source.uri} on claim {source.claim_name}"
        # A link on the claim may point anywhere in it, but not out of it.
        if not path.resolve().is_relative_to(mount.resolve()):
            raise DataError(f"{field}.uri {where} leads out of the claim; name a path inside it.")
    if not path.exists():
        raise DataError(f"{field}.uri {where} does not exist; check the path and the claim's content.")
    return path


def _download(uri: str, field: str, target: Path, reporter: Reporter) -> str:
    """Download into `target`; returns the SHA-256."""
    reporter.info(f"Downloading {uri}")
    try:
        with urllib.request.urlopen(uri, timeout=NETWORK_SECONDS) as answer, target.open("wb") as file:  # noqa: S310 - http and https only, checked by the schema
            size = int(answer.headers.get("Content-Length") or 0)
            free = shutil.disk_usage(target.parent).free
            if size > free:
                raise DataError(
                    f"{field}.uri {uri} has {size:,} bytes and the disk has {free:,} left; use a larger node."
                )
            digest, done, told = hashlib.sha256(), 0, time.monotonic()
            for chunk in _chunks(answer):
                digest.update(chunk)
                file.write(chunk)
                done += len(chunk)
                if time.monotonic() - told > REPORT_SECONDS:
                    told = time.monotonic()
                    reporter.info(f"Downloaded {done / 1e6:,.0f} MB" + (f" of {size / 1e6:,.0f} MB" if size else ""))
            if size and done != size:
                raise DataError(
                    f"{field}.uri {uri} ended after {done:,} of {size:,} bytes; try again in a new session."
                )
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
        cause = getattr(error, "reason", None) or error
        raise DataError(
            f"{field}.uri {uri} cannot be downloaded ({cause}); check the address and the pod's way out of the cluster."
        ) from error
    return digest.hexdigest()


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(CHUNK):
        yield chunk


def _digest(chunks: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def _check(source: FileSource, field: str, found: str) -> None:
    if source.sha256 and source.sha256 != found:
        raise DataError(
            f"{field}.sha256 is {source.sha256}, but {source.uri} has {found}; correct the digest or the address."
        )
