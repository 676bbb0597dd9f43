"""Which sessions there are, as the watch told: records and pods name only a session's UID."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from .queue import Key


@dataclass(frozen=True)
class Known:
    """What is remembered of a session."""

    key: Key
    phase: str
    generation: int
    finished: bool
    told: bool = True
    """By the watch; False where only the audit found the session."""
    ours: bool = True
    """False where another controller looks after it."""
    pending_since: float | None = None
    """Seconds since 1970; None where it is not pending."""

    @property
    def live(self) -> bool:
        """Whether this operator has work with it."""
        return self.ours and not self.finished


class SessionIndex:
    """Sessions by UID, filled by the watch. It only wakes and counts; nothing is decided from it."""

    def __init__(self, ended: Callable[[], None] = lambda: None) -> None:
        """`ended` is told when a live session came to its end or was deleted."""
        self._ended = ended
        self._lock = threading.Lock()
        self._known: dict[str, Known] = {}

    def put(self, uid: str, known: Known) -> Known | None:
        """Note a session as it is now; returns it as it was known before.

        What the watch told is never replaced by what the audit found, which may be older.
        """
        with self._lock:
            before = self._known.get(uid)
            if before and not known.told:
                return before
            self._known[uid] = known
        if before and before.live and not known.live:
            self._ended()
        return before

    def remove(self, uid: str) -> None:
        """Forget a session that is gone."""
        with self._lock:
            known = self._known.pop(uid, None)
        if known and known.live:
            self._ended()

    def get(self, uid: str) -> Known | None:
        """What is known of the session with that UID."""
        with self._lock:
            return self._known.get(uid)

    def find(self, uid: str) -> Key | None:
        """Key of the live session with that UID, or None."""
        known = self.get(uid)
        return known.key if known and known.live else None

    def __len__(self) -> int:
        """How many live sessions there are."""
        with self._lock:
            return sum(known.live for known in self._known.values())

    def live(self) -> list[Key]:
        """Keys of all live sessions."""
        with self._lock:
            return [known.key for known in self._known.values() if known.live]

    def all(self) -> dict[str, Known]:
        """All sessions, those too that are at their end or not ours."""
        with self._lock:
            return dict(self._known)

    def census(self) -> Counter[tuple[str, str]]:
        """How many of our sessions there are in each namespace and phase."""
        with self._lock:
            return Counter((known.key[0], known.phase) for known in self._known.values() if known.ours)

    def longest_pending(self) -> dict[str, float]:
        """For how many seconds the oldest pending session of each namespace has waited; 0 where none is pending."""
        now, longest = time.time(), dict[str, float]()
        with self._lock:
            for known in self._known.values():
                if known.ours:
                    waited = max(0.0, now - known.pending_since) if known.pending_since is not None else 0.0
                    longest[known.key[0]] = max(waited, longest.get(known.key[0], 0.0))
        return longest
