"""A real web server on 127.0.0.1 whose answers a test writes down one after the other."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

Answer = Callable[[BaseHTTPRequestHandler], None]


class Served:
    """Requests to an address of its own on 127.0.0.1, answered while a block runs."""

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.uri = f"http://127.0.0.1:{self._http.server_port}"

    @contextmanager
    def running(self) -> Iterator[Self]:
        """Serve while the block runs."""
        thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            self._http.server_close()
            thread.join()


class LocalServer(Served):
    """Gives `answers` in turn, the last one for ever; `paths` are the addresses that were asked for."""

    def __init__(self, *answers: Answer) -> None:
        self.paths: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.paths.append(self.path)
                # One connection for one answer, however it ends.
                self.close_connection = True
                # A client may have had enough before the end.
                with suppress(ConnectionError):
                    answers[min(len(server.paths), len(answers)) - 1](self)

            def log_message(self, *_: object) -> None:
                """Keep quiet."""

        super().__init__(Handler)


def content(body: bytes, *, length: int | None = None) -> Answer:
    """Answer with `body`; a larger `length` is a promise that is not kept."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(body) if length is None else length))
        request.end_headers()
        request.wfile.write(body)

    return answer


def chunked(chunks: Iterable[bytes], *, complete: bool = True) -> Answer:
    """Answer in chunks without saying how long it will be; an incomplete answer has no end mark."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        for chunk in chunks:
            request.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        if complete:
            request.wfile.write(b"0\r\n\r\n")

    return answer


def status(code: int, **headers: str) -> Answer:
    """Answer with a status and no content."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(code)
        for name, value in {**headers, "Content-Length": "0"}.items():
            request.send_header(name, value)
        request.end_headers()

    return answer


def hang_up(request: BaseHTTPRequestHandler) -> None:
    """Close the connection without an answer."""
    request.connection.shutdown(socket.SHUT_RDWR)
