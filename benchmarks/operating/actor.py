"""Acts as the Job controller, the kubelet and the trainer, as far as the operator can see them.

Not acted: scheduling, pulling, backing off, tracking finalizers of pods, retries, Events, training. A pod is Running at
once, its times are those of this machine, and a Job ends when it is told to.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

from operating.api import Json
from operating.world import Namespace
from trainingsession_operator.trainer_pod import CONTAINER

RESULT: Json = {
    "accuracy": 0.9625,
    "metrics": [{"name": "loss", "value": 0.25}],
    "artifacts": [{"name": "model.keras", "id": "a" * 24, "bytes": 1234, "sha256": "b" * 64}],
}


@dataclass(frozen=True)
class Attempt:
    """The pod of a session's Job."""

    session_uid: str
    job: str
    pod: str
    uid: str


class Actor:
    """Acts in one namespace."""

    def __init__(self, namespace: Namespace) -> None:
        self._there = namespace
        self._api = namespace.api

    def run(self, name: str) -> Attempt:
        """Make the pod of a session's Job and let its trainer run."""
        attempt = self.start(name)
        self.let_run(attempt)
        return attempt

    def start(self, name: str) -> Attempt:
        """Make the pod of a session's Job: Pending."""
        job = self._there.job_of(name)
        metadata, template = job["metadata"], job["spec"]["template"]
        owner = {"apiVersion": "batch/v1", "kind": "Job", "controller": True}
        owner |= {"name": metadata["name"], "uid": metadata["uid"]}
        pod = self._api.create(
            self._there.pods,
            {
                "metadata": {
                    "name": f"{metadata['name']}-{uuid.uuid4().hex[:5]}",
                    "labels": template["metadata"]["labels"],
                    "ownerReferences": [owner],
                },
                "spec": template["spec"],
            },
        )["metadata"]
        self._job_status(metadata["name"], {"startTime": now(), "active": 1})
        return Attempt(metadata["ownerReferences"][0]["uid"], metadata["name"], pod["name"], pod["uid"])

    def let_run(self, attempt: Attempt) -> None:
        """Let the trainer of a pod that is Pending run and claim its record."""
        self._pod_status(attempt, "Running", {"running": {"startedAt": now()}})
        self.write(attempt, attempt=attempt.uid)

    def write(self, attempt: Attempt, /, **fields: object) -> None:
        """Write fields of the record as the trainer does."""
        self._there.database["sessions"].update_one({"_id": attempt.session_uid}, {"$set": fields})

    def end_pod(self, attempt: Attempt) -> None:
        """Let the trainer exit with code 0."""
        terminated = {"exitCode": 0, "reason": "Completed", "startedAt": now(), "finishedAt": now()}
        self._pod_status(attempt, "Succeeded", {"terminated": terminated})

    def complete(self, attempt: Attempt) -> None:
        """Let the Job be Complete."""
        at = now()
        conditions = [
            {"type": kind, "status": "True", "reason": "CompletionsReached", "lastTransitionTime": at}
            for kind in ("SuccessCriteriaMet", "Complete")
        ]
        status = {"completionTime": at, "active": 0, "succeeded": 1, "uncountedTerminatedPods": {}}
        self._job_status(attempt.job, {**status, "conditions": conditions})

    def _job_status(self, job: str, status: Json) -> None:
        self._api.patch(f"{self._there.jobs}/{job}/status", {"status": status})

    def _pod_status(self, attempt: Attempt, phase: str, state: Json) -> None:
        container = {"name": CONTAINER, "image": "x", "imageID": "x", "ready": False, "restartCount": 0, "state": state}
        status = {"phase": phase, "containerStatuses": [container]}
        self._api.patch(f"{self._there.pods}/{attempt.pod}/status", {"status": status})


def now() -> str:
    """The time as Kubernetes writes it."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
