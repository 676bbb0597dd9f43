"""Two of the steps of the chart's `scripts/rotate-mongodb`: a new administrator of the chart's own MongoDB.

Run inside the operator's pod by `kubectl exec`. `new` makes a user with the roles of the one in the server Secret and
prints what to patch that Secret with; `end` gives every other one its end, at which the operator drops it. The patch
between them is made with the rights of whoever rotates: the operator's account cannot overwrite the Secret, because
MongoDB's volume opens with nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import sys
from datetime import timedelta

from pymongo import MongoClient

from .errors import OperatorError, StartError
from .main import log_in
from .mongodb import Document, translated
from .settings import Settings, read_settings
from .tenants import end_other_users

GRACE_MINUTES = 60
"""The kubelet gives the members the new password within two minutes; a backup that runs may take longer."""
SUFFIX = r"\.[0-9a-f]{8}"


def make_administrator(client: MongoClient[Document]) -> tuple[str, str]:
    """Make another user with the roles that the logged-in one has; gives its name and password.

    Raises StorageUnavailableError.
    """
    present = _logged_in(client)
    with translated("make the new user"):
        (found,) = client.admin.command("usersInfo", present)["users"]
        user, password = f"{_stem(present)}.{secrets.token_hex(4)}", secrets.token_urlsafe(32)
        roles = [{"role": role["role"], "db": role["db"]} for role in found["roles"]]
        client.admin.command("createUser", user, pwd=password, roles=roles)
    return user, password


def end_administrators(client: MongoClient[Document], grace: timedelta) -> str:
    """Give every administrator that a rotation replaced its end after `grace`; returns a sentence.

    Raises StorageUnavailableError.
    """
    present = _logged_in(client)
    named = {"$regex": f"^{re.escape(_stem(present))}({SUFFIX})?$"}
    return f"MongoDB's administrator is {present}; {end_other_users(client.admin, present, grace, named)}"


def _logged_in(client: MongoClient[Document]) -> str:
    with translated("tell its user"):
        (user,) = client.admin.command("connectionStatus")["authInfo"]["authenticatedUsers"]
    return str(user["user"])


def _stem(user: str) -> str:
    return re.sub(f"{SUFFIX}$", "", user)


def _connect(settings: Settings) -> MongoClient[Document]:
    if settings.mongodb_uri_file:
        raise StartError(
            "MongoDB is not the chart's own (mongodb.external): make its new password there, and write the new URI "
            "into the Secret that mongodb.external.uriSecret names"
        )
    return log_in(settings)[2]


def main() -> int:
    """Parse the command line, do the step, return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m trainingsession_operator.rotate_server",
        description="Steps of the chart's scripts/rotate-mongodb, which gives MongoDB's administrator a new password.",
    )
    steps = parser.add_subparsers(dest="step", required=True)
    steps.add_parser("new", help="make a new administrator; print the patch for the server Secret, which holds it")
    end = steps.add_parser("end", help="give all but the server Secret's administrator an end")
    end.add_argument(
        "--grace-minutes", type=int, default=GRACE_MINUTES, choices=range(10_081), metavar="0..10080",
        help="how long the old one can be used, at least 5 unless it was stolen (default 60)",
    )  # fmt: skip
    arguments = parser.parse_args()
    try:
        client = _connect(read_settings(os.environ))
        if arguments.step == "new":
            user, password = make_administrator(client)
            said = json.dumps({"stringData": {"username": user, "password": password}})
        else:
            said = end_administrators(client, timedelta(minutes=arguments.grace_minutes))
    except OperatorError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{said}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
