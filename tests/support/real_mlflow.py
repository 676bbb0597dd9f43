"""A real MLflow server on loopback, in an environment of its own that is made once from requirements/mlflow.txt."""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import urllib3

from real_mongod import free_port

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trainingsession"


def environment(repo: Path) -> Path:
    """Give the environment's folder; skips with a reason where it cannot be made, and fails in CI."""
    lock = repo / "requirements/mlflow.txt"
    folder = _CACHE / f"mlflow-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    installers = sorted(_CACHE.glob("uv-*/bin/uv"))
    if not (folder / "complete").is_file() and not installers:
        _missing(f"{_CACHE} holds no uv that could install MLflow; run make sync")
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / "mlflow.lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not (folder / "complete").is_file():
            uv = str(installers[-1])
            plain = {**os.environ, "UV_SYSTEM_CERTS": "1"}
            install = [uv, "pip", "install", "--quiet", "--python", str(folder), "--require-hashes", "-r", str(lock)]
            for command in ([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], install):
                done = subprocess.run(command, env=plain, capture_output=True, text=True, check=False)
                if done.returncode:
                    _missing(f"MLflow cannot be installed: {done.stderr[-500:]}")
            (folder / "complete").touch()
    return folder


class RealMlflow:
    """The server, with all that it stores in `folder`."""

    def __init__(self, folder: Path, environment: Path) -> None:
        self._folder = folder
        self._program = environment / "bin/mlflow"
        self.uri = f"http://127.0.0.1:{free_port()}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and return when it answers."""
        port = self.uri.rpartition(":")[2]
        command = [str(self._program), "server", "--host", "127.0.0.1", "--port", port, "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self._folder}/store.db"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        plain = {"PATH": f"{self._program.parent}:{os.environ['PATH']}", "HOME": str(self._folder)}
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=self._folder, env=plain, stdout=log, stderr=log, start_new_session=True
            )
        http, end = urllib3.PoolManager(), time.monotonic() + 180
        while True:
            try:
                if http.request("GET", f"{self.uri}/health", retries=False, timeout=5).status == 200:
                    return
            except urllib3.exceptions.HTTPError:
                pass
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError((self._folder / "log").read_text(errors="replace")[-3000:])
            time.sleep(0.2)

    def stop(self) -> None:
        """End it and its workers."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _missing(why: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)
