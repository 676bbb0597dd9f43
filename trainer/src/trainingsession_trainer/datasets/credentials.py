"""What lets the trainer read files that are not public: keys of the Secret that the spec names, never environment.

s3://           accessKeyId, secretAccessKey, and where needed sessionToken, region, endpoint
gs://           serviceAccount.json, and where needed endpoint
https://, http  bearerToken, or username and password
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path

from trainingsession_trainer.errors import DataError

FOLDERS = {
    "spec.dataset": Path("/etc/trainingsession/dataset-secret"),
    "spec.baseModel.weightsFrom": Path("/etc/trainingsession/weights-secret"),
}
"""Where the Secret of a field is mounted."""
KEYS = (
    "accessKeyId", "secretAccessKey", "sessionToken", "region", "endpoint", "serviceAccount.json", "bearerToken",
    "username", "password",
)  # fmt: skip
_MOST_BYTES = 64 << 10
_NEEDED = {
    "s3": (("accessKeyId", "secretAccessKey"), ("endpoint",)),
    "gs": (("serviceAccount.json",), ("endpoint",)),
    "https": (("bearerToken",), ("username", "password")),
    "http": (("bearerToken",), ("username", "password")),
}
"""Keys of which one group must be there, by scheme."""

Credentials = Mapping[str, str]
NONE: Credentials = {}


def read_credentials(name: str, uri: str, field: str, folder: Path | None = None) -> Credentials:
    """Read the keys of the Secret that `field` calls `name`; raises DataError where those of `uri` miss."""
    folder = folder or FOLDERS[field]
    found = {}
    for key in KEYS:
        file = folder / key
        try:
            if file.is_file() and file.stat().st_size <= _MOST_BYTES:
                found[key] = file.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"Key {key} of Secret {name} cannot be read ({error}); write it again as text.") from error
    scheme = uri.split(":", 1)[0]
    groups = _NEEDED[scheme]
    if not any(all(found.get(key) for key in group) for group in groups):
        wanted = ", or ".join(" and ".join(group) for group in groups)
        raise DataError(
            f"{field}.secretName is {name}, and this namespace has no such Secret or it has not the keys that an "
            f"address with {scheme}:// needs: {wanted}; create it and the session anew."
        )
    return found


def authorization(credentials: Credentials) -> str | None:
    """Give the header Authorization of a request over http; None without credentials for it."""
    if credentials.get("bearerToken"):
        return f"Bearer {credentials['bearerToken']}"
    if credentials.get("username"):
        pair = f"{credentials['username']}:{credentials.get('password', '')}"
        return "Basic " + base64.b64encode(pair.encode()).decode("ascii")
    return None
