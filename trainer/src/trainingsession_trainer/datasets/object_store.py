"""Objects of S3 and Google Cloud Storage, and of what speaks like them, through fsspec."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, cast

from trainingsession_trainer.errors import DataError, TrainerError

from .credentials import Credentials

BLOCK = 8 << 20
"""Bytes asked for at once; few enough that a session which is to stop waits for one of them only."""
_OF_ITS_OWN = {"skip_instance_cache": True, "use_listings_cache": False}
"""A shared instance would keep the credentials and listings of before."""
_AWS_IDENTITY = ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI")
"""EKS sets one of them in the pods of a service account that has a role."""
SERVICE_ACCOUNT = "TRAININGSESSION_SERVICE_ACCOUNT"
"""The operator sets it where the session names an account; GKE sets nothing."""
_FINAL = ("NoCredentials", "PartialCredentials", "DefaultCredentials", "RefreshError", "ParamValidation", "Forbidden")


def is_object(uri: str) -> bool:
    """Whether an address names an object."""
    return uri.startswith(("s3://", "gs://"))


@contextmanager
def open_object(uri: str, credentials: Credentials, silence: float) -> Iterator[tuple[IO[bytes], int]]:
    """Open an object to read it from its beginning to its end, and give its size.

    Without credentials and without a service account that has a role only what is public can be read. `silence` is in
    seconds. Raises PermissionError or FileNotFoundError where trying again would not help, DataError for unreadable
    credentials, else OSError.
    """
    scheme, path = uri.split("://", 1)
    try:
        system = _s3(credentials, silence) if scheme == "s3" else _gs(credentials, silence)
        with system.open(path, "rb", block_size=BLOCK, cache_type="readahead") as content:
            yield cast("IO[bytes]", content), int(content.size)
    except (OSError, TrainerError):
        raise
    except Exception as error:
        # botocore, google.auth, gcsfs and aiohttp each have exceptions of their own.
        words = " ".join(str(error).split()) or type(error).__name__
        kind = PermissionError if any(word in type(error).__name__ for word in _FINAL) else ConnectionError
        if getattr(error, "code", None) in (400, 401, 403, 404):
            kind = PermissionError
        raise kind(words) from error


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
                "Key serviceAccount.json of spec.dataset.secretName is not JSON; write the key file again."
            ) from error
    elif os.environ.get(SERVICE_ACCOUNT):
        import google.auth.compute_engine

        token = google.auth.compute_engine.Credentials()  # type: ignore[no-untyped-call]
    # Unlike other clients, aiohttp takes a proxy from the environment only when it is told to.
    way = {"session_kwargs": {"trust_env": True}, "timeout": silence}
    return GCSFileSystem(token=token, endpoint_url=credentials.get("endpoint"), **way, **_OF_ITS_OWN)
