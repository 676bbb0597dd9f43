"""The operator as a process of its own, which can be killed and started again as often as a test likes.

Run as a script, this imports what the operator imports, once, and forks an operator for every line that it reads: a
start then costs a fork and not two seconds of imports. An operator has nothing of the one before it but the modules,
its environment and its command; it ends with the script.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import threading
import traceback
import urllib.error
import urllib.request
from pathlib import Path

from real_mongod import free_port

PR_SET_PDEATHSIG = 1


class OperatorProcess:
    """Operators one after the other, all with the same environment; their log lines are in one file."""

    def __init__(self, folder: Path, api_port: int, mongodb_uri: str, token: str = "any", **environment: str) -> None:
        """`api_port` is that of a proxy on this machine, which speaks plain HTTP; the environment is the chart's."""
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "operator.log"
        kubeconfig, uri = folder / "kubeconfig", folder / "mongodb-uri"
        kubeconfig.write_text(json.dumps(_kubeconfig(f"http://127.0.0.1:{api_port}", token)))
        uri.write_text(mongodb_uri)
        self.health_port = free_port()
        plain = {
            "KUBECONFIG": str(kubeconfig), "MONGODB_URI_FILE": str(uri), "TRAINER_IMAGE": "example.org/trainer:1",
            "HEALTH_PORT": str(self.health_port), "METRICS_PORT": str(free_port()),
            "WORKERS": "4",
        }  # fmt: skip
        self._lock = threading.RLock()
        self._process: int | None = None
        self.pid = 0
        with self.log.open("wb") as log:
            self._nursery = subprocess.Popen(
                [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                env={**os.environ, **plain, **environment},
            )  # fmt: skip

    def start(self) -> None:
        """Start an operator; it is not ready when this returns."""
        with self._lock:
            assert not self.is_alive()
            assert self._nursery.stdin is not None
            assert self._nursery.stdout is not None
            self._nursery.stdin.write(b"\n")
            self._nursery.stdin.flush()
            self.pid = int(self._nursery.stdout.readline())
            self._process = os.pidfd_open(self.pid)

    def is_alive(self) -> bool:
        return self._process is not None and not select.select([self._process], [], [], 0)[0]

    def kill(self) -> None:
        """End it as a lost node would: nothing in it runs any more when this returns."""
        self._end(signal.SIGKILL, 10)

    def stop(self) -> None:
        """End it as Kubernetes would."""
        self._end(signal.SIGTERM, 30)

    def wait(self, seconds: float) -> None:
        """Wait until it has ended by itself."""
        assert self._process is not None
        assert select.select([self._process], [], [], seconds)[0], f"the operator still runs after {seconds} s"

    def _end(self, how: signal.Signals, seconds: float) -> None:
        with self._lock:
            if self.is_alive():
                assert self._process is not None
                signal.pidfd_send_signal(self._process, how)
                self.wait(seconds)
            if self._process is not None:
                os.close(self._process)
                self._process = None

    def probe(self) -> int:
        """Code of the liveness probe's answer; 0 where there is none."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.health_port}/healthz", timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def said(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-4000:]

    def close(self) -> None:
        self.kill()
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        self._nursery.stdin.close()
        self._nursery.wait(30)
        self._nursery.stdout.close()


def _kubeconfig(server: str, token: str) -> dict[str, object]:
    return {
        "apiVersion": "v1", "kind": "Config", "current-context": "it",
        "clusters": [{"name": "it", "cluster": {"server": server}}],
        "users": [{"name": "it", "user": {"token": token}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
    }  # fmt: skip


def _bear() -> None:
    """Fork an operator for every line."""
    from trainingsession_operator import __main__ as operator

    # Nobody waits for those that end.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while os.read(0, 1):
        child = os.fork()
        if child:
            os.write(1, f"{child}\n".encode())
            continue
        code = 70
        try:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(2, 1)
            code = operator.main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        except Exception:  # noqa: BLE001 - it is told, and the process ends
            traceback.print_exc()
        finally:
            os._exit(code)


if __name__ == "__main__":
    _bear()
