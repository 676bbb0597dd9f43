"""How many requests the operator sends: a token bucket, first come first served."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from .budget import Turns

LONGEST_REST = 30.0
"""Seconds for which all requests rest at most, whatever a server asks for."""


class RequestLimit:
    """`burst` requests at once, then `per_second`.

    Requests go in the order in which they ask. Each session has at most one worker and so at most one request that
    waits: a session with many requests takes its turn behind every other's.
    """

    def __init__(
        self, per_second: float, burst: int, stop: threading.Event, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`stop` ends all waiting. What need not wait is sent even then, so that running work can come to its end."""
        self._turns = Turns(per_second, burst)
        self._clock = clock
        self._lock = threading.Lock()
        self._rest_until = float("-inf")
        self._stop = stop

    def wait(self) -> float | None:
        """Return when the next request may be sent, with the seconds that it waited; None where it may not any more."""
        with self._lock:
            asked = self._clock()
            turn = self._turns.take(asked)
        while (pause := max(turn, self._rest_until) - self._clock()) > 0:
            if self._stop.wait(pause):
                return None
        return self._clock() - asked

    def rest(self, seconds: float) -> None:
        """Let all requests rest, because the server asked for it."""
        with self._lock:
            self._rest_until = max(self._rest_until, self._clock() + min(seconds, LONGEST_REST))
