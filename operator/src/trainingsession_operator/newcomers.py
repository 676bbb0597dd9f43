"""Sessions that were made just now, as the watch told of them, so that the first look need not ask for them again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from .queue import Key
from .resource import Json

MOST = 2_000
"""What comes beyond that is read again when its turn comes: many at once must not fill the memory."""


@dataclass(frozen=True)
class Newcomer:
    """A session without a status, and when (`time.monotonic()`) the watch told of it."""

    resource: Json
    told: float


class Newcomers:
    """Kept until the first look, or until the session changes.

    That look may be too late, as any look may be: what it writes first is refused unless the session is still as it
    was told.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: dict[Key, Newcomer] = {}

    def put(self, key: Key, resource: Json) -> None:
        """Note a session that was just made."""
        with self._lock:
            if len(self._waiting) < MOST:
                self._waiting[key] = Newcomer(resource, self._clock())

    def take(self, key: Key) -> Newcomer | None:
        """Give the session as the watch told of it, once."""
        with self._lock:
            return self._waiting.pop(key, None)

    def forget(self, key: Key) -> None:
        """What was told is not so any more."""
        self.take(key)
