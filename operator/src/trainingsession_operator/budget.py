"""How often something may be done: so many turns in a second, and a few at once after a quiet time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable

ROUNDING = 1e-6


class Turns:
    """`burst` turns at once, then `per_second`, in the order of asking. Not for several threads at once."""

    def __init__(self, per_second: float, burst: int) -> None:
        self._interval = 1.0 / per_second
        self._ahead = (burst - 1) * self._interval
        self._next = float("-inf")

    def take(self, now: float) -> float:
        """Take the next turn and give its time, which has come where it is not after `now`."""
        turn = max(self._next, now - self._ahead)
        self._next = turn + self._interval
        return turn


class Budget:
    """Turns over all keys, for what can wait: nobody is blocked.

    Fair: who must wait is given a time, in the order of asking, and finds the turn kept until then.
    """

    def __init__(self, per_second: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._all = Turns(per_second, burst)
        self._clock = clock
        self._lock = threading.Lock()
        self._turns: dict[Hashable, float] = {}

    def wait(self, key: Hashable) -> float:
        """Take a turn and give 0, or give the seconds until the one that is kept for the key."""
        with self._lock:
            now = self._clock()
            turn = self._turns.pop(key, None)
            if turn is None:
                turn = self._all.take(now)
            if turn <= now + ROUNDING:
                return 0.0
            self._turns[key] = turn
            return turn - now

    def forget(self, key: Hashable) -> None:
        """The key needs no turn any more."""
        with self._lock:
            self._turns.pop(key, None)
