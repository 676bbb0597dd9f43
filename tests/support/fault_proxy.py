"""Faults between the operator and a real API server: a proxy that refuses, holds, loses answers, drops and stalls.

It also ends watches with 410, and kills the operator right after its k-th write (see killer.py). It speaks plain
HTTP/1.1 to the operator and HTTPS to the API server, and passes on no upgrade of the protocol (exec, attach).
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from killer import LOST, Json, Killer, Sockets, Write, shut

REASONS = {
    403: "Forbidden", 404: "NotFound", 409: "Conflict", 410: "Expired", 422: "Invalid", 429: "TooManyRequests",
    500: "InternalError", 503: "ServiceUnavailable",
}  # fmt: skip


@dataclass(frozen=True)
class Request:
    """What the operator asked of the API server."""

    method: str
    path: str
    query: str
    body: bytes

    @property
    def is_write(self) -> bool:
        return self.method in ("POST", "PUT", "PATCH", "DELETE")

    @property
    def is_watch(self) -> bool:
        return "watch" in parse_qs(self.query)

    @property
    def name(self) -> str:
        """Method and resource, such as "PATCH trainingsessions/status"."""
        found = re.search(r"/v1\w*/(?:namespaces/[^/]+/)?([a-z]+)(?:/[^/]+(/[a-z]+)?)?$", self.path)
        return f"{self.method} {found[1]}{found[2] or ''}" if found else f"{self.method} {self.path}"


Where = Callable[[Request], bool]


def everything(_: Request) -> bool:
    return True


def writes(request: Request) -> bool:
    return request.is_write


@dataclass(eq=False)
class _Rule:
    """A fault for the requests that it is for; `times` of them at most."""

    where: Where
    times: float
    code: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    until: threading.Event | None = None
    """The request waits for it before it is passed on."""
    loses: bool = False
    """The request is passed on, and its answer is not."""


@dataclass(eq=False)
class _Watch:
    """A watch that is open."""

    request: Request
    upstream: socket.socket
    stalled: bool = False
    gone: int = 0
    """Code of the error with which it was ended."""


class ApiProxy:
    """A proxy before the API server; `requests` and `written` are the audit of everything that was asked."""

    def __init__(self, port: int, certificate: str, killer: Killer) -> None:
        self._target = port
        self._tls = ssl.create_default_context(cafile=certificate)
        self._killer = killer
        self._changed = threading.Condition()
        self._rules: list[_Rule] = []
        self._watches: list[_Watch] = []
        self._released = threading.Event()
        self._sockets = Sockets()
        self.requests: list[tuple[float, Request, int]] = []
        """When, what and the answer's code; of a watch at its beginning, and 0 where the answer was lost."""
        self.written: list[Write] = []
        killer.disconnect.append(self.disconnect)
        self.port = 0
        self.up()

    def up(self) -> None:
        """Take connections; after `down` on the same port."""
        self._http = ThreadingHTTPServer(("127.0.0.1", self.port), self._handler(), bind_and_activate=False)
        self._http.daemon_threads = True
        self._http.request_queue_size = 128
        self._http.server_bind()
        self._http.server_activate()
        self.port = self._http.server_port
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def down(self) -> None:
        """Refuse connections, and drop those that are open."""
        self._http.shutdown()
        self._http.server_close()
        self.disconnect()

    def disconnect(self) -> None:
        """Drop all connections."""
        self._sockets.shut()

    @contextmanager
    def answering(
        self, code: int, where: Where = everything, times: float = float("inf"), **headers: str
    ) -> Iterator[None]:
        """Answer with this code instead of asking the API server; headers as Retry_After="2"."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with self._ruled(_Rule(where, times, code, named)):
            yield

    @contextmanager
    def losing_answers(self, where: Where = writes, times: float = float("inf")) -> Iterator[None]:
        """Have requests done, and drop the connection instead of answering."""
        with self._ruled(_Rule(where, times, loses=True)):
            yield

    @contextmanager
    def holding(self, where: Where = everything) -> Iterator[None]:
        """Keep requests waiting as long as the block."""
        rule = _Rule(where, float("inf"), until=threading.Event())
        try:
            with self._ruled(rule):
                yield
        finally:
            assert rule.until is not None
            rule.until.set()

    @contextmanager
    def _ruled(self, rule: _Rule) -> Iterator[None]:
        with self._changed:
            self._rules.append(rule)
        try:
            yield
        finally:
            with self._changed:
                self._rules.remove(rule)

    def end_watches(self, where: Where = everything, code: int = 410) -> int:
        """End the open watches as the API server does when their version is too old, or otherwise; returns how many."""
        with self._changed:
            found = [watch for watch in self._watches if where(watch.request)]
            for watch in found:
                watch.gone = code
        for watch in found:
            shut(watch.upstream)
        return len(found)

    def stall_watches(self, where: Where = everything) -> int:
        """Pass on nothing more on the open watches, which stay open; returns how many."""
        with self._changed:
            found = [watch for watch in self._watches if where(watch.request)]
            for watch in found:
                watch.stalled = True
        return len(found)

    def wait_for(self, what: str, holds: Callable[[], bool], seconds: float = 60) -> None:
        """Wait until it holds of what was asked so far."""
        with self._changed:
            assert self._changed.wait_for(holds, seconds), f"not within {seconds} s: {what}"

    def open_watches(self) -> int:
        return len(self._watches)

    def close(self) -> None:
        self._released.set()
        self.down()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                proxy._sockets.add(self.connection)
                self.upstream: http.client.HTTPSConnection | None = None
                self.far: socket.socket | None = None

            def finish(self) -> None:
                with suppress(*LOST):
                    super().finish()
                proxy._sockets.discard(self.far)
                proxy._sockets.discard(self.connection)

            def handle(self) -> None:
                with suppress(*LOST):
                    super().handle()

            def connect(self) -> http.client.HTTPSConnection:
                if self.upstream is None:
                    self.upstream = http.client.HTTPSConnection("127.0.0.1", proxy._target, context=proxy._tls)
                    self.upstream.connect()
                    self.far = self.upstream.sock
                    proxy._sockets.add(self.far)
                return self.upstream

            def pass_on(self) -> None:
                proxy._pass_on(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = pass_on  # noqa: N815 - the parent's names

            def log_message(self, *_: object) -> None:
                """The audit has it."""

        return Handler

    def _rule_for(self, request: Request) -> _Rule | None:
        with self._changed:
            rule = next((rule for rule in self._rules if rule.times > 0 and rule.where(request)), None)
            if rule is not None:
                rule.times -= 1
            return rule

    def _note(self, request: Request, code: int) -> None:
        with self._changed:
            self.requests.append((time.monotonic(), request, code))
            self._changed.notify_all()

    def _pass_on(self, handler: Any) -> None:
        parts = urlsplit(handler.path)
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        request = Request(handler.command, parts.path, parts.query, body)
        rule = self._rule_for(request)
        if rule is not None and rule.code:
            self._note(request, rule.code)
            _answer(handler, rule.code, refusal(rule.code), {"Content-Type": "application/json", **rule.headers})
            return
        if rule is not None and rule.until is not None:
            rule.until.wait()
        hop_by_hop = ("host", "connection", "accept-encoding", "content-length")
        headers = {key: value for key, value in handler.headers.items() if key.lower() not in hop_by_hop}
        connection = handler.connect()
        connection.request(request.method, handler.path, body or None, headers)
        response = connection.getresponse()
        if request.is_watch and response.status == 200:
            self._note(request, response.status)
            self._stream(handler, request, response)
            return
        data = response.read()
        lost = rule is not None and rule.loses
        if request.is_write:
            text = handler.path.encode() + b" " + body
            write = Write(request.name, text, response.status, json.loads(data or b"{}"))
            with self._changed:
                self.written.append(write)
        self._note(request, 0 if lost else response.status)
        if lost:
            handler.close_connection = True
            return
        kind = {"Content-Type": response.headers.get("Content-Type", "application/json")}
        answer = lambda: _answer(handler, response.status, data, kind)  # noqa: E731
        if request.is_write:
            self._killer.pass_on(write, answer)
        else:
            answer()

    def _stream(self, handler: Any, request: Request, response: http.client.HTTPResponse) -> None:
        watch = _Watch(request, handler.far)
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        # After a watch was ended by force, its connection is of no use for another request.
        handler.close_connection = True
        with self._changed:
            self._watches.append(watch)
            self._changed.notify_all()
        try:
            whole = True
            with suppress(*LOST):
                while data := response.read1(1 << 16):
                    if watch.stalled:
                        # The operator's end of the connection tells it nothing, until it closes it itself.
                        self._released.wait()
                        return
                    handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                    whole = data.endswith(b"\n")
            if watch.gone:
                assert whole, "a watch is ended between two events only"
                line = json.dumps({"type": "ERROR", "object": json.loads(refusal(watch.gone))}).encode() + b"\n"
                handler.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            if not watch.stalled:
                handler.wfile.write(b"0\r\n\r\n")
            else:
                self._released.wait()
        finally:
            with self._changed:
                self._watches.remove(watch)
                self._changed.notify_all()


def refusal(code: int) -> bytes:
    """The API server's words for a refusal that it did not make."""
    status = {
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": REASONS.get(code, ""),
        "message": f"{code} by the test's proxy",
    }  # fmt: skip
    return json.dumps(status).encode()


def _answer(handler: Any, code: int, body: bytes, headers: Json) -> None:
    handler.send_response(code)
    for name, value in {**headers, "Content-Length": str(len(body))}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)
