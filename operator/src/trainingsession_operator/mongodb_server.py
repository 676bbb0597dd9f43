"""The Secret of the chart's own MongoDB server: its first user and its keyfile.

The operator makes it once, at its start, so that no password stands in the chart's values and no deployment tool
finds it changed. mongod's pod waits for it. It lives as long as MongoDB's volume: its password is the one the data was
set up with, so what is there is never overwritten.
"""

import base64
import binascii
import secrets
from dataclasses import dataclass, field
from http import HTTPStatus

from kubernetes import client

from .api_calls import REQUEST_TIMEOUT

USERNAME = "trainingsession-operator"
KEYFILE_BYTES = 756
"""Random bytes of the keyfile. mongod takes 6 to 1,024 base64 characters; these make 1,008."""


class ServerSecretError(Exception):
    """The Secret is there, but cannot be what mongod was set up with. Waiting does not mend it."""


@dataclass(frozen=True, slots=True)
class ServerCredentials:
    """MongoDB's administrator, known to the operator alone."""

    username: str
    password: str = field(repr=False)


def ensure_server_secret(api: client.CoreV1Api, namespace: str, name: str) -> ServerCredentials:
    """Give the administrator's credentials from the Secret, which is made first where it is missing.

    Raises ServerSecretError when the Secret lacks a key or holds an unreadable one, and ApiException when the API
    server cannot be asked or refuses.
    """
    present = _read(api, namespace, name)
    if present is None:
        try:
            present = api.create_namespaced_secret(
                namespace, _new_secret(namespace, name), _request_timeout=REQUEST_TIMEOUT
            )
        except client.ApiException as error:
            if error.status != HTTPStatus.CONFLICT:
                raise
            # Another operator was faster; what it wrote is as good.
            present = _read(api, namespace, name)
            if present is None:
                raise
    return _credentials(present, namespace, name)


def _read(api: client.CoreV1Api, namespace: str, name: str) -> client.V1Secret | None:
    try:
        return api.read_namespaced_secret(name, namespace, _request_timeout=REQUEST_TIMEOUT)
    except client.ApiException as error:
        if error.status == HTTPStatus.NOT_FOUND:
            return None
        raise


def _new_secret(namespace: str, name: str) -> client.V1Secret:
    labels = {
        "app.kubernetes.io/managed-by": "trainingsession-operator",
        "app.kubernetes.io/name": "trainingsession",
        "app.kubernetes.io/component": "mongodb",
    }
    note = "Keep this as long as MongoDB's volume: the data opens with this password only."
    return client.V1Secret(
        metadata=client.V1ObjectMeta(
            name=name, namespace=namespace, labels=labels, annotations={"trainingsession.dev/note": note}
        ),
        type="Opaque",
        string_data={
            "username": USERNAME,
            # URL-safe, so that it stands unquoted in a connection string.
            "password": secrets.token_urlsafe(32),
            "keyfile": base64.b64encode(secrets.token_bytes(KEYFILE_BYTES)).decode("ascii"),
        },
    )


def _credentials(secret: client.V1Secret, namespace: str, name: str) -> ServerCredentials:
    values: dict[str, str] = {}
    for key in ("username", "password", "keyfile"):
        try:
            values[key] = base64.b64decode((secret.data or {}).get(key, ""), validate=True).decode("utf-8").strip()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise ServerSecretError(_sentence(namespace, name, f"its key {key} is not text")) from error
        if not values[key]:
            raise ServerSecretError(_sentence(namespace, name, f"its key {key} is missing or empty"))
    return ServerCredentials(username=values["username"], password=values["password"])


def _sentence(namespace: str, name: str, fault: str) -> str:
    return (
        f"Secret {name} in namespace {namespace} cannot be MongoDB's server Secret: {fault}; restore it from a backup, "
        f"or, if MongoDB's volume is still empty, delete the Secret and restart the operator, which makes a new one"
    )
