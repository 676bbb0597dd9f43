"""Whether the operator can use the MongoDB it was given, and if not, why, in one sentence with the remedy.

The driver tells what it saw of each host; where that is not enough, a host is asked directly, without credentials.
Nothing here shows the URI, which holds the password.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.server_type import SERVER_TYPE

from .errors import driver_words
from .mongodb import Document, seeds_of, with_host

NO_REPLICA_SET = "MongoDB is no replica set; start mongod with --replSet and initiate it."
PROBE_MS = 2_000

# Codes of MongoDB's src/mongo/base/error_codes.yml, and the one of Atlas for a bad user or password.
UNAUTHORIZED = 13
AUTHENTICATION_FAILED, ATLAS = 18, 8000

LOGIN = (
    "it refuses the user or the password; correct them, or authSource, in the Secret of the URI, "
    "or restore the server Secret that MongoDB's volume was set up with"
)
REASONS = (
    (
        r"hostname mismatch|ip address mismatch|not valid for",
        "its certificate is for another name; give the URI a host that the certificate names",
    ),
    (
        r"certificate verify failed",
        "its certificate is not signed by an authority that the operator trusts; give that authority's certificate "
        "(mongodb.external.caKey, or ca.crt in mongodb.tls.secretName)",
    ),
    (
        r"ssl",
        "it does not speak TLS; take tls=true and mongodb.external.caKey away, or switch TLS on there",
    ),
    (
        r"name or service not known|name resolution|no address associated|nodename nor servname",
        "its name cannot be resolved; correct the host in the URI, or the cluster's DNS",
    ),
    (r"refused", "nothing listens there; start MongoDB, or correct host and port in the URI"),
    (
        r"closed|reset",
        "it closes every connection, as a server that asks for TLS does; add tls=true to the URI, and its authority as "
        "mongodb.external.caKey",
    ),
    (r"timed out|timeout", "it does not answer; look for a firewall or a network policy between the operator and it"),
    (r"unreachable|no route", "no network leads there; correct the host in the URI, or the route to it"),
)
"""What the driver says of a host, in lower case → what is wrong with it and what to do. The first that fits."""


def why_unusable(client: MongoClient[Document], uri: str, *, managed_users: bool) -> str:
    """Say in one sentence why MongoDB cannot be used; empty when it can. Asks MongoDB, for seconds where it is away."""
    try:
        if not client.admin.command("hello").get("setName"):
            return NO_REPLICA_SET
        lacks = _missing_right(client, managed_users)
    except PyMongoError as error:
        return f"MongoDB cannot be used: {_reason(client, uri, error)}."
    return f"MongoDB cannot be used: {lacks}." if lacks else ""


def _missing_right(client: MongoClient[Document], managed_users: bool) -> str:
    """Try what the operator needs over all namespaces: a URI without credentials gets this far too."""
    try:
        client.admin.command("listDatabases", nameOnly=True, authorizedDatabases=False, filter={"name": "admin"})
        if managed_users:
            client.admin.command("usersInfo", "nobody")
    except OperationFailure as error:
        if error.code not in (UNAUTHORIZED, ATLAS):
            raise
        rest = " and userAdminAnyDatabase, or set mongodb.users to shared" if managed_users else ""
        return f"the user of the URI may not do what the operator does; give it the role readWriteAnyDatabase{rest}"
    return ""


def _reason(client: MongoClient[Document], uri: str, error: PyMongoError) -> str:
    if isinstance(error, OperationFailure) and error.code in (AUTHENTICATION_FAILED, ATLAS):
        return LOGIN
    seen = client.topology_description.server_descriptions()
    seeds = seeds_of(uri)
    hosts = list(filter(None, (_of_host(f"{host}:{port}", one.error, seeds) for (host, port), one in seen.items())))
    types = {one.server_type for one in seen.values()}
    if SERVER_TYPE.RSSecondary in types:
        why = "".join(f"; {host}" for host in hosts)
        return f"its replica set has no primary, and more than half of the members have to run{why}"
    if hosts:
        return hosts[0]
    if SERVER_TYPE.RSGhost in types:
        return "it was started with --replSet, but its replica set was never initiated; initiate it (rs.initiate())"
    # The driver forgets a host that is not what the URI says.
    asked = (_not_as_named(uri, seed) for seed in seeds if not seen)
    return next(filter(None, asked), driver_words(error).rstrip("."))


def _of_host(address: str, error: Exception | None, seeds: list[str]) -> str:
    """What is wrong with one host, by the driver's words; empty where nothing is, or nothing that is known here."""
    words = str(error or "").lower()
    for pattern, sentence in REASONS:
        if re.search(pattern, words):
            return f"{address}{'' if address in seeds else ' (so named by its replica set)'}: {sentence}"
    return ""


def _not_as_named(uri: str, address: str) -> str:
    """What replica set a host really has, where that is not the one of the URI; empty where it cannot be asked."""
    wanted = re.search(r"replicaset=([^&]*)", urlsplit(uri).query, re.IGNORECASE)
    try:
        with MongoClient[Document](
            with_host(uri, address), directConnection=True, serverSelectionTimeoutMS=PROBE_MS, connectTimeoutMS=PROBE_MS
        ) as client:
            name = client.admin.command("hello").get("setName")
    except (PyMongoError, ValueError):
        return ""
    if not name:
        return f"{address} is no replica set; start mongod with --replSet and initiate it"
    return f"{address} belongs to replica set {name}; write replicaSet={name} in the URI" if wanted else ""
