"""Sidecar of mongod: makes it a member of its replica set, with the first user, and says whether the pod is ready.

Started as `python -m trainingsession_operator.mongodb_init`. Every round looks at mongod and does the one step that is
missing, so it may be killed anywhere. The first member initiates the replica set and makes the first user (both by
MongoDB's localhost exception, which holds until a user exists); every other one has the primary add it. Ready means
that this mongod is primary or secondary and the user of the Secret is logged in. The rounds go on, so that readiness
stays true.
"""

import argparse
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType

from .mongodb_member import Rounds, Settings, State

log = logging.getLogger("mongodb-init")

RETRY_SECONDS = 1.0
"""Pause between rounds while something is missing."""
CHECK_SECONDS = 5.0
"""Pause between rounds when all is well, or when nothing has moved for PATIENT_ROUNDS."""
PATIENT_ROUNDS = 60
STALE_SECONDS = 30.0
"""Age after which the last round's answer is not believed any more."""
HUNG_SECONDS = 120.0
"""Age after which the rounds count as hung, which only a restart of this process mends."""


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
        description="Make this mongod a member of its replica set, and the set's first user.",
    )
    parser.add_argument("--mongod", default="127.0.0.1:27017", help="where mongod listens on loopback")
    parser.add_argument("--host", required=True, help="host:port of this member as all clients resolve it")
    parser.add_argument(
        "--members",
        type=lambda text: tuple(text.split(",")),
        help="host:port of all members, by commas; default --host",
    )
    parser.add_argument("--replica-set", required=True, help="name of the replica set")
    parser.add_argument("--credentials", required=True, type=Path, help="folder with the files username and password")
    parser.add_argument("--secret", required=True, help="name of the Secret behind that folder")
    parser.add_argument("--health-port", type=int, default=8082, help="port of /readyz and /healthz")
    parser.add_argument("--ca-file", type=Path, help="authorities of mongod's certificate, where it speaks TLS")
    told = parser.parse_args(arguments)
    # Chart 0.1.0 knew one member only, and does not say so.
    settings = Settings(**{**vars(told), "members": told.members or (told.host,)})
    if settings.host not in settings.members:
        parser.error(f"--host {settings.host} is not among --members {','.join(settings.members)}; add it there")
    return settings


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
