"""A trainer as a pod runs it: its files, and the process in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any


class Pod:
    """The files that a pod has mounted, and the process in it."""

    def __init__(self, folder: Path, uri: str, database: str, spec: Any, name: str = "quick") -> None:
        self.folder = folder
        self.uid = str(uuid.uuid4())
        self.termination_log = folder / "termination-log"
        for part in ("session", "mongodb", "work"):
            (folder / part).mkdir(parents=True)
        self.termination_log.touch()
        document = {
            "apiVersion": "trainingsession.dev/v1alpha1",
            "kind": "TrainingSession",
            "metadata": {"namespace": "team-a", "name": name, "uid": self.uid},
            "spec": spec,
        }
        (folder / "session/session.json").write_text(json.dumps(document), "utf-8")
        (folder / "session/cpu-limit").write_text("2000", "ascii")
        (folder / "session/memory-limit").write_text("4096", "ascii")
        (folder / "mongodb/uri").write_text(uri + "\n", "utf-8")
        (folder / "mongodb/database").write_text(database, "utf-8")
        self.replace()

    def replace(self) -> None:
        """Become another pod of the same Job."""
        self.attempt = str(uuid.uuid4())
        (self.folder / "session/pod-uid").write_text(self.attempt, "ascii")

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "trainingsession_trainer", "--session", self.folder / "session/session.json"]
        command += ["--mongodb", self.folder / "mongodb", "--work", self.folder / "work"]
        command += ["--termination-log", self.termination_log]
        # As on a test cluster, where a GPU is one in name.
        plain = {**os.environ, "TRAININGSESSION_GPUS": "optional", **environment}
        return subprocess.Popen(
            [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=plain
        )

    def run(self, *arguments: str, **environment: str) -> tuple[int, str, str]:
        """Run to the end; returns exit code, stdout, stderr."""
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=600)
        return process.returncode, out, err
