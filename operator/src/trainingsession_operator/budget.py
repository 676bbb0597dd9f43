"""How often all sessions together may do something that can wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable

ROUNDING = 1e-6


class Budget:
    """So many turns in a second over all keys, and a few at once after a quiet time.

    Fair: who must wait is given a time, in the order of asking, and finds the turn kept until then.
    """

    def __init__(self, per_second: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = 1.0 / per_second
        self._ahead = (burst - 1) * self._interval
        self._clock = clock
        self._lock = threading.Lock()
        self._next = float("-inf")
        self._turns: dict[Hashable, float] = {}

    def wait(self, key: Hashable) -> float:
        """Take a turn and give 0, or give the seconds until the one that is kept for the key."""
        with self._lock:
            now = self._clock()
            turn = self._turns.pop(key, None)
            if turn is None:
                turn = max(self._next, now - self._ahead)
                self._next = turn + self._interval
            if turn <= now + ROUNDING:
                return 0.0
            self._turns[key] = turn
            return turn - now

    def forget(self, key: Hashable) -> None:
        """The key needs no turn any more."""
        with self._lock:
            self._turns.pop(key, None)
