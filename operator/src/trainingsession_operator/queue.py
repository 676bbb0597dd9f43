"""What kopf's `on.event` lacks: a work queue with one worker at a time per key, delays and growing pauses.

A key that is added while it is worked on is worked on again afterwards; added many times before, it is worked on once.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable

from .errors import ConflictError, WaitError

log = logging.getLogger(__name__)

Key = tuple[str, str]
"""Namespace and name of a session."""

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 300.0


class WorkQueue:
    """Keys that are due, and the threads that work on them."""

    def __init__(self, work: Callable[[Key], float | None], workers: int) -> None:
        """`work` returns the seconds after which the key is looked at again, or None; it may raise."""
        self._work = work
        self._changed = threading.Condition()
        self._due: dict[Key, float] = {}
        self._heap: list[tuple[float, Key]] = []
        self._busy: dict[Key, float] = {}
        self._failures: dict[Key, int] = {}
        self._stopping = False
        self._threads = [threading.Thread(target=self._run, name=f"worker-{i}", daemon=True) for i in range(workers)]

    def start(self) -> None:
        """Start the workers."""
        for thread in self._threads:
            thread.start()

    def stop(self, seconds: float) -> bool:
        """Let running work end for at most `seconds` in all; False when some did not."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def add(self, key: Key, delay: float = 0.0) -> None:
        """Have the key worked on in `delay` seconds, or earlier where that was asked for before."""
        due = time.monotonic() + delay
        with self._changed:
            if due >= self._due.get(key, float("inf")):
                return
            self._due[key] = due
            heapq.heappush(self._heap, (due, key))
            self._changed.notify()

    def longest_work(self) -> tuple[float, Key | None]:
        """Seconds for which the oldest running work has been at its key."""
        with self._changed:
            if not self._busy:
                return 0.0, None
            key = min(self._busy, key=self._busy.__getitem__)
            return time.monotonic() - self._busy[key], key

    def __len__(self) -> int:
        """Keys that are waiting."""
        with self._changed:
            return len(self._due)

    def _run(self) -> None:
        while (key := self._take()) is not None:
            again = self._attempt(key)
            with self._changed:
                del self._busy[key]
                # A key that was added meanwhile was passed over in the heap.
                if key in self._due:
                    heapq.heappush(self._heap, (self._due[key], key))
                self._changed.notify_all()
            if again is not None:
                self.add(key, again)

    def _attempt(self, key: Key) -> float | None:
        name = "/".join(key)
        try:
            again = self._work(key)
        except ConflictError:
            # The session changed while we looked; the fresh one is worth an immediate look.
            return 0.1
        except WaitError as error:
            pause = self._pause(key)
            log.warning("session %s: %s; trying again in %.0f s", name, error, pause)
            return pause
        except Exception:
            pause = self._pause(key)
            log.exception("session %s: unexpected failure; trying again in %.0f s", name, pause)
            return pause
        self._failures.pop(key, None)
        return again

    def _pause(self, key: Key) -> float:
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        return min(FIRST_PAUSE * 2.0 ** min(failures, 20), LONGEST_PAUSE)

    def _take(self) -> Key | None:
        """Wait for a key that is due and that nobody works on; None when stopping."""
        with self._changed:
            while not self._stopping:
                now = time.monotonic()
                while self._heap:
                    due, key = self._heap[0]
                    if self._due.get(key) != due or key in self._busy:
                        # Replaced by an earlier time, or taken up again when the present work ends.
                        heapq.heappop(self._heap)
                    elif due <= now:
                        heapq.heappop(self._heap)
                        del self._due[key]
                        self._busy[key] = now
                        return key
                    else:
                        break
                self._changed.wait(self._heap[0][0] - now if self._heap else None)
        return None
