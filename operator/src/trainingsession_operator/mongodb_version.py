"""`python -m trainingsession_operator.mongodb_version [--raise]`: the version of MongoDB's data, and its next one.

MongoDB goes on with the data of the version before (its featureCompatibilityVersion) until it is told otherwise, so
that there is a way back; but it refuses data that are two versions old. Run inside the operator's pod by `kubectl exec`
before the next major version is installed.
"""

from __future__ import annotations

import argparse
import os
import sys

from pymongo import MongoClient

from .errors import OperatorError
from .main import log_in
from .mongodb import Document, translated
from .settings import read_settings

ROLE = "clusterManager"
"""What setting the version takes; the chart's administrator may give it to itself."""
CONFIRMED = (7, 0)
"""From this version on, MongoDB wants it to be said that the way back is known to end."""


def versions(client: MongoClient[Document]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Give MongoDB's own version and that of its data; raises StorageUnavailableError."""
    with translated("tell its version"):
        major, minor, *_ = client.server_info()["versionArray"]
        found = client.admin.command({"getParameter": 1, "featureCompatibilityVersion": 1})
    data = str(found["featureCompatibilityVersion"]["version"]).split(".")
    return (int(major), int(minor)), (int(data[0]), int(data[1]))


def said(own: tuple[int, int], data: tuple[int, int]) -> str:
    """Say in a sentence how both versions compare, and what to do."""
    words = f"MongoDB is {own[0]}.{own[1]} and its data are of version {data[0]}.{data[1]}"
    if own == data:
        return f"{words}: the next major version can be installed"
    return (
        f"{words}: the next major version would refuse them; once nothing leads back to {data[0]}.{data[1]}, "
        "run this again with --raise"
    )


def raise_version(client: MongoClient[Document], own: tuple[int, int]) -> None:
    """Make MongoDB's own version that of its data; raises StorageUnavailableError."""
    with translated("take the role that setting the version needs"):
        (user,) = client.admin.command("connectionStatus")["authInfo"]["authenticatedUsers"]
        client[user["db"]].command("grantRolesToUser", user["user"], roles=[{"role": ROLE, "db": "admin"}])
    command: Document = {"setFeatureCompatibilityVersion": f"{own[0]}.{own[1]}"}
    if own >= CONFIRMED:
        command["confirm"] = True
    with translated("set the version of its data"):
        client.admin.command(command)


def main() -> int:
    """Parse the command line, look or raise, return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m trainingsession_operator.mongodb_version",
        description="Say which version MongoDB is and which its data are of (featureCompatibilityVersion).",
        epilog="Example: kubectl exec -n trainingsession deploy/trainingsession-operator -- "
        "python -m trainingsession_operator.mongodb_version --raise",
    )
    parser.add_argument(
        "--raise", action="store_true", dest="is_raised",
        help="make the data of MongoDB's own version, when all members run it; an older MongoDB refuses them then",
    )  # fmt: skip
    arguments = parser.parse_args()
    try:
        _, _, client = log_in(read_settings(os.environ))
        own, data = versions(client)
        if arguments.is_raised and own != data:
            raise_version(client, own)
            own, data = versions(client)
        sys.stdout.write(f"{said(own, data)}\n")
    except OperatorError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
