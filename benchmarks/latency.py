"""From a TrainingSession to its Job on the cluster of `make cluster`, beside a raw client that only creates Jobs.

Both create where a quota admits no pod, so that only the control plane works; times are those of one watch.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from kubernetes import client, config, watch

NAMESPACE = "benchmark-latency"
SESSIONS = 20
GROUP = ("trainingsession.dev", "v1alpha1", NAMESPACE, "trainingsessions")


def session(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "trainingsession.dev/v1alpha1",
        "kind": "TrainingSession",
        "metadata": {"name": name},
        "spec": {"dataset": {"name": "digits"}, "baseModel": {"name": "ResNet50", "weights": "none"}},
    }


def job(name: str) -> dict[str, Any]:
    container = {"name": "none", "image": "none"}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [container]}}},
    }


class JobsSeen:
    """When this client's watch first showed each Job of the namespace."""

    def __init__(self, batch: client.BatchV1Api) -> None:
        self.times: dict[str, float] = {}
        self.changed = threading.Condition()
        self._watch = watch.Watch()
        self._batch = batch
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        for event in self._watch.stream(self._batch.list_namespaced_job, NAMESPACE, timeout_seconds=600):
            with self.changed:
                self.times.setdefault(event["object"].metadata.name, time.perf_counter())
                self.changed.notify_all()

    def wait(self, prefix: str) -> float:
        """Time at which a Job whose name starts with `prefix` was seen."""

        def seen() -> float | None:
            return next((t for name, t in self.times.items() if name.startswith(prefix)), None)

        with self.changed:
            if not self.changed.wait_for(lambda: seen() is not None, 60):
                raise TimeoutError(f"no Job {prefix}… after 60 s; does the operator run?")
            found = seen()
        assert found is not None
        return found


def resident_mb(repo: Path) -> int:
    """Resident memory of the operator's process, in MB."""
    command = [repo / ".cluster/bin/kubectl", "--kubeconfig", repo / ".cluster/kubeconfig", "-n", "trainingsession"]
    command += ["exec", "deploy/trainingsession-operator", "--", "cat", "/proc/1/status"]
    status = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found, status
    return int(found[1]) * 1024 // 1_000_000


def main(repo: Path) -> None:
    config.load_kube_config(str(repo / ".cluster/kubeconfig"))
    core, batch, custom = client.CoreV1Api(), client.BatchV1Api(), client.CustomObjectsApi()
    core.create_namespace({"metadata": {"name": NAMESPACE}})
    try:
        core.create_namespaced_resource_quota(
            NAMESPACE, {"metadata": {"name": "no-pods"}, "spec": {"hard": {"pods": "0"}}}
        )
        jobs = JobsSeen(batch)
        measured: dict[str, list[float]] = {"CR → Job": [], "raw client": []}
        for i in range(SESSIONS + 1):
            start = time.perf_counter()
            custom.create_namespaced_custom_object(*GROUP, session(f"s{i:03}"))
            measured["CR → Job"].append(jobs.wait(f"s{i:03}-") - start)
            start = time.perf_counter()
            batch.create_namespaced_job(NAMESPACE, job(f"raw{i:03}"))
            measured["raw client"].append(jobs.wait(f"raw{i:03}") - start)
        print(f"{'':12} {'p50 ms':>8} {'max ms':>8}   {SESSIONS} each, in turn")
        for name, seconds in measured.items():
            warm = sorted(seconds[1:])
            print(f"{name:12} {1000 * statistics.median(warm):8.0f} {1000 * warm[-1]:8.0f}")
        print(f"first session of the namespace: {1000 * measured['CR → Job'][0]:.0f} ms")
        print(f"operator's resident memory after it: {resident_mb(repo)} MB")
    finally:
        core.delete_namespace(NAMESPACE)


if __name__ == "__main__":
    main(Path(__file__).resolve().parent.parent)
