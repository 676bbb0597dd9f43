"""The part of Amazon's S3 that backups need, over HTTP: four requests, signed as Amazon's "Signature Version 4" says.

Amazon's own client is larger than the whole operator, and this is all of it that is used.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse

TIMEOUT = urllib3.Timeout(connect=10, read=60)
TRIES = urllib3.Retry(
    total=5, backoff_factor=1, status_forcelist=(429, 500, 502, 503, 504), allowed_methods=None, redirect=False,
    raise_on_status=False,
)  # fmt: skip
PAGE = 1_000
"""Keys that are asked for at once; more are not answered."""
RENEW = timedelta(minutes=10)
"""Credentials of a role are renewed so long before their end."""


class S3Error(Exception):
    """The server refused, or was not reached; the message is its code or the reason."""


@dataclass(frozen=True)
class Credentials:
    """What requests are signed with."""

    key_id: str
    secret: str = field(repr=False)
    token: str = field(default="", repr=False)
    until: datetime | None = None
    """When they end; None where they do not."""


def signed(
    method: str, url: str, headers: Mapping[str, str], payload_sha256: str, credentials: Credentials, region: str,
    now: datetime,
) -> dict[str, str]:  # fmt: skip
    """Give the headers with the signature, for a URL whose path is quoted and whose query is sorted."""
    parts, moment = urlsplit(url), now.strftime("%Y%m%dT%H%M%SZ")
    found = {**headers, "host": parts.netloc, "x-amz-content-sha256": payload_sha256, "x-amz-date": moment}
    if credentials.token:
        found["x-amz-security-token"] = credentials.token
    names = ";".join(sorted(found))
    lines = [f"{name}:{found[name]}" for name in sorted(found)]
    canonical = "\n".join([method, parts.path, parts.query, *lines, "", names, payload_sha256])
    scope = f"{moment[:8]}/{region}/s3/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", moment, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{credentials.secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.new(key, text.encode(), "sha256").hexdigest()
    authorization = (
        f"AWS4-HMAC-SHA256 Credential={credentials.key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return {**found, "authorization": authorization}


def connections(address: str, authorities: str = "") -> urllib3.PoolManager:
    """Give what requests to an address are sent by: through the environment's proxy where there is one for it.

    The file `authorities` is trusted beside the image's own.
    """
    try:
        context = ssl.create_default_context()
        if authorities:
            context.load_verify_locations(authorities)
    except OSError as error:
        raise S3Error(f"the authorities in {authorities} cannot be used: {error}") from error
    parts = urlsplit(address)
    proxy = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
    if proxy:
        return urllib3.ProxyManager(proxy, timeout=TIMEOUT, retries=TRIES, ssl_context=context)
    return urllib3.PoolManager(timeout=TIMEOUT, retries=TRIES, ssl_context=context)


class S3:
    """One bucket. Every method raises S3Error."""

    def __init__(
        self, bucket: str, endpoint: str, region: str, credentials: Callable[[], Credentials], authorities: str = ""
    ) -> None:
        self._region = region
        self._credentials = credentials
        if endpoint or "." in bucket:
            # Servers of one's own are seldom found below the bucket's name, and no certificate covers a name with dots.
            self._base = f"{(endpoint or f'https://s3.{region}.amazonaws.com').rstrip('/')}/{bucket}"
        else:
            self._base = f"https://{bucket}.s3.{region}.amazonaws.com"
        self._pool = connections(self._base, authorities)

    def ask(
        self, method: str, key: str = "", query: Mapping[str, str] | None = None, body: bytes = b"", *,
        first: int | None = None,
    ) -> BaseHTTPResponse:  # fmt: skip
        """Give the answer, of which the body is still to be read where it is to begin at the byte `first`."""
        path = f"/{quote(key, safe='/-_.~')}"
        # Sorted and quoted as the signature wants it.
        asked = urlencode(sorted((query or {}).items()), quote_via=quote, safe="-_.~")
        url = f"{self._base}{path}{f'?{asked}' if asked else ''}"
        headers = {} if first is None else {"range": f"bytes={first}-"}
        found = signed(
            method, url, headers, hashlib.sha256(body).hexdigest(), self._credentials(), self._region, datetime.now(UTC)
        )
        try:
            answer = self._pool.request(method, url, body=body or None, headers=found, preload_content=first is None)
        except HTTPError as error:
            raise S3Error(_reason(error)) from error
        text = answer.data[:2_000].decode("utf-8", "replace") if first is None or answer.status >= 300 else ""
        code = re.search(r"<Code>(\w+)</Code>", text)
        # A completed upload may be answered with 200 and an error after it.
        if answer.status >= 300 or "<Error>" in text:
            raise S3Error(code[1] if code else f"HTTP status {answer.status}")
        return answer

    def keys(self, prefix: str) -> list[str]:
        """Keys that begin with the prefix and have no further "/"."""
        query, found = {"list-type": "2", "prefix": prefix, "delimiter": "/", "max-keys": str(PAGE)}, list[str]()
        while True:
            text = self.ask("GET", query=query).data.decode()
            found += [unescape(key) for key in re.findall(r"<Key>([^<]*)</Key>", text)]
            more = re.search(r"<NextContinuationToken>([^<]*)</NextContinuationToken>", text)
            if more is None:
                return found
            query["continuation-token"] = unescape(more[1])


def role_credentials(environment: Mapping[str, str] = os.environ, authorities: str = "") -> Callable[[], Credentials]:
    """Give the credentials of the service account's role (IRSA), as EKS tells of it in the environment."""
    try:
        role, file = environment["AWS_ROLE_ARN"], environment["AWS_WEB_IDENTITY_TOKEN_FILE"]
    except KeyError as error:
        raise S3Error("there are no credentials: name a Secret, or give the service account a role (IRSA)") from error
    region = environment.get("AWS_REGION") or "us-east-1"
    address = environment.get("AWS_ENDPOINT_URL_STS") or f"https://sts.{region}.amazonaws.com"
    pool = connections(address, authorities)
    held: list[Credentials] = []

    def current() -> Credentials:
        if held and held[0].until is not None and datetime.now(UTC) < held[0].until - RENEW:
            return held[0]
        try:
            token = Path(file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise S3Error(f"the token of the service account cannot be read: {error.strerror}") from error
        fields = {
            "Action": "AssumeRoleWithWebIdentity", "Version": "2011-06-15", "RoleArn": role,
            "RoleSessionName": "trainingsession-backup", "WebIdentityToken": token,
        }  # fmt: skip
        try:
            answer = pool.request("POST", address, fields=fields, encode_multipart=False)
        except HTTPError as error:
            raise S3Error(f"the role's credentials cannot be had: {_reason(error)}") from error
        text = answer.data.decode("utf-8", "replace")
        got = {name: unescape(value) for name, value in re.findall(r"<(\w+)>([^<]+)</", text)}
        try:
            until = datetime.fromisoformat(got["Expiration"])
            made = Credentials(got["AccessKeyId"], got["SecretAccessKey"], got["SessionToken"], until)
        except (KeyError, ValueError) as error:
            raise S3Error(f"the role's credentials are refused: {got.get('Code', answer.status)}") from error
        held[:] = [made]
        return made

    return current


def _reason(error: HTTPError) -> str:
    return str(getattr(error, "reason", None) or error).rpartition(": ")[2] or type(error).__name__
