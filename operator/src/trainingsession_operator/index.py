"""Which session a UID belongs to, for those that are not at their end: records and pods name only the UID."""

from __future__ import annotations

import threading
from collections.abc import Callable

from .queue import Key


class SessionIndex:
    """UID → key of the live sessions, filled by the watch. It only wakes; nothing is decided from it."""

    def __init__(self, ended: Callable[[], None] = lambda: None) -> None:
        """`ended` is told when a live session came to its end or was deleted."""
        self._ended = ended
        self._lock = threading.Lock()
        self._keys: dict[str, Key] = {}

    def put(self, uid: str, key: Key) -> None:
        """Note a session that is not at its end."""
        with self._lock:
            self._keys[uid] = key

    def remove(self, uid: str) -> bool:
        """Forget a session; says whether it was live."""
        with self._lock:
            known = self._keys.pop(uid, None)
        if known:
            self._ended()
        return known is not None

    def find(self, uid: str) -> Key | None:
        """Key of the session with that UID, or None."""
        with self._lock:
            return self._keys.get(uid)

    def live(self) -> list[Key]:
        """Keys of all live sessions."""
        with self._lock:
            return list(self._keys.values())
