"""What kopf's `on.event` lacks: a work queue with one worker at a time per key, delays and growing pauses.

A key that is added while it is worked on is worked on again afterwards; added many times before, it is worked on once.
A key whose work fails rests for a growing pause, which no event shortens but those that may have mended it.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from .errors import ConflictError, WaitError
from .logs import looking_at
from .metrics import Metrics
from .read_metrics import QueueState

log = logging.getLogger(__name__)

Key = tuple[str, str]
"""Namespace and name of a session."""

CONFLICT_PAUSE = 0.1
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 300.0
AWAY_PAUSE = 30.0
"""At most, while the API server or MongoDB is away: nothing tells when it is back, and then sessions must go on."""


@dataclass(frozen=True)
class _Failing:
    """A key whose last work failed: how often in a row, since when, and until when it rests."""

    times: int
    since: float
    until: float


class WorkQueue:
    """Keys that are due, and the threads that work on them."""

    def __init__(self, work: Callable[[Key], float | None], workers: int, metrics: Metrics | None = None) -> None:
        """`work` returns the seconds after which the key is looked at again, or None; it may raise."""
        self._work = work
        self._metrics = metrics or Metrics()
        self._changed = threading.Condition()
        self._due: dict[Key, float] = {}
        self._heap: list[tuple[float, Key]] = []
        self._busy: dict[Key, float] = {}
        self._failing: dict[Key, _Failing] = {}
        self._mended: set[Key] = set()
        self._stopping = False
        self._threads = [threading.Thread(target=self._run, name=f"worker-{i}", daemon=True) for i in range(workers)]
        self._metrics.follow_queue(self.state)

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

    def add(self, key: Key, delay: float = 0.0, *, mended: bool = False) -> None:
        """Have the key worked on in `delay` seconds, or earlier where that was asked for before.

        A failing key rests until the end of its pause all the same, unless it may be `mended`: its pause ends now.
        """
        due = time.monotonic() + delay
        with self._changed:
            if mended:
                self._failing.pop(key, None)
                if key in self._busy:
                    self._mended.add(key)
            elif key in self._failing:
                due = max(due, self._failing[key].until)
            if due >= self._due.get(key, float("inf")):
                return
            self._due[key] = due
            self._push(key)
            self._metrics.key_added()
            self._changed.notify()

    def longest_work(self) -> tuple[float, Key | None]:
        """Seconds for which the oldest running work has been at its key."""
        with self._changed:
            if not self._busy:
                return 0.0, None
            key = min(self._busy, key=self._busy.__getitem__)
            return time.monotonic() - self._busy[key], key

    def state(self) -> QueueState:
        """What the metrics tell of this moment."""
        with self._changed:
            now = time.monotonic()
            working = [now - began for began in self._busy.values()]
            failing = [now - one.since for one in self._failing.values()]
            return QueueState(
                depth=sum(due <= now for due in self._due.values()),
                unfinished_seconds=sum(working),
                longest_running_seconds=max(working, default=0.0),
                failing=len(failing),
                longest_failing_seconds=max(failing, default=0.0),
            )

    def __len__(self) -> int:
        """Keys that are waiting."""
        with self._changed:
            return len(self._due)

    def _push(self, key: Key) -> None:
        if len(self._heap) > 2 * len(self._due) + 64:
            # Times that were replaced by earlier ones stay behind until they would be due.
            self._heap = [(due, waiting) for waiting, due in self._due.items() if waiting != key]
            heapq.heapify(self._heap)
        heapq.heappush(self._heap, (self._due[key], key))

    def _run(self) -> None:
        while (key := self._take()) is not None:
            with looking_at(*key):
                again = self._attempt(key)
            with self._changed:
                del self._busy[key]
                if key in self._mended:
                    self._mended.remove(key)
                    self._failing.pop(key, None)
                if key in self._due:
                    # Added meanwhile, so passed over in the heap; what its own failing work caused waits.
                    if key in self._failing:
                        self._due[key] = max(self._due[key], self._failing[key].until)
                    self._push(key)
                self._changed.notify_all()
            if again is not None:
                self.add(key, again)

    def _attempt(self, key: Key) -> float | None:
        name, began, result = "/".join(key), time.monotonic(), "error"
        try:
            again = self._work(key)
            result = "success"
        except ConflictError as error:
            # The session changed while we looked; the fresh one is worth a look very soon.
            result, pause = "conflict", self._pause(key, CONFLICT_PAUSE, LONGEST_PAUSE)
            log.log(
                logging.DEBUG if pause < FIRST_PAUSE else logging.WARNING,
                "session %s: %s; trying again in %.1f s", name, error, pause,
            )  # fmt: skip
            return pause
        except WaitError as error:
            longest = AWAY_PAUSE if error.away else LONGEST_PAUSE
            result, pause = "unavailable", self._pause(key, FIRST_PAUSE, longest)
            log.warning("session %s: %s; trying again in %.0f s", name, error, pause)
            return pause
        except Exception:
            pause = self._pause(key, FIRST_PAUSE, LONGEST_PAUSE)
            log.exception("session %s: unexpected failure; trying again in %.0f s", name, pause)
            return pause
        finally:
            self._metrics.key_worked(result, time.monotonic() - began)
        with self._changed:
            self._failing.pop(key, None)
        return again

    def _pause(self, key: Key, first: float, longest: float) -> float:
        with self._changed:
            now, before = time.monotonic(), self._failing.get(key)
            times = before.times if before else 0
            pause = min(first * 2.0 ** min(times, 20), longest)
            self._failing[key] = _Failing(times + 1, before.since if before else now, now + pause)
            return pause

    def _take(self) -> Key | None:
        """Wait for a key that is due and that nobody works on; None when stopping."""
        with self._changed:
            while not self._stopping:
                now = time.monotonic()
                while self._heap:
                    due, key = self._heap[0]
                    if self._due.get(key) != due or key in self._busy:
                        # Replaced by another time, or taken up again when the present work ends.
                        heapq.heappop(self._heap)
                    elif due <= now:
                        heapq.heappop(self._heap)
                        del self._due[key]
                        self._busy[key] = now
                        self._metrics.key_taken(now - due)
                        return key
                    else:
                        break
                self._changed.wait(self._heap[0][0] - now if self._heap else None)
        return None
