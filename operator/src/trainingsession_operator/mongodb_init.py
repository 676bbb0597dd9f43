"""Sidecar of mongod: makes an empty mongod a replica set with its first user, and says whether the pod is ready.

Started as `python -m trainingsession_operator.mongodb_init`. Every round looks at mongod and does the one step that is
missing, so it may be killed anywhere: initiate the replica set, wait for the primary, make the first user (both by
MongoDB's localhost exception, which holds until a user exists), log in as that user. Ready means that this mongod is
primary and the user of the Secret is logged in. The rounds go on, so that readiness stays true.
"""

import argparse
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType
from typing import Any

from pymongo import MongoClient, WriteConcern
from pymongo.errors import OperationFailure, PyMongoError

from .errors import driver_words

log = logging.getLogger("mongodb-init")

Client = MongoClient[dict[str, Any]]

ROLES = ("readWriteAnyDatabase", "userAdminAnyDatabase", "dbAdminAnyDatabase", "clusterMonitor")
"""What the operator does: databases and users of namespaces, change streams over all, a look at the replica set."""

RETRY_SECONDS = 1.0
"""Pause between rounds while something is missing."""
CHECK_SECONDS = 5.0
"""Pause between rounds when all is well, or when nothing has moved for PATIENT_ROUNDS."""
PATIENT_ROUNDS = 60
STALE_SECONDS = 30.0
"""Age after which the last round's answer is not believed any more."""
HUNG_SECONDS = 120.0
"""Age after which the rounds count as hung, which only a restart of this process mends."""
CONNECT_MILLISECONDS = 3000
COMMAND_MILLISECONDS = 20_000
"""Enough for replSetInitiate, which resolves the member's name."""

# Codes of MongoDB's src/mongo/base/error_codes.yml.
UNAUTHORIZED = 13
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
            return self._initiate(server)
        wrong = _wrong_member(hello, self._settings)
        if wrong:
            return State(ready=False, sentence=wrong)
        if not hello.get("isWritablePrimary"):
            return State(
                ready=False, sentence=f"waiting for replica set {hello['setName']} to elect this mongod primary"
            )
        return self._log_in(server)

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

    def _log_in(self, server: Client) -> State:
        username, password = self._credential("username"), self._credential("password")
        try:
            if self._session is None:
                self._session = self._connect(username, password)
            # Needs the user's rights, so it also notices a user that was dropped.
            self._session.admin.command("replSetGetStatus")
        except OperationFailure as error:
            self._log_out()
            if error.code != AUTHENTICATION_FAILED:
                raise
            return self._make_user(server, username, password)
        return State(ready=True, sentence=f"ready: primary of {self._settings.replica_set}, logged in as {username}")

    def _make_user(self, server: Client, username: str, password: str) -> State:
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

    def _credential(self, key: str) -> str:
        return (self._settings.credentials / key).read_text(encoding="utf-8").strip()

    def _connect(self, username: str | None = None, password: str | None = None) -> Client:
        ca = self._settings.ca_file
        # The certificate is the member's name's, and the way here is the pod's own loopback.
        tls: dict[str, Any] = {"tls": True, "tlsCAFile": str(ca), "tlsAllowInvalidHostnames": True} if ca else {}
        return MongoClient(
            self._settings.mongod,
            **tls,
            directConnection=True,
            appname="mongodb-init",
            username=username,
            password=password,
            serverSelectionTimeoutMS=CONNECT_MILLISECONDS,
            connectTimeoutMS=CONNECT_MILLISECONDS,
            socketTimeoutMS=COMMAND_MILLISECONDS,
        )

    def _log_out(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None


def _wrong_member(hello: dict[str, Any], settings: Settings) -> str | None:
    """Say what is wrong when the volume belongs to another replica set or member, else None."""
    name, hosts = hello["setName"], hello.get("hosts", [])
    if name != settings.replica_set:
        return (
            f"mongod's data belongs to replica set {name}, not {settings.replica_set}; set mongodb.replicaSet to {name}"
        )
    if hosts and settings.host not in hosts:
        return (
            f"replica set {name} in mongod's data has the member {', '.join(hosts)}, but this pod is {settings.host}; "
            "install the chart under the release name and namespace that the volume was made with"
        )
    return None


class Health:
    """The last round's outcome, for the probes; the clock gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._state = State(ready=False, sentence="has not looked at mongod yet")
        self._at = clock()

    def report(self, state: State) -> bool:
        """Take a round's outcome, log it where it is news, and say whether it was."""
        with self._lock:
            changed, self._state, self._at = state != self._state, state, self._clock()
        if changed:
            log.info("%s", state.sentence)
        return changed

    def answer(self, path: str) -> State | None:
        """Answer a probe: /readyz by the last round's outcome, /healthz by its age; None for another path."""
        with self._lock:
            age, state = self._clock() - self._at, self._state
        if path == "/healthz":
            return State(ready=age <= HUNG_SECONDS, sentence=f"looked at mongod {age:.0f} s ago")
        if path == "/readyz":
            return (
                state
                if age <= STALE_SECONDS
                else State(ready=False, sentence=f"has not looked at mongod for {age:.0f} s")
            )
        return None


def serve(health: Health, port: int) -> None:
    """Answer the probes on all interfaces from a daemon thread."""

    class Probe(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state = health.answer(self.path)
            if state is None:
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            self.send_response(HTTPStatus.OK if state.ready else HTTPStatus.SERVICE_UNAVAILABLE)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.end_headers()
            self.wfile.write(f"{state.sentence}\n".encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Say nothing: a probe every few seconds is no news."""

    server = ThreadingHTTPServer(("", port), Probe)
    threading.Thread(target=server.serve_forever, name="probes", daemon=True).start()


def read_arguments(arguments: list[str]) -> Settings:
    """Read the command line; argparse exits with a sentence on a wrong one."""
    parser = argparse.ArgumentParser(
        prog="python -m trainingsession_operator.mongodb_init",
        description="Initiate the replica set and make its first user.",
    )
    parser.add_argument("--mongod", default="127.0.0.1:27017", help="where mongod listens on loopback")
    parser.add_argument("--host", required=True, help="host:port of this member as all clients resolve it")
    parser.add_argument("--replica-set", required=True, help="name of the replica set")
    parser.add_argument("--credentials", required=True, type=Path, help="folder with the files username and password")
    parser.add_argument("--secret", required=True, help="name of the Secret behind that folder")
    parser.add_argument("--health-port", type=int, default=8082, help="port of /readyz and /healthz")
    parser.add_argument("--ca-file", type=Path, help="authorities of mongod's certificate, where it speaks TLS")
    return Settings(**vars(parser.parse_args(arguments)))


def main(arguments: list[str]) -> None:
    """Look after mongod until SIGTERM."""
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    settings = read_arguments(arguments)
    health = Health()
    serve(health, settings.health_port)
    rounds, unmoved = Rounds(settings), 0
    while True:
        state = rounds.step()
        unmoved = 0 if health.report(state) else unmoved + 1
        time.sleep(CHECK_SECONDS if state.ready or unmoved > PATIENT_ROUNDS else RETRY_SECONDS)


def _stop(signum: int, frame: FrameType | None) -> None:
    """End at once: every step is safe to lose, and mongod's pod must not wait for its sidecar."""
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
