"""How MongoDB is reached: addresses, the client, and its errors in the operator's words."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote_plus, unquote_plus, urlsplit

from bson.errors import BSONError
from pymongo import MongoClient
from pymongo.errors import PyMongoError
from pymongo.server_type import SERVER_TYPE
from pymongo.uri_parser import parse_uri

from .errors import StartError, StorageUnavailableError, driver_words

SELECTION_MS = 5_000
SOCKET_MS = 20_000

Document = dict[str, Any]

STATES = {
    SERVER_TYPE.RSPrimary: "primary",
    SERVER_TYPE.RSSecondary: "secondary",
    SERVER_TYPE.RSArbiter: "arbiter",
    SERVER_TYPE.Unknown: "unreachable",
}
"""What the driver calls a member → what the metric calls it; everything else is other (starting, rolling back)."""


def connect(uri: str) -> MongoClient[Document]:
    """Give a client of the administrator; it does not wait for MongoDB. Raises StartError for a useless address."""
    try:
        return MongoClient(
            uri,
            serverSelectionTimeoutMS=SELECTION_MS,
            connectTimeoutMS=SELECTION_MS,
            socketTimeoutMS=SOCKET_MS,
            # Whatever the administrator's URI says: a stale record would end a session without its result.
            readPreference="primary",
            readConcernLevel="majority",
            w="majority",
            # What a namespace writes into its own database must not be more than the driver can read.
            datetime_conversion="DATETIME_AUTO",
            unicode_decode_error_handler="replace",
            appname="trainingsession-operator",
        )
    except (PyMongoError, ValueError) as error:
        # Without the driver's words, which may quote the address and so the password.
        raise StartError(
            f"the MongoDB URI cannot be used ({type(error).__name__}); check its form and hosts"
        ) from error


def member_states(client: MongoClient[Document]) -> dict[str, int]:
    """How many members of the replica set are in each of STATES, as the driver's monitor last saw them; asks nobody."""
    seen = Counter(
        STATES.get(one.server_type, "other") for one in client.topology_description.server_descriptions().values()
    )
    return {state: seen[state] for state in ("primary", "secondary", "arbiter", "other", "unreachable")}


def primary_process(client: MongoClient[Document]) -> object:
    """What tells the primary's process from one before, as the driver's monitor last saw it; None without a primary."""
    seen = client.topology_description.server_descriptions().values()
    return next(((one.topology_version or {}).get("processId") for one in seen if one.is_writable), None)


def disk_of(client: MongoClient[Document]) -> tuple[int, int] | None:
    """Used and all bytes of the file system under the primary's data; None where the server does not tell.

    Servers that are shared with others (Atlas' small ones) leave it out or refuse the question.
    """
    try:
        told = client.admin.command("dbStats")
        return int(told["fsUsedSize"]), int(told["fsTotalSize"])
    except (PyMongoError, KeyError, TypeError, ValueError):
        return None


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Raise the driver's errors as StorageUnavailableError; `what` completes "MongoDB could not …"."""
    try:
        yield
    except (PyMongoError, BSONError) as error:
        raise StorageUnavailableError(f"MongoDB could not {what}: {driver_words(error)}") from error


def server_uri(hosts: str, replica_set: str, username: str, password: str) -> str:
    """Give the administrator's URI of the chart's own MongoDB."""
    credentials = f"{quote_plus(username)}:{quote_plus(password)}"
    return f"mongodb://{credentials}@{hosts}/?replicaSet={replica_set}&authSource=admin"


def with_authorities(uri: str, ca_file: str) -> str:
    """Give the URI with TLS and this file of authorities, where one is given and the URI does not name its own."""
    if not ca_file or "tlscafile=" in uri.lower():
        return uri
    parts = urlsplit(uri)
    is_asked = any(option.lower().startswith(("tls=", "ssl=")) for option in parts.query.split("&"))
    options = [parts.query, "" if is_asked else "tls=true", f"tlsCAFile={quote_plus(ca_file)}"]
    return parts._replace(path=parts.path or "/", query="&".join(filter(None, options))).geturl()


def check_uri(uri: str) -> str:
    """Say in one sentence what is wrong with an administrator's URI; empty when nothing is. Never shows the URI."""
    try:
        # Of an SRV address only the form is looked at here: its hosts stand in the DNS.
        named = bool(urlsplit(uri).hostname) if uri.startswith("mongodb+srv://") else bool(parse_uri(uri)["nodelist"])
    except (PyMongoError, ValueError):
        named = False
    example = "mongodb://user:password@host:27017/?replicaSet=name&authSource=admin"
    return "" if named else f"The MongoDB URI is not valid; use one such as {example}."


def seeds_of(uri: str) -> list[str]:
    """Hosts of a URI as host:port; none of an SRV address, whose hosts stand in the DNS."""
    if uri.startswith("mongodb+srv://"):
        return []
    hosts = urlsplit(uri).netloc.rpartition("@")[2].split(",")
    return [host if re.search(r":\d+$", host) else f"{host}:27017" for host in hosts]


def with_host(uri: str, host: str) -> str:
    """Give the URI of one host alone, with the options of the way there; without credentials and replica set."""
    parts = urlsplit(uri)
    named = ("replicaset=", "authsource=", "authmechanism", "directconnection=", "loadbalanced=")
    options = [option for option in parts.query.split("&") if option and not option.lower().startswith(named)]
    return f"mongodb://{host}/?{'&'.join(options)}"


def tenant_uri(server: str, database: str, user: str, password: str) -> str:
    """Give the URI of a namespace's own user, for the same hosts and options as the administrator's."""
    parts = urlsplit(server)
    hosts = parts.netloc.rpartition("@")[2]
    options = [o for o in parts.query.split("&") if o and not o.lower().startswith(("authsource=", "authmechanism"))]
    options.append(f"authSource={database}")
    credentials = f"{quote_plus(user)}:{quote_plus(password)}"
    return f"{parts.scheme}://{credentials}@{hosts}/{database}?{'&'.join(options)}"


def shared_uri(server: str, database: str) -> str:
    """Give the administrator's URI with a namespace's database as its default."""
    parts = urlsplit(server)
    source = "" if "authSource=" in parts.query else "authSource=admin"
    return parts._replace(path=f"/{database}", query="&".join(filter(None, (parts.query, source)))).geturl()


def credentials_in(uri: str, database: str) -> tuple[str, str]:
    """User and password of the namespace in `uri`; both empty where the URI is not one that the operator writes.

    The first user is called like the database, and after a rotation DATABASE.8-HEXADECIMAL-DIGITS.
    """
    try:
        parts = urlsplit(uri)
        user, password = unquote_plus(parts.username or ""), unquote_plus(parts.password or "")
    except ValueError:
        return "", ""
    ours = re.fullmatch(rf"{re.escape(database)}(\.[0-9a-f]{{8}})?", user)
    return (user, password) if ours and password else ("", "")
