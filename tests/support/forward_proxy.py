"""A real forward proxy, TLS in front of a plain server, and an authority of the test's own: all on 127.0.0.1.

The proxy takes every name for this machine, so a name that nobody else knows proves that a request went through it.
"""

from __future__ import annotations

import select
import socket
import socketserver
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


@contextmanager
def _running(server: socketserver.TCPServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class ForwardProxy:
    """`CONNECT host:port` for https, `GET http://…` for http; `asked` are the hosts of all requests."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.uri = ""

    @contextmanager
    def running(self) -> Iterator[ForwardProxy]:
        """Serve while the block runs."""
        proxy = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                method, target, _ = self.rfile.readline().decode("latin-1").split(" ", 2)
                head = b"".join(iter(self.rfile.readline, b"\r\n"))
                parts = urlsplit(target if "://" in target else f"//{target}")
                proxy.asked.append(parts.hostname or "")
                with socket.create_connection(("127.0.0.1", parts.port or 80)) as far:
                    if method == "CONNECT":
                        self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                    else:
                        path = parts._replace(scheme="", netloc="").geturl() or "/"
                        far.sendall(f"{method} {path} HTTP/1.1\r\n".encode() + head + b"\r\n")
                    _pipe(self.connection, far)

        with _running(_Server(("127.0.0.1", 0), Handler)) as port:
            self.uri = f"http://127.0.0.1:{port}"
            yield self


@contextmanager
def tls_in_front_of(port: int, authority: Authority) -> Iterator[int]:
    """Take TLS on another port, which is given, and hand on what comes to `port`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.folder / "server.pem", authority.folder / "server.key")

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with (
                suppress(OSError),
                context.wrap_socket(self.request, server_side=True) as near,
                socket.create_connection(("127.0.0.1", port)) as far,
            ):
                _pipe(near, far)

    with _running(_Server(("127.0.0.1", 0), Handler)) as own:
        yield own


class Authority:
    """A certificate authority, and a server's certificate that it signed for *.example.test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certificate = folder / "ca.crt"
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        usage = ("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
        self._openssl("req", "-x509", *curve, "-days", "2", "-subj", "/CN=Authority of a test", *usage,
                      "-keyout", "ca.key", "-out", "ca.crt")  # fmt: skip
        self._openssl("req", *curve, "-subj", "/CN=example.test", "-keyout", "server.key", "-out", "server.csr")
        (folder / "names").write_text("subjectAltName=DNS:*.example.test\nauthorityKeyIdentifier=keyid\n")
        self._openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
                      "-days", "2", "-extfile", "names", "-out", "server.pem")  # fmt: skip

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)


def _pipe(near: socket.socket, far: socket.socket) -> None:
    """Carry bytes both ways until either side has ended."""
    while True:
        pending = isinstance(near, ssl.SSLSocket) and near.pending()
        ready = [near] if pending else select.select([near, far], [], [], 30)[0]
        if not ready:
            return
        for source in ready:
            data = source.recv(1 << 16)
            if not data:
                return
            (far if source is near else near).sendall(data)
