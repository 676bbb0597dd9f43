"""What the sidecar does for its mongod, round by round, until it is a member of the replica set that can be used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymongo import MongoClient, WriteConcern
from pymongo.errors import OperationFailure, PyMongoError

from .errors import driver_words
from .mongodb_join import UNAUTHORIZED, Client, Peer, hosts_of, join, next_step

ROLES = ("readWriteAnyDatabase", "userAdminAnyDatabase", "dbAdminAnyDatabase", "clusterMonitor")
"""What the operator does: databases and users of namespaces, change streams over all, a look at the replica set."""

CONNECT_MILLISECONDS = 3000
COMMAND_MILLISECONDS = 20_000
"""Enough for replSetInitiate, which resolves the member's name."""

# Codes of MongoDB's src/mongo/base/error_codes.yml.
AUTHENTICATION_FAILED = 18
ALREADY_INITIALIZED = 23
USER_ALREADY_EXISTS = 51003


@dataclass(frozen=True, slots=True)
class Settings:
    """What the sidecar is told on its command line, which holds no secret."""

    mongod: str
    """Where this pod's mongod listens, host:port. Loopback, because of the localhost exception."""
    host: str
    """The member's name in the replica set, host:port, as clients in every namespace resolve it."""
    members: tuple[str, ...]
    """Names of all members, this one's too. The first initiates the replica set."""
    replica_set: str
    credentials: Path
    """Folder with the files username and password."""
    secret: str
    """Name of the Secret behind that folder, for sentences."""
    health_port: int
    ca_file: Path | None = None
    """Authorities of mongod's certificate; None where mongod speaks without TLS."""


@dataclass(frozen=True, slots=True)
class State:
    """Outcome of a round: ready, or the sentence that says what is missing."""

    ready: bool
    sentence: str


class Rounds:
    """Looks at mongod and does the one step that is missing. Keeps its login, which keeps mongod's log quiet."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._session: Client | None = None

    def step(self) -> State:
        """Do one round. A mongod that cannot be asked is an outcome, not an error."""
        try:
            if self._session is not None:
                return self._look(self._session)
            with self._connect() as server:
                return self._look(server)
        except (PyMongoError, OSError) as error:
            self._log_out()
            return State(ready=False, sentence=f"waiting for mongod on {self._settings.mongod}: {driver_words(error)}")

    def _look(self, server: Client) -> State:
        hello = server.admin.command("hello")
        if "setName" not in hello:
            return self._begin(server)
        wrong = _wrong_member(hello, self._settings)
        if wrong:
            return State(ready=False, sentence=wrong)
        name = hello["setName"]
        if hello.get("isWritablePrimary"):
            return self._log_in(server, "primary")
        if hello.get("secondary") and self._settings.host in hello.get("passives", ()):
            return State(ready=False, sentence=f"waiting for the primary of {name} to count this new member's vote")
        if hello.get("secondary"):
            return self._log_in(server, "secondary")
        if len(hosts_of(hello)) == 1:
            return State(ready=False, sentence=f"waiting for replica set {name} to elect this mongod primary")
        return State(ready=False, sentence=f"waiting for mongod to copy or recover the data of replica set {name}")

    def _begin(self, server: Client) -> State:
        """Mongod has no configuration: make the replica set, or become a member of the one that is there."""
        own, members = self._settings.host, self._settings.members
        peers = {host: self._ask(host) for host in members if host != own}
        step = next_step(own, members, peers)
        if step.act == "initiate":
            return self._initiate(server)
        if step.act == "join":
            return self._join([host for host, peer in peers.items() if peer.hosts])
        return State(ready=False, sentence=step.sentence)

    def _ask(self, host: str) -> Peer:
        """Ask another member for its replica set, and whether its data knows the user."""
        try:
            with self._to_member(host, directConnection=True) as client:
                hello = client.admin.command("hello")
            if "setName" in hello:
                return Peer(answers=True, hosts=hosts_of(hello))
            with self._to_member(host, directConnection=True, **self._login()) as client:
                client.admin.command("ping")
        except OperationFailure as error:
            return Peer(answers=error.code == AUTHENTICATION_FAILED)
        except PyMongoError:
            return Peer(answers=False)
        return Peer(answers=True, has_users=True)

    def _join(self, hosts: list[str]) -> State:
        name, host = self._settings.replica_set, self._settings.host
        try:
            with self._to_member(*hosts, replicaSet=name, **self._login()) as primary:
                return State(ready=False, sentence=join(primary, host, self._login()["username"]))
        except PyMongoError as error:
            return State(
                ready=False,
                sentence=f"cannot add {host} to replica set {name} yet, trying again: {driver_words(error)}",
            )

    def _initiate(self, server: Client) -> State:
        name, host = self._settings.replica_set, self._settings.host
        try:
            server.admin.command("replSetInitiate", {"_id": name, "members": [{"_id": 0, "host": host}]})
        except OperationFailure as error:
            if error.code == ALREADY_INITIALIZED:
                return State(
                    ready=False, sentence=f"waiting for mongod to load its configuration of replica set {name}"
                )
            if error.code == UNAUTHORIZED:
                return State(
                    ready=False,
                    sentence="mongod's data has users but no replica set, so a standalone server made it; "
                    "give mongod an empty volume and load the data with mongorestore",
                )
            hint = "that name must lead to this pod"
            return State(
                ready=False,
                sentence=f"cannot initiate replica set {name} with {host} yet; {hint}: {driver_words(error)}",
            )
        return State(ready=False, sentence=f"initiated replica set {name} with {host}")

    def _log_in(self, server: Client, role: str) -> State:
        username = self._login()["username"]
        try:
            if self._session is None:
                self._session = self._connect(**self._login())
            # Needs the user's rights, so it also notices a user that was dropped.
            self._session.admin.command("replSetGetStatus")
        except OperationFailure as error:
            self._log_out()
            if error.code != AUTHENTICATION_FAILED:
                raise
            if role == "primary":
                return self._make_user(server)
            return State(
                ready=False,
                sentence=f"waiting for the primary to make user {username}, or for the password of Secret "
                f"{self._settings.secret} that the data was set up with",
            )
        return State(ready=True, sentence=f"ready: {role} of {self._settings.replica_set}, logged in as {username}")

    def _make_user(self, server: Client) -> State:
        username, password = self._login()["username"], self._login()["password"]
        roles = [{"role": role, "db": "admin"} for role in ROLES]
        concern = WriteConcern(w="majority", wtimeout=COMMAND_MILLISECONDS // 2).document
        try:
            server.admin.command("createUser", username, pwd=password, roles=roles, writeConcern=concern)
        except OperationFailure as error:
            if error.code not in {UNAUTHORIZED, USER_ALREADY_EXISTS}:
                raise
            return State(
                ready=False,
                sentence=f"mongod's data has users already, but {username} cannot log in with the password of Secret "
                f"{self._settings.secret}; restore the Secret that the volume was set up with",
            )
        return State(ready=False, sentence=f"made user {username}")

    def _login(self) -> dict[str, str]:
        folder = self._settings.credentials
        return {key: (folder / key).read_text(encoding="utf-8").strip() for key in ("username", "password")}

    def _connect(self, **login: str) -> Client:
        # The certificate is the member's name's, and the way here is the pod's own loopback.
        own: dict[str, Any] = {"tlsAllowInvalidHostnames": True} if self._settings.ca_file else {}
        return self._to_member(self._settings.mongod, directConnection=True, **own, **login)

    def _to_member(self, *hosts: str, **options: Any) -> Client:
        ca = self._settings.ca_file
        tls: dict[str, Any] = {"tls": True, "tlsCAFile": str(ca)} if ca else {}
        return MongoClient(
            list(hosts),
            **tls,
            **options,
            appname="mongodb-init",
            serverSelectionTimeoutMS=CONNECT_MILLISECONDS,
            connectTimeoutMS=CONNECT_MILLISECONDS,
            socketTimeoutMS=COMMAND_MILLISECONDS,
        )

    def _log_out(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None


def _wrong_member(hello: dict[str, Any], settings: Settings) -> str | None:
    """Say what is wrong when the volume belongs to another replica set or member, or the set to more, else None."""
    name, hosts = hello["setName"], hosts_of(hello)
    if name != settings.replica_set:
        return (
            f"mongod's data belongs to replica set {name}, not {settings.replica_set}; set mongodb.replicaSet to {name}"
        )
    if hosts and settings.host not in hosts:
        return (
            f"replica set {name} in mongod's data has the member {', '.join(hosts)}, but this pod is {settings.host}; "
            "install the chart under the release name and namespace that the volume was made with"
        )
    # While one becomes three, its own sidecar is the last to be told, and there is a primary.
    if set(hosts) - set(settings.members) and "primary" not in hello:
        return (
            f"replica set {name} has {len(hosts)} members, but mongodb.members is {len(settings.members)}, and one "
            f"alone cannot elect a primary; set mongodb.members to {len(hosts)} again"
        )
    return None
