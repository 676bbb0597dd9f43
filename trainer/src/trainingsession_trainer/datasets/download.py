"""A download: in chunks, never onto the last of the disk, and again when the network hiccups."""

from __future__ import annotations

import hashlib
import math
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPMessage, IncompleteRead, InvalidURL
from pathlib import Path
from typing import IO, TypeVar
from urllib.error import ContentTooShortError, HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from trainingsession_trainer.errors import DataError, SpecError
from trainingsession_trainer.reporting import Reporter
from trainingsession_trainer.structure import clip, shown

from . import credentials as given
from . import object_store
from .credentials import Credentials
from .files import CHUNK, Disk, Stop, check_stop, free_bytes, is_full

NETWORK_SECONDS = 30
"""Silence after which a server counts as gone; half of the time that a pod has to end after it was asked to."""
RETRY_SECONDS = 120
"""Time after the first failure in which the download is tried again."""
LONGEST_PAUSE = 30.0
REPORT_SECONDS = 10.0
# What an address may hold as it is; "%" because the user's own escapes stay.
_SAFE = "%/:?#[]@!$&'()*+,;=~"
_DOING = "a file was downloaded"

T = TypeVar("T")


def download(
    uri: str,
    field: str,
    target: Path,
    reporter: Reporter,
    stop: Stop,
    disk: Disk | None = None,
    credentials: Credentials = given.NONE,
    *,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> str:
    """Download into `target` and return the SHA-256; raises SpecError, DataError, Stopped.

    The spec is immutable, so a failure that passes by itself is not yet the session's: it is tried again for a while.
    """
    reporter.info(f"Downloading {uri}")
    disk = disk or Disk(target.parent)

    def attempt() -> str:
        return _attempt(uri, field, target, reporter, stop, disk, credentials)

    return again(attempt, uri, field, reporter, stop, disk, clock=clock, pause=pause)


def again(
    attempt: Callable[[], T],
    uri: str,
    field: str,
    reporter: Reporter,
    stop: Stop,
    disk: Disk,
    *,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> T:
    """Try until it works, for two minutes after the first failure; raises SpecError, DataError, Stopped."""
    try:
        return persist(attempt, may_pass, cause, reporter, stop, clock=clock, pause=pause)
    except (ValueError, OverflowError, InvalidURL) as error:
        raise SpecError(
            f"{field}.uri is {shown(uri)}, which is no address that can be opened ({clip(str(error))}); correct it."
        ) from error
    except (OSError, HTTPException) as error:
        if is_full(error):
            raise DataError(f"{field}.uri {uri} does not fit on the disk; {disk.remedy}.") from error
        raise DataError(
            f"{field}.uri {uri} cannot be downloaded ({cause(error)}); {_remedy(uri, field, error)}."
        ) from error


def persist(
    attempt: Callable[[], T],
    passes: Callable[[Exception], bool],
    words: Callable[[Exception], str],
    reporter: Reporter,
    stop: Stop,
    *,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> T:
    """Try until it works or two minutes have gone since the first failure; a failure that does not pass ends it.

    `words` says a failure in the log. Raises what `attempt` raised last, and Stopped.
    """
    seconds, deadline = 1.0, math.inf
    while True:
        try:
            return attempt()
        except Exception as error:
            deadline = min(deadline, clock() + RETRY_SECONDS)
            if not passes(error) or clock() + seconds > deadline:
                raise
            reporter.info(f"The download failed ({words(error)}); trying again in {seconds:.0f} s")
        _wait(seconds, stop, pause)
        seconds = min(2 * seconds, LONGEST_PAUSE)


class _WebRedirects(HTTPRedirectHandler):
    """Follows redirects to http and https alone; the standard one also follows them to ftp."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        if urlsplit(newurl).scheme not in ("http", "https"):
            raise HTTPError(newurl, code, f"a redirect to {clip(newurl)} is not allowed", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextmanager
def _opened(uri: str, credentials: Credentials) -> Iterator[tuple[Callable[[int], bytes], int | None]]:
    """Open an address; gives what reads from it, and how many bytes there are where that is known."""
    if object_store.is_object(uri):
        with object_store.open_object(uri, credentials, NETWORK_SECONDS) as (content, size):
            yield content.read, size
        return
    request = Request(_quoted(uri))  # noqa: S310 - the spec's pattern leaves http and https
    authorization = given.authorization(credentials)
    if authorization is not None:
        # Not sent along with a redirect, which may lead to somebody else.
        request.add_unredirected_header("Authorization", authorization)
    with build_opener(_WebRedirects).open(request, timeout=NETWORK_SECONDS) as answer:
        # Takes what has come, so that a slow server does not keep the session from stopping.
        yield answer.read1, answer.length


def _attempt(
    uri: str, field: str, target: Path, reporter: Reporter, stop: Stop, disk: Disk, credentials: Credentials
) -> str:
    check_stop(stop, _DOING)
    with _opened(uri, credentials) as (read, size), target.open("wb") as file:
        room = disk.room()
        check_room(size or 0, room, uri, field, disk)
        digest, done, told = hashlib.sha256(), 0, time.monotonic()
        while chunk := read(CHUNK):
            check_stop(stop, _DOING)
            check_room(len(chunk), min(room - done, free_bytes(target.parent)), uri, field, disk)
            digest.update(chunk)
            file.write(chunk)
            done += len(chunk)
            if time.monotonic() - told > REPORT_SECONDS:
                told = time.monotonic()
                reporter.info(f"Downloaded {done / 1e6:,.0f} MB" + (f" of {size / 1e6:,.0f} MB" if size else ""))
    if size is not None and done != size:
        raise ConnectionError(f"it ended after {done:,} of {size:,} bytes")
    return digest.hexdigest()


def _quoted(uri: str) -> str:
    """Write an address as it goes over the network; raises ValueError."""
    # Asked for its check alone: the system would take a port above 65,535 for another one.
    _ = urlsplit(uri).port
    return quote(uri, safe=_SAFE)


def check_room(size: int, room: int, uri: str, field: str, disk: Disk) -> None:
    """Raise DataError where `size` bytes are more than may be written."""
    if size > room:
        raise DataError(
            f"{field}.uri {uri} does not fit on the disk: {size:,} bytes are still to come and {max(0, room):,} may be "
            f"written; {disk.remedy}."
        )


def may_pass(error: BaseException) -> bool:
    """Whether the same download can succeed a little later."""
    if isinstance(error, HTTPError):
        return error.code == 429 or error.code >= 500
    if isinstance(error, ContentTooShortError):
        return True
    reason = error.reason if isinstance(error, URLError) else error
    if isinstance(reason, socket.gaierror):
        return reason.errno != socket.EAI_NONAME
    final = isinstance(reason, ssl.SSLCertVerificationError | PermissionError | FileNotFoundError)
    return isinstance(reason, OSError | IncompleteRead) and not final and not is_full(reason)


def cause(error: BaseException) -> str:
    """Say what a download failed of, as part of a sentence."""
    if isinstance(error, HTTPError):
        error.close()
        return f"HTTP {error.code} {error.reason}"
    if isinstance(error, IncompleteRead):
        return "it ended early"
    reason = error.reason if isinstance(error, URLError) else error
    return clip(str(reason)) or type(reason).__name__


def _remedy(uri: str, field: str, error: Exception) -> str:
    if object_store.is_object(uri):
        if isinstance(error, PermissionError) and ("region" in str(error) or "endpoint" in str(error)):
            return f"set the keys region and endpoint of the Secret in {field}.secretName to those of the bucket"
        if isinstance(error, PermissionError):
            return f"name a Secret in {field}.secretName whose keys may list and read it"
        if isinstance(error, FileNotFoundError):
            return "check the bucket and the object's name; a folder's address ends with /"
    return "check the address and the pod's way out of the cluster"


def _wait(seconds: float, stop: Stop, pause: Callable[[float], None]) -> None:
    """Pause in steps of a second at most, so that a session that is stopped ends in time."""
    while seconds > 0:
        check_stop(stop, _DOING)
        pause(min(1.0, seconds))
        seconds -= 1.0
