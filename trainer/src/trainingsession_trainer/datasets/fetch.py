"""A file by its address: downloaded, or found on a mounted claim, and checked against its SHA-256 on the way."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from trainingsession_trainer.errors import DataError
from trainingsession_trainer.reporting import Reporter
from trainingsession_trainer.spec import FileSource
from trainingsession_trainer.structure import clip

from .credentials import NONE, Credentials, read_credentials
from .download import download
from .files import Disk, Stop, sha256_of

DATASET_MOUNT = Path("/mnt/dataset")


def fetch(
    source: FileSource,
    field: str,
    mount: Path,
    target: Path,
    reporter: Reporter,
    stop: Stop,
    disk: Disk | None = None,
) -> Path:
    """Give the local path of the file, or of a folder on a claim; raises DataError or SpecError naming `field`.

    A file URI with a claim is a path below `mount`; a download goes to `target`: an address is no file name.
    """
    if not source.uri.startswith("file:"):
        target.parent.mkdir(parents=True, exist_ok=True)
        found = download(source.uri, field, target, reporter, stop, disk, credentials_of(source, field))
        _check(source, field, found)
        return target
    try:
        path = _local(source, field, mount)
        if source.sha256:
            if path.is_dir():
                raise DataError(f"{field}.sha256 is set, but {source.uri} is a folder; remove it or name an archive.")
            _check(source, field, sha256_of(path, stop, "a file was checked").hex())
    # ValueError: a NUL in the path; RuntimeError: links in a circle.
    except (OSError, ValueError, RuntimeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or clip(str(error))
        raise DataError(
            f"{field}.uri {source.uri} cannot be read ({reason}); check the path and the claim's content."
        ) from error
    return path


def credentials_of(source: FileSource, field: str) -> Credentials:
    """Read what reading the file needs; raises DataError where that misses."""
    return read_credentials(source.secret_name, source.uri, field) if source.secret_name else NONE


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
    if not (path.is_file() or path.is_dir()):
        raise DataError(f"{field}.uri {where} is neither a file nor a folder; name one of them.")
    return path


def _check(source: FileSource, field: str, found: str) -> None:
    if source.sha256 and source.sha256 != found:
        raise DataError(
            f"{field}.sha256 is {source.sha256}, but {source.uri} has {found}; correct the digest or the address."
        )
