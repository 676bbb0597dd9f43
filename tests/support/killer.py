"""What both proxies between the operator and the world share: the count of its writes, and its death after the k-th."""

from __future__ import annotations

import http.client
import itertools
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from operator_process import OperatorProcess

Json = dict[str, Any]
LOST = (OSError, http.client.HTTPException)
"""What a connection that another thread has shut down raises, of whichever layer."""


@dataclass(frozen=True)
class Write:
    """One write that was answered; `code` is 0 and `answer` empty where MongoDB gave it."""

    name: str
    text: bytes
    """What was sent, with the path."""
    code: int = 0
    answer: Json = field(default_factory=dict)


class Killer:
    """Kills its victim, the operator, after the k-th write that counts, and starts the next one."""

    victim: OperatorProcess

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.disconnect: list[Callable[[], None]] = []
        self.disarm()

    def disarm(self) -> None:
        self.arm(0, answered=True, counts=lambda _: False)

    def arm(self, at: int, *, answered: bool, counts: Callable[[Write], bool]) -> None:
        """Count anew, and kill after the `at`-th (0: never): when the answer was passed on, or before."""
        with self._lock:
            self._at, self._answered, self._counts = at, answered, counts
            self.writes: list[Write] = []
            self.struck: Write | None = None

    def pass_on(self, write: Write, answer: Callable[[], None]) -> None:
        """Count a write that has been done, and give its answer to the operator, unless it is dead by then."""
        with self._lock:
            counted = self._counts(write)
            if counted:
                self.writes.append(write)
            strikes = counted and self.struck is None and len(self.writes) == self._at
            if strikes:
                self.struck = write
            answered = self._answered
        if strikes and not answered:
            self._strike()
            return
        try:
            answer()
        finally:
            if strikes:
                self._strike()

    def _strike(self) -> None:
        self.victim.kill()
        for disconnect in self.disconnect:
            disconnect()
        self.victim.start()


class Sockets:
    """Open connections, to be shut down together: a thread that waits at one of them then finds its end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()

    def add(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.add(connection)

    def discard(self, connection: socket.socket | None) -> None:
        if connection is not None:
            with self._lock:
                self._open.discard(connection)
            with suppress(OSError):
                connection.close()

    def shut(self) -> None:
        with self._lock:
            found = list(self._open)
        for connection in found:
            shut(connection)


def shut(connection: socket.socket) -> None:
    # Not that of an SSLSocket, which takes away what another thread is reading from.
    with suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


def gaps(times: list[float]) -> list[float]:
    """Seconds from one to the next."""
    return [after - before for before, after in itertools.pairwise(times)]
