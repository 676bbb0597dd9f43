"""The real cluster of `make cluster`, driven by kubectl and helm as a user would."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Finished:
    """A command that ended: its exit code and what it printed."""

    code: int
    stdout: str
    stderr: str


class Cluster:
    """kubectl and helm with the project's own kubeconfig; never another cluster."""

    def __init__(self, repo: Path) -> None:
        self.repo = repo
        self.kubeconfig = repo / ".cluster" / "kubeconfig"
        self.tools = repo / ".cluster" / "bin"

    def run(self, *command: str, stdin: str | None = None, timeout: float = 300) -> Finished:
        """Run a command with this cluster's kubeconfig and tools; never raises for its exit code."""
        done = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            cwd=self.repo,
            env=self.environment(),
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    @contextlib.contextmanager
    def started(self, *command: str) -> Iterator[subprocess.Popen[str]]:
        """A command that runs as long as the block."""
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, cwd=self.repo, env=self.environment()
        ) as process:
            try:
                yield process
            finally:
                process.terminate()

    def environment(self) -> dict[str, str]:
        """Environment of a command that is for this cluster."""
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig), "PATH": f"{self.tools}:{os.environ['PATH']}"}

    def ok(self, *command: str, stdin: str | None = None, timeout: float = 300) -> str:
        """Standard output of a command that must succeed."""
        done = self.run(*command, stdin=stdin, timeout=timeout)
        assert done.code == 0, f"{' '.join(command)}\nexit code {done.code}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout: float = 300) -> str:
        return self.ok("kubectl", *arguments, stdin=stdin, timeout=timeout)

    def helm(self, *arguments: str, timeout: float = 300) -> str:
        return self.ok("helm", *arguments, timeout=timeout)

    def get(self, *arguments: str) -> Any:
        """Parsed JSON of `kubectl get`; an empty list's items where nothing is there."""
        return json.loads(self.kubectl("get", "-o", "json", *arguments))

    def apply(self, *documents: dict[str, Any], namespace: str = "default") -> str:
        stdin = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(documents)})
        return self.kubectl("apply", "-n", namespace, "-f", "-", stdin=stdin)

    def namespace(self, name: str) -> str:
        """A fresh namespace under Pod Security `restricted`."""
        self.delete_namespace(name)
        self.kubectl("create", "namespace", name)
        self.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
        return name

    def download(self, namespace: str, session: str, artifact: str, target: Path) -> str:
        """Write an artifact to a file by the README's command; gives what it says at its end."""
        with target.open("wb") as file:
            done = subprocess.run(
                ["kubectl", "exec", "-n", "trainingsession", "deploy/trainingsession-operator", "--",
                 "python", "-m", "trainingsession_operator.download", namespace, session, artifact],
                stdout=file, stderr=subprocess.PIPE, check=False, timeout=300, env=self.environment(),
            )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        return done.stderr.decode()

    def delete_namespace(self, name: str) -> None:
        self.kubectl("delete", "namespace", name, "--ignore-not-found", "--timeout=180s")

    def wait_for(self, what: str, check: Callable[[], Any], seconds: float = 120) -> Any:
        """Ask until `check` gives something true; fails with `what` after `seconds`."""
        end = time.monotonic() + seconds
        while True:
            found = check()
            if found:
                return found
            assert time.monotonic() < end, f"{what}: not so after {seconds:.0f} s"
            time.sleep(0.5)

    def session(self, namespace: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.get("ts", name, "-n", namespace)
        return found

    def wait_finished(self, namespace: str, name: str, seconds: float = 600) -> dict[str, Any]:
        """The session when it is at either end."""
        done = self.run(
            "kubectl", "wait", "-n", namespace, f"ts/{name}", "--for=condition=Finished", f"--timeout={seconds:.0f}s",
            timeout=seconds + 30,
        )  # fmt: skip
        session = self.session(namespace, name)
        assert done.code == 0, f"{done.stderr}\n{json.dumps(session.get('status'), indent=1)}"
        return session


def condition(session: dict[str, Any], kind: str) -> dict[str, Any]:
    """The condition of that type, or an empty one."""
    conditions = session.get("status", {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == kind), {})
