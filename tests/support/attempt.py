"""One attempt at a session as the operator sees it: a pod's status, and the record that its trainer writes.

The Job controller that made the pod is Kubernetes' own; this is the kubelet and the trainer. There is no container and
no scheduler: nothing is computed, no node is named, no probe is asked. The record is written by the trainer's own code
through the user and the database of the namespace's Secret; accuracy and artifacts are made up, the files are real.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from gridfs import GridFSBucket
from kubernetes import client

from trainingsession_trainer.mongodb import connect
from trainingsession_trainer.records import Artifact, Result, SessionRecord

Json = dict[str, Any]
TRAINER = {"image": "example.org/trainer:1", "versions": {"keras": "3"}}


class Attempt:
    """The kubelet's and the trainer's part for one pod; `mongodb` is the address of mongod itself, past any proxy."""

    def __init__(self, api: client.ApiClient, mongodb: str, session_uid: str, pod: Json) -> None:
        self._core = client.CoreV1Api(api)
        self.namespace, self.name, self.uid = (pod["metadata"][key] for key in ("namespace", "name", "uid"))
        self.session_uid = session_uid
        self._started = _now()
        secret = self._core.read_namespaced_secret("trainingsession-mongodb", self.namespace).data
        uri, database = (base64.b64decode(secret[key]).decode() for key in ("uri", "database"))
        parts = urlsplit(uri)
        near = parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@{mongodb}").geturl()
        self.database = connect(near, database)
        self.record = SessionRecord(self.database, session_uid, self.uid)

    def start(self) -> None:
        """The container runs, and the trainer extracts."""
        self.record.claim(TRAINER)
        self.run()

    def run(self) -> None:
        """The container runs; the trainer has said nothing yet."""
        self._say("Running", {"running": {"startedAt": self._started}})

    def train(self) -> None:
        self.record.describe({"train": 80, "validation": 20, "test": 20}, {"shards": 7, "reused": 0, "computed": 7})
        self.record.progress("Training", {"epoch": 1, "epochs": 20, "percent": 5, "loss": 1.5})

    def publish(self, accuracy: float) -> Json:
        """Store two files and publish; returns the result as it stands in the record."""
        self.record.measured(accuracy)
        bucket, files = GridFSBucket(self.database, "artifacts"), []
        for name in ("model.keras", "head.weights.h5"):
            content = f"{name} of {self.uid}".encode() * 1000
            file_id = bucket.upload_from_stream(name, content)
            files.append(Artifact(name, str(file_id), len(content), hashlib.sha256(content).hexdigest()))
        result = Result(accuracy, {"accuracy": accuracy, "loss": 0.5}, tuple(files))
        self.record.publish(result)
        return result.document()

    def end(self, code: int, message: str = "") -> None:
        """The trainer ends, with its last sentence in the record, and the kubelet says so."""
        if code and message:
            self.record.fail(code, message)
        terminated = {
            "exitCode": code, "reason": "Error" if code else "Completed", "message": message,
            "startedAt": self._started, "finishedAt": _now(),
        }  # fmt: skip
        self._say("Failed" if code else "Succeeded", {"terminated": terminated})
        self.close()

    def close(self) -> None:
        self.database.client.close()

    def _say(self, phase: str, state: Json) -> None:
        container = {"name": "trainer", "image": "x", "imageID": "x", "ready": False, "restartCount": 0, "state": state}
        body = {"status": {"phase": phase, "containerStatuses": [container]}}
        self._core.patch_namespaced_pod_status(self.name, self.namespace, body)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
