"""How an empty mongod becomes a member of its replica set: what the other members say, and what follows from it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pymongo import MongoClient
from pymongo.errors import OperationFailure

Document = dict[str, Any]
Client = MongoClient[Document]

MEMBER_ROLE = "clusterManager"
"""What changing the replica set's configuration takes. A set of one member never needs it."""
UNAUTHORIZED = 13  # of MongoDB's src/mongo/base/error_codes.yml


@dataclass(frozen=True, slots=True)
class Peer:
    """What another member says of itself."""

    answers: bool
    hosts: tuple[str, ...] = ()
    """Members of its replica set; none where it has not loaded, or does not have, a configuration."""
    has_users: bool = False
    """Its data knows the first user, so it was a member before, whatever else it says."""


@dataclass(frozen=True, slots=True)
class Step:
    """What to do next: initiate the set, join it, or only wait; and the sentence that says so."""

    act: str
    sentence: str = ""


def hosts_of(hello: Mapping[str, Any]) -> tuple[str, ...]:
    """Members that an answer to `hello` names; the passive ones have just been added."""
    return (*hello.get("hosts", ()), *hello.get("passives", ()))


def next_step(own: str, members: Sequence[str], peers: Mapping[str, Peer]) -> Step:
    """Decide for a member without a configuration; `peers` are all the others.

    A second set beside one that is there would part the data in two, so the first member initiates one only when every
    other member says that it is empty: one that is silent may hold the data.
    """
    for host, peer in peers.items():
        if own in peer.hosts:
            return Step("wait", f"waiting for {host} to tell this member of its replica set")
    if any(peer.hosts for peer in peers.values()):
        return Step("join")
    for host, peer in peers.items():
        if peer.has_users:
            return Step("wait", f"waiting for {host}, which holds the data, to load its configuration")
    if own != members[0]:
        return Step("wait", f"waiting for {members[0]} to initiate the replica set")
    silent = [host for host, peer in peers.items() if not peer.answers]
    if silent:
        return Step("wait", f"waiting for {', '.join(silent)}: a member that does not answer may hold the data")
    return Step("initiate")


def with_member(config: Document, host: str) -> Document:
    """Give the next version of a replica set's configuration, with one more member.

    MongoDB counts a new member's vote only when it has copied the data, so writes go on while it does.
    """
    changed = copy.deepcopy(config)
    changed["version"] += 1
    changed["members"].append({"_id": 1 + max(member["_id"] for member in config["members"]), "host": host})
    return changed


def join(primary: Client, host: str, username: str) -> str:
    """Add the member to the replica set, once, and say so; raises the driver's errors.

    Of two members that join at once the server refuses one, which tries again: versions have to follow each other.
    """
    try:
        config = primary.admin.command("replSetGetConfig")["config"]
        if any(member["host"] == host for member in config["members"]):
            return f"waiting for the primary to tell {host} that it is a member"
        primary.admin.command("replSetReconfig", with_member(config, host), maxTimeMS=10_000)
    except OperationFailure as error:
        if error.code != UNAUTHORIZED:
            raise
        # It may make users, and so give itself what it lacks.
        primary.admin.command("grantRolesToUser", username, roles=[{"role": MEMBER_ROLE, "db": "admin"}])
        return f"gave user {username} the role {MEMBER_ROLE}, which adding members takes"
    return f"added {host} to the replica set"
