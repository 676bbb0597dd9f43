"""A real git server on 127.0.0.1: `git http-backend` behind a small web server, and a repository to serve."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import urlsplit

from local_server import Served

_IDENTITY = {f"GIT_{who}_{what}": "tests@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
_PLAIN = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null", **_IDENTITY}


class GitServer(Served):
    """Serves the repositories below a folder; with `password`, only to the user `reader`."""

    def __init__(self, folder: Path, password: str = "") -> None:
        self.folder = folder
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server._answer(self, b"")

            def do_POST(self) -> None:
                server._answer(self, self.rfile.read(int(self.headers.get("Content-Length") or 0)))

            def log_message(self, *_: object) -> None:
                """Keep quiet."""

        self._password = password
        super().__init__(Handler)

    def commit(
        self, name: str, files: Mapping[str, str], source: Path | None = None, object_format: str = "sha1"
    ) -> str:
        """Commit files, and the content of a folder, to the repository `name`; gives the commit."""
        return commit(self.folder / name, files, source, object_format)

    def _answer(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        import base64

        wanted = "Basic " + base64.b64encode(f"reader:{self._password}".encode()).decode()
        if self._password and request.headers.get("Authorization") != wanted:
            request.send_response(401)
            request.send_header("WWW-Authenticate", 'Basic realm="git"')
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        parts = urlsplit(request.path)
        environment = {
            **os.environ, **_PLAIN,
            "GIT_PROJECT_ROOT": str(self.folder), "GIT_HTTP_EXPORT_ALL": "1", "REQUEST_METHOD": request.command,
            "PATH_INFO": parts.path, "QUERY_STRING": parts.query, "CONTENT_LENGTH": str(len(body)),
            "CONTENT_TYPE": request.headers.get("Content-Type") or "",
            "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding") or "",
            "GIT_PROTOCOL": request.headers.get("Git-Protocol") or "",
        }  # fmt: skip
        done = subprocess.run(["git", "http-backend"], input=body, env=environment, capture_output=True, check=False)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().splitlines())
        request.send_response(int(headers.pop("Status", "200").split()[0]))
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(content)


def commit(where: Path, files: Mapping[str, str], source: Path | None = None, object_format: str = "sha1") -> str:
    """Commit files, and the content of a folder, to the repository at `where`, made if it is not there."""
    if not where.is_dir():
        _git(where.parent, "init", "--quiet", "--initial-branch=main", f"--object-format={object_format}", where.name)
    if source is not None:
        shutil.copytree(source, where, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    for path, text in files.items():
        (where / path).parent.mkdir(parents=True, exist_ok=True)
        (where / path).write_text(text, "utf-8")
    _git(where, "add", "--all")
    _git(where, "commit", "--quiet", "--allow-empty", "--message=Next")
    return _git(where, "rev-parse", "HEAD").strip()


def packed(where: Path) -> bytes:
    """Give the repository at `where` as a tar of what a server needs of it."""
    bare = where.with_name(f"{where.name}.bare")
    _git(where.parent, "clone", "--quiet", "--bare", "--template=", where.name, bare.name)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        archive.add(bare, ".")
    return out.getvalue()


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env={**os.environ, **_PLAIN}, capture_output=True, text=True, check=True
    )
    return done.stdout
