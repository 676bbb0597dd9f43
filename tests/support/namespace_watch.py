"""What a namespace's sessions, Jobs and pods are now and ever were, as watches of a real API server tell it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import urllib3
from kubernetes import client

Json = dict[str, Any]
PATHS = {
    "sessions": "/apis/trainingsession.dev/v1alpha1/namespaces/{}/trainingsessions",
    "jobs": "/apis/batch/v1/namespaces/{}/jobs",
    "pods": "/api/v1/namespaces/{}/pods",
}


class NamespaceWatch:
    """Follows them from its beginning until the API server ends; a test waits here instead of asking again."""

    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        self._api = api
        self._changed = threading.Condition()
        self.now: dict[str, dict[str, Json]] = {kind: {} for kind in PATHS}
        """What is there, by kind and UID."""
        self.history: dict[str, list[Json]] = {kind: [] for kind in PATHS}
        """Every version that was there."""
        for kind, path in PATHS.items():
            follow = (kind, path.format(namespace))
            threading.Thread(target=self._follow, args=follow, name=f"watch of {kind}", daemon=True).start()

    def wait_for(self, what: str, find: Callable[[], Any], seconds: float = 60) -> Any:
        """Wait until `find` gives something true of what is there; returns it."""
        found: list[Any] = []

        def holds() -> bool:
            found[:] = [find()]
            return bool(found[0])

        with self._changed:
            assert self._changed.wait_for(holds, seconds), f"not within {seconds} s: {what}"
        return found[0]

    def session(self, uid: str) -> Json:
        """The session, or an empty one where it is not there."""
        return self.now["sessions"].get(uid, {})

    def status(self, uid: str) -> Json:
        found: Json = self.session(uid).get("status", {})
        return found

    def statuses(self, uid: str) -> list[Json]:
        """Every status that the session had."""
        return [one["status"] for one in self.history["sessions"] if one["metadata"]["uid"] == uid and "status" in one]

    def jobs(self, uid: str) -> list[Json]:
        """The session's Jobs that are there."""
        return [job for job in self.now["jobs"].values() if uid in owners(job)]

    def jobs_ever(self, uid: str) -> set[str]:
        """UIDs of all Jobs that the session ever had."""
        return {job["metadata"]["uid"] for job in self.history["jobs"] if uid in owners(job)}

    def pods(self, uid: str) -> list[Json]:
        """The pods of the session's Jobs, oldest first."""
        jobs = {job["metadata"]["uid"] for job in self.jobs(uid)}
        found = [pod for pod in self.now["pods"].values() if jobs & set(owners(pod))]
        return sorted(found, key=lambda pod: int(pod["metadata"]["resourceVersion"]))

    def pods_ever(self, uid: str) -> set[str]:
        jobs = self.jobs_ever(uid)
        return {pod["metadata"]["uid"] for pod in self.history["pods"] if jobs & set(owners(pod))}

    def _follow(self, kind: str, path: str) -> None:
        settings = self._api.configuration
        headers = {"Authorization": settings.api_key["authorization"]}
        try:
            # The API server ends the watches of a kind that was defined just now, and refuses them for a moment.
            while True:
                self._read(kind, f"{settings.host}{path}?watch=true&timeoutSeconds=3600", headers)
        except urllib3.exceptions.HTTPError:
            # The API server is gone; whoever waits for more is told that it did not come.
            return

    def _read(self, kind: str, url: str, headers: dict[str, str]) -> None:
        response = self._api.rest_client.pool_manager.request(
            "GET", url, headers=headers, preload_content=False,
            timeout=urllib3.Timeout(connect=5, read=None), retries=False,
        )  # fmt: skip
        rest = b""
        for chunk in response.stream(1 << 16, decode_content=True):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                event = json.loads(line)
                if "metadata" in event.get("object", {}) and event["type"] != "ERROR":
                    self._tell(kind, event)

    def _tell(self, kind: str, event: Json) -> None:
        found = event["object"]
        with self._changed:
            if event["type"] == "DELETED":
                self.now[kind].pop(found["metadata"]["uid"], None)
            elif found["metadata"] != self.now[kind].get(found["metadata"]["uid"], {}).get("metadata"):
                self.now[kind][found["metadata"]["uid"]] = found
                self.history[kind].append(found)
            self._changed.notify_all()


def owners(found: Json) -> list[str]:
    """UIDs of those who own it."""
    return [owner["uid"] for owner in found["metadata"].get("ownerReferences", [])]
