"""Whether the operator is alive and ready, and the HTTP paths that tell the kubelet and Prometheus."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from .metrics import CONTENT_TYPE, Metrics
from .queue import Key, WorkQueue

WATCH_SECONDS = 120.0
"""A status that we wrote comes back through the watch at once; kopf itself restarts a silent watch after 70 s."""
WORK_SECONDS = 180.0
"""A look at a session is a few calls, of which each is given up after 30 s at most."""
CLIENT_SECONDS = 10.0
TEXT = "text/plain; charset=utf-8"


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

    def saw(self, key: Key, version: str) -> bool:
        """Note an event of `key`; returns whether it is known to be of our own write.

        A watch gives the events of a namespace in the order of their versions.
        """
        with self._lock:
            self._newest[key[0]] = max(int(version), self._newest.get(key[0], 0))
            expected = self._expected.get(key)
            if expected and int(version) >= expected[0]:
                del self._expected[key]
            return expected is not None and int(version) == expected[0]

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


def why_dead(
    watchdog: Watchdog,
    queue: WorkQueue,
    threads: Sequence[threading.Thread] = (),
    why_lost: Callable[[], str] = lambda: "",
) -> str:
    """Say in one sentence why the operator should be restarted; empty when it should not.

    `threads` live as long as the process; `why_lost` says which events the watch has lost. That MongoDB is away is no
    reason: a restart would not bring it back.
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
    return why_lost()


def serve(port: int, why_not_ready: Callable[[], str], metrics: Metrics) -> ThreadingHTTPServer:
    """Serve /readyz (200, or 503 with the sentence) and /metrics in threads of their own.

    kopf serves only one path, the liveness.
    """

    class Handler(BaseHTTPRequestHandler):
        # Nobody holds a thread by being slow.
        timeout = CLIENT_SECONDS

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                self._answer(200, CONTENT_TYPE, metrics.expose())
            elif path == "/readyz":
                reason = why_not_ready()
                self._answer(503 if reason else 200, TEXT, (reason or "ready").encode() + b"\n")
            else:
                self._answer(404, TEXT, b"there are only /readyz and /metrics\n")

        def _answer(self, code: int, content_type: str, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the parent's name
            """Probes are not worth a line."""

    server = ThreadingHTTPServer(("", port), Handler)
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    return server
