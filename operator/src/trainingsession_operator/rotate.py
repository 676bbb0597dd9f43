"""`python -m trainingsession_operator.rotate NAMESPACE`: a new user and password of MongoDB for a namespace.

Run inside the operator's pod by `kubectl exec`. The namespace's Secret names the new user at once, so every trainer
that starts from now on uses it. The old user goes when the grace is over, by the operator's hand; a trainer that still
uses it then ends with code 69 and is tried again with the new one, from its checkpoint, without counting against it.

Whoever is interrupted runs it again: every user but the one in the Secret gets an end.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from datetime import timedelta

from pymongo import MongoClient

from .cluster import Cluster
from .errors import OperatorError, StartError
from .main import log_in
from .mongodb import Document, tenant_uri, translated
from .settings import read_settings
from .tenants import Server, database_name, end_other_users, user_roles
from .trainer_pod import TENANT_SECRET

GRACE_MINUTES = 1440


def rotate(cluster: Cluster, client: MongoClient[Document], server: Server, namespace: str, grace: timedelta) -> str:
    """Give the namespace a new user, and every other one an end after `grace`; returns a sentence.

    Raises StartError where there is nothing to rotate, StorageUnavailableError and ApiError.
    """
    if not server.managed_users:
        raise StartError(
            "mongodb.users is shared: trainers use the server's own user, whose password is yours to change"
        )
    uid = cluster.namespace_uid(namespace)
    if uid is None:
        raise StartError(f"there is no namespace {namespace}")
    if cluster.secret(namespace, TENANT_SECRET) is None:
        raise StartError(f"namespace {namespace} has no Secret {TENANT_SECRET} yet; its first session makes it")
    name = database_name(namespace, uid)
    database, user, password = client[name], f"{name}.{secrets.token_hex(4)}", secrets.token_urlsafe(32)
    with translated("make the new user"):
        database.command("createUser", user, pwd=password, roles=user_roles(name))
    uri = tenant_uri(server.uri, name, user, password)
    cluster.write_secret(namespace, TENANT_SECRET, server.secret(uri, name), exists=True)
    ended = end_other_users(database, user, grace)
    return f"namespace {namespace}: new trainers use {user}; {ended}"


def main() -> int:
    """Parse the command line, rotate, return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m trainingsession_operator.rotate",
        description="Give namespaces a new user and password of MongoDB.",
        epilog="Example: kubectl exec -n trainingsession deploy/trainingsession-operator -- "
        "python -m trainingsession_operator.rotate team-a",
    )
    parser.add_argument("namespaces", nargs="+", metavar="NAMESPACE", help="namespaces that have had sessions")
    parser.add_argument(
        "--grace-minutes", type=int, default=GRACE_MINUTES, choices=range(10_081), metavar="0..10080",
        help="how long running trainers may go on with the old one (default a day); 0 where it was stolen",
    )  # fmt: skip
    arguments = parser.parse_args()
    try:
        cluster, server, client = log_in(read_settings(os.environ))
        for namespace in arguments.namespaces:
            grace = timedelta(minutes=arguments.grace_minutes)
            sys.stdout.write(rotate(cluster, client, server, namespace, grace) + "\n")
    except OperatorError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
