"""Objects of S3 and Google Cloud Storage, and of what speaks like them, through fsspec."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from trainingsession_trainer.errors import DataError, TrainerError

from .credentials import Credentials

BLOCK = 8 << 20
"""Bytes asked for at once; few enough that a session which is to stop waits for one of them only."""
_OF_ITS_OWN = {"skip_instance_cache": True, "use_listings_cache": False}
"""A shared instance would keep the credentials and listings of before."""
_ONE_REQUEST = {"s3": {"max_concurrency": 1}, "gs": {"concurrency": 1}}
"""Several objects are read at once already."""
_AWS_IDENTITY = ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI")
"""EKS sets one of them in the pods of a service account that has a role."""
SERVICE_ACCOUNT = "TRAININGSESSION_SERVICE_ACCOUNT"
"""The operator sets it where the session names an account; GKE sets nothing."""
_FINAL = ("NoCredentials", "PartialCredentials", "DefaultCredentials", "RefreshError", "ParamValidation", "Forbidden")

_FINAL_ERRNO = (errno.EINVAL, errno.EPERM, errno.ENOSYS, errno.EREMCHG)
"""What s3fs says where S3 refuses a request for what it asks, such as of another region's bucket."""


def is_object(uri: str) -> bool:
    """Whether an address names an object."""
    return uri.startswith(("s3://", "gs://"))


def is_folder(uri: str) -> bool:
    """Whether an address names all objects below a prefix."""
    return is_object(uri) and uri.endswith("/")


@dataclass(frozen=True)
class Listed:
    """An object or a folder as a listing names it, with the bytes that the object has."""

    path: str
    size: int
    is_folder: bool


class Bucket:
    """Objects below an address, for several threads at once. Raises as `open_object` does."""

    def __init__(self, uri: str, credentials: Credentials, silence: float) -> None:
        self._scheme, path = uri.split("://", 1)
        self.root = path.rstrip("/")
        with _translated():
            self._system = _system(self._scheme, credentials, silence)

    def names(self, folder: str) -> list[Listed]:
        """List the objects and folders that lie directly in a folder; empty where there is none."""
        with _translated():
            try:
                found = self._system.ls(folder, detail=True)
            except FileNotFoundError:
                return []
        listed = [Listed(str(one["name"]), int(one["size"] or 0), one["type"] == "directory") for one in found]
        # An object that is called as the folder itself marks it in some tools, and is no part of it.
        marks = (folder, f"{folder}/")
        return [one for one in listed if one.is_folder or one.path not in marks]

    def fetch(self, path: str, target: Path, came: Callable[[int], None]) -> None:
        """Write an object into a file; `came` is told the bytes of each piece, and may raise."""
        from fsspec.callbacks import Callback

        class Pieces(Callback):  # type: ignore[misc] # ships no types
            def relative_update(self, inc: int = 1) -> None:
                came(inc)

        with _translated():
            self._system.get_file(path, str(target), callback=Pieces(), **_ONE_REQUEST[self._scheme])


@contextmanager
def open_object(uri: str, credentials: Credentials, silence: float) -> Iterator[tuple[IO[bytes], int]]:
    """Open an object to read it from its beginning to its end, and give its size.

    Without credentials and without a service account that has a role only what is public can be read. `silence` is in
    seconds. Raises PermissionError or FileNotFoundError where trying again would not help, DataError for unreadable
    credentials, else OSError.
    """
    scheme, path = uri.split("://", 1)
    with (
        _translated(),
        _system(scheme, credentials, silence).open(path, "rb", block_size=BLOCK, cache_type="readahead") as content,
    ):
        yield cast("IO[bytes]", content), int(content.size)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FINAL_ERRNO:
            raise PermissionError(error.strerror) from error
        raise
    except TrainerError:
        raise
    except Exception as error:
        # botocore, google.auth, gcsfs and aiohttp each have exceptions of their own.
        words = " ".join(str(error).split()) or type(error).__name__
        kind = PermissionError if any(word in type(error).__name__ for word in _FINAL) else ConnectionError
        if getattr(error, "code", None) in (400, 401, 403, 404):
            kind = PermissionError
        raise kind(words) from error


def _system(scheme: str, credentials: Credentials, silence: float) -> Any:
    return _s3(credentials, silence) if scheme == "s3" else _gs(credentials, silence)


def _s3(credentials: Credentials, silence: float) -> Any:
    from s3fs import S3FileSystem

    # Never the node's own role: without one of its own, the pod asks for nothing but what is public.
    has_role = any(os.environ.get(name) for name in _AWS_IDENTITY)
    client = {"region_name": credentials.get("region"), "endpoint_url": credentials.get("endpoint")}
    return S3FileSystem(
        anon=not credentials.get("accessKeyId") and not has_role,
        key=credentials.get("accessKeyId"),
        secret=credentials.get("secretAccessKey"),
        token=credentials.get("sessionToken"),
        client_kwargs={name: value for name, value in client.items() if value},
        config_kwargs={"connect_timeout": silence, "read_timeout": silence, "retries": {"max_attempts": 1}},
        **_OF_ITS_OWN,
    )


def _gs(credentials: Credentials, silence: float) -> Any:
    # Not what fsspec has for gs: that one asks over gRPC first which kind of bucket it is, and waits for minutes
    # where only the storage itself can be reached.
    from gcsfs.core import GCSFileSystem

    token: Any = "anon"  # noqa: S105 - the word for none
    if credentials.get("serviceAccount.json"):
        try:
            token = json.loads(credentials["serviceAccount.json"])
        except ValueError as error:
            raise DataError(
                "Key serviceAccount.json of the address's Secret is not JSON; write the key file again."
            ) from error
    elif os.environ.get(SERVICE_ACCOUNT):
        import google.auth.compute_engine

        token = google.auth.compute_engine.Credentials()  # type: ignore[no-untyped-call]
    # Unlike other clients, aiohttp takes a proxy from the environment only when it is told to.
    way = {"session_kwargs": {"trust_env": True}, "timeout": silence}
    return GCSFileSystem(token=token, endpoint_url=credentials.get("endpoint"), **way, **_OF_ITS_OWN)
