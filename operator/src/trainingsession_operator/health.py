"""Whether the operator is alive and ready, and the two HTTP paths that tell the kubelet."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from .queue import Key, WorkQueue

WATCH_SECONDS = 120.0
"""A status that we wrote comes back through the watch at once; kopf itself restarts a silent watch after 70 s."""
WORK_SECONDS = 180.0
"""A look at a session is a few calls, of which each is given up after 30 s at most."""


class Watchdog:
    """Notices a dead watch: every status that the operator writes must come back as an event."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._expected: dict[Key, tuple[int, float]] = {}
        self._newest: dict[str, int] = {}

    def wrote(self, key: Key, version: str) -> None:
        """Expect an event of `key` with at least this resourceVersion, unless the watch is past it already.

        The event of a write, or of a deletion after it, can come before the API server's answer to the write.
        """
        with self._lock:
            if int(version) <= self._newest.get(key[0], 0):
                return
            _, since = self._expected.get(key, (0, self._clock()))
            self._expected[key] = (int(version), since)

    def saw(self, key: Key, version: str) -> None:
        """Note an event of `key`. A watch gives the events of a namespace in the order of their versions."""
        with self._lock:
            self._newest[key[0]] = max(int(version), self._newest.get(key[0], 0))
            expected = self._expected.get(key)
            if expected and int(version) >= expected[0]:
                del self._expected[key]

    def forget(self, key: Key) -> None:
        """The session is gone; nothing more is expected of it."""
        with self._lock:
            self._expected.pop(key, None)

    def silence(self) -> tuple[float, Key | None]:
        """Seconds for which the oldest expected event has not come, and its key."""
        with self._lock:
            if not self._expected:
                return 0.0, None
            key = min(self._expected, key=lambda k: self._expected[k][1])
            return self._clock() - self._expected[key][1], key


def why_dead(watchdog: Watchdog, queue: WorkQueue, threads: Sequence[threading.Thread] = ()) -> str:
    """Say in one sentence why the operator should be restarted; empty when it should not.

    `threads` live as long as the process.
    """
    for thread in threads:
        if not thread.is_alive():
            return f"the thread {thread.name} has ended; the log says why"
    silent, key = watchdog.silence()
    if key is not None and silent > WATCH_SECONDS:
        return (
            f"the watch of sessions is dead: a status of {'/'.join(key)} was written {silent:.0f} s ago and never seen"
        )
    busy, key = queue.longest_work()
    if key is not None and busy > WORK_SECONDS:
        return f"a worker has been at session {'/'.join(key)} for {busy:.0f} s"
    return ""


def serve_readiness(port: int, why_not_ready: Callable[[], str]) -> ThreadingHTTPServer:
    """Serve /readyz in a thread of its own: 200, or 503 with the sentence. kopf serves only one path, the liveness."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            reason = why_not_ready() if self.path == "/readyz" else "there is only /readyz"
            body = (reason or "ready").encode() + b"\n"
            self.send_response(503 if reason else 200)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the parent's name
            """Probes are not worth a line."""

    server = ThreadingHTTPServer(("", port), Handler)
    threading.Thread(target=server.serve_forever, name="readiness", daemon=True).start()
    return server
