"""Which session a UID belongs to, for those that are not at their end: records and pods name only the UID."""

from __future__ import annotations

import threading

from .queue import Key


class SessionIndex:
    """UID → key of the live sessions, filled by the watch. It only wakes; nothing is decided from it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keys: dict[str, Key] = {}

    def put(self, uid: str, key: Key) -> None:
        """Note a session that is not at its end."""
        with self._lock:
            self._keys[uid] = key

    def remove(self, uid: str) -> None:
        """Forget a session."""
        with self._lock:
            self._keys.pop(uid, None)

    def find(self, uid: str) -> Key | None:
        """Key of the session with that UID, or None."""
        with self._lock:
            return self._keys.get(uid)

    def live(self) -> list[Key]:
        """Keys of all live sessions."""
        with self._lock:
            return list(self._keys.values())
