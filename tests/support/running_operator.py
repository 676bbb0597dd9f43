"""The operator as its own process, as in its Deployment, against an API server and a MongoDB that a test runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from kubernetes import client

from real_mongod import free_port


class RunningOperator:
    """One process; its log is read as it is written."""

    def __init__(self, folder: Path, api: client.ApiClient, mongodb: str, namespace: str, **environment: str) -> None:
        self.ports = {"HEALTH_PORT": free_port(), "METRICS_PORT": free_port()}
        (folder / "kubeconfig").write_text(json.dumps(kubeconfig(api)))
        (folder / "mongodb").write_text(mongodb)
        self._environment = {
            **os.environ,
            "KUBECONFIG": str(folder / "kubeconfig"),
            "MONGODB_URI_FILE": str(folder / "mongodb"),
            "MONGODB_USERS": "shared",
            "TRAINER_IMAGE": "example.org/trainer:1",
            "PYTHONOPTIMIZE": "2",  # as in the image
            "WATCH_NAMESPACES": namespace,
            "LOG_FORMAT": "json",
            **{name: str(port) for name, port in self.ports.items()},
            **environment,
        }
        self.lines: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it; returns at once."""
        command = [sys.executable, "-m", "trainingsession_operator"]
        self.process = subprocess.Popen(command, env=self._environment, stderr=subprocess.PIPE, text=True)
        threading.Thread(target=self._read, args=(self.process,), daemon=True).start()

    def wait_for_line(self, part: str, after: int = 0, seconds: float = 60.0) -> dict[str, Any]:
        """The first line of the log with `part` in its message, behind the first `after` lines."""

        def found() -> dict[str, Any] | None:
            return next((line for line in self.lines[after:] if part in line.get("message", "")), None)

        with self._changed:
            if not self._changed.wait_for(lambda: found() is not None, seconds):
                raise TimeoutError(f"no line with {part!r} after {seconds:.0f} s:\n{self.log()}")
            return dict(found() or {})

    def probe(self, port: str, path: str) -> tuple[int, str]:
        """Code and body of an HTTP answer; `port` is HEALTH_PORT or METRICS_PORT.

        kopf opens the one for health in its own time, after the operator's own words that it serves.
        """
        end = time.monotonic() + 20
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[port]}{path}", timeout=20) as answer:
                    return int(answer.status), answer.read().decode()
            except urllib.error.HTTPError as refused:
                return refused.code, refused.read().decode()
            except urllib.error.URLError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)

    def terminate(self, seconds: float) -> int:
        """SIGTERM, and the exit code; subprocess.TimeoutExpired where the process is there after `seconds`."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def kill(self) -> None:
        """End it as a crash would, where it has not ended yet."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(30)

    def log(self) -> str:
        """All that was logged."""
        return "\n".join(json.dumps(line) for line in self.lines)

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        for text in process.stderr:
            try:
                line = json.loads(text)
            except ValueError:
                line = {"message": text.rstrip(), "unformatted": True}
            with self._changed:
                self.lines.append(line)
                self._changed.notify_all()


def kubeconfig(api: client.ApiClient) -> dict[str, Any]:
    """A kubeconfig with the address and the rights of this client."""
    at = api.configuration
    cluster = {"server": at.host, "certificate-authority": at.ssl_ca_cert}
    return {
        "apiVersion": "v1", "kind": "Config", "current-context": "it",
        "clusters": [{"name": "it", "cluster": cluster}],
        "users": [{"name": "it", "user": {"token": at.api_key["authorization"].removeprefix("Bearer ")}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
    }  # fmt: skip
