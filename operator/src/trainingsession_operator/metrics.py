"""What Prometheus reads, under the names that controllers use; `docs/runbook.md` says what to do about the alerts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from . import read_metrics
from .read_metrics import QueueState

CONTENT_TYPE = CONTENT_TYPE_LATEST
CONTROLLER = "trainingsession"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
RESULTS = ("success", "conflict", "unavailable", "error")
"""How a look at a session ends: unavailable where it waits for something outside, error where there is a bug."""


class Metrics:
    """All metrics of one operator, in a registry of its own. Safe to call from any thread."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        Info("trainingsession_build", "Version of the operator.", registry=registry).info({"version": _version()})

        self._adds = Counter("workqueue_adds", "Keys added.", ["name"], registry=registry).labels(CONTROLLER)
        self._retries = Counter(
            "workqueue_retries", "Keys that wait for another try.", ["name"], registry=registry
        ).labels(CONTROLLER)
        self._waited = Histogram(
            "workqueue_queue_duration_seconds", "From due to taken up.", ["name"], buckets=SECONDS, registry=registry
        ).labels(CONTROLLER)
        self._worked = Histogram(
            "controller_runtime_reconcile_time_seconds", "One look at a session.", ["controller"], buckets=SECONDS,
            registry=registry,
        ).labels(CONTROLLER)  # fmt: skip
        looks = Counter(
            "controller_runtime_reconcile", "Looks at sessions by result.", ["controller", "result"], registry=registry
        )
        self._looks = {result: looks.labels(CONTROLLER, result) for result in RESULTS}

        self._requests = Counter(
            "rest_client_requests", "Requests to the API server.", ["verb", "resource", "code"], registry=registry
        )
        self._request_seconds = Histogram(
            "rest_client_request_duration_seconds", "Requests to the API server, without the wait for the limit.",
            ["verb", "resource"], buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self._throttled = Histogram(
            "rest_client_rate_limiter_duration_seconds", "Wait of a request for the operator's own limit.",
            buckets=SECONDS, registry=registry,
        )  # fmt: skip

        def by_namespace(name: str, what: str) -> Counter:
            return Counter(f"trainingsession_{name}", what, ["namespace"], registry=registry)

        self._finished = Counter(
            "trainingsession_finished", "Sessions that came to their end while this process ran.",
            ["namespace", "phase"], registry=registry,
        )  # fmt: skip
        self._failed = Counter(
            "trainingsession_failed", "Sessions that failed while this process ran, by the reason of their condition.",
            ["namespace", "reason"], registry=registry,
        )  # fmt: skip
        self._gpu_seconds = by_namespace("gpu_seconds", "Seconds for which ended sessions held GPUs, times GPUs.")
        self._gpu_saved = by_namespace("gpu_seconds_saved", "GPU-seconds that stored features spared ended sessions.")
        self._reused = by_namespace("features_reused", "Images of ended sessions whose features were stored already.")
        self._computed = by_namespace("features_computed", "Images whose features ended sessions computed.")

        self._mongodb_up = Gauge("mongodb_up", "1 while MongoDB can be used.", registry=registry)
        self._members = Gauge(
            "mongodb_members", "Members of MongoDB's replica set as the operator sees them.", ["state"],
            registry=registry,
        )  # fmt: skip
        self._disk_used = Gauge(
            "mongodb_disk_used_bytes", "Used bytes of the file system under the primary's data.", registry=registry
        )
        self._disk_size = Gauge(
            "mongodb_disk_size_bytes", "Bytes of that file system; 0 where the server does not tell.", registry=registry
        )
        self._stored = Gauge(
            "trainingsession_stored_bytes", "Bytes in MongoDB at the last round over the storage.",
            ["namespace", "bucket"], registry=registry,
        )  # fmt: skip
        self._swept = by_namespace("swept_bytes", "Bytes that the sweeper freed.")
        self._halted = Gauge(
            "trainingsession_sweep_halted", "1 while the sweeper deletes nothing because too much vanished at once.",
            ["namespace"], registry=registry,
        )  # fmt: skip

        self._of_namespaces = (
            self._finished, self._failed, self._gpu_seconds, self._gpu_saved, self._reused, self._computed,
            self._stored, self._swept, self._halted,
        )  # fmt: skip

        self._audited = Gauge(
            "trainingsession_audit_last_success_timestamp_seconds", "When the last complete audit ended; 0 before it.",
            registry=registry,
        )  # fmt: skip
        findings = Counter(
            "trainingsession_audit_findings", "Sessions of which the watch had told wrongly, repaired by the audit.",
            ["finding"], registry=registry,
        )  # fmt: skip
        self._missed, self._ghosts = findings.labels("missed"), findings.labels("ghost")
        self._silence = Gauge(
            "trainingsession_watch_silence_seconds", "Age of the oldest status that was written and not seen again.",
            registry=registry,
        )  # fmt: skip

    def expose(self) -> bytes:
        """All metrics in Prometheus' text format, CONTENT_TYPE."""
        return generate_latest(self.registry)

    def follow_queue(self, state: Callable[[], QueueState]) -> None:
        """Tell of the one work queue whenever the metrics are read."""
        self.registry.register(read_metrics.of_queue(state, CONTROLLER))

    def follow_sessions(self, census: Callable[[], Mapping[tuple[str, str], int]]) -> None:
        """Tell how many sessions there are in each namespace and phase whenever the metrics are read."""
        self.registry.register(read_metrics.of_sessions(census))

    def follow_waiting(self, waiting: Callable[[], Mapping[str, float]]) -> None:
        """Tell for how many seconds the oldest pending session of each namespace has waited, when it is read."""
        self.registry.register(read_metrics.of_waiting(waiting))

    def follow_watch(self, silence: Callable[[], float]) -> None:
        """Tell of the watch whenever the metrics are read; `silence` gives seconds."""
        self._silence.set_function(silence)

    def key_added(self) -> None:
        """A key was added to the queue."""
        self._adds.inc()

    def key_taken(self, waited: float) -> None:
        """A worker took a key up that had been due for `waited` seconds."""
        self._waited.observe(waited)

    def key_worked(self, result: str, seconds: float) -> None:
        """A look at a session ended; `result` is one of RESULTS."""
        self._looks[result].inc()
        self._worked.observe(seconds)
        if result != "success":
            self._retries.inc()

    def requested(self, verb: str, resource: str, code: str, seconds: float) -> None:
        """A request to the API server was answered, or was not: `code` <error>."""
        self._requests.labels(verb, resource, code).inc()
        self._request_seconds.labels(verb, resource).observe(seconds)

    def throttled(self, seconds: float) -> None:
        """A request waited for the operator's own limit."""
        self._throttled.observe(seconds)

    def met(self, namespace: str, reasons: Iterable[str]) -> None:
        """There are sessions in the namespace: what alerts count begins at 0, as a first value is no increase."""
        for phase in ("Succeeded", "Failed"):
            self._finished.labels(namespace, phase)
        for reason in reasons:
            self._failed.labels(namespace, reason)

    def failed(self, namespace: str, reason: str) -> None:
        """A session failed, or is not Succeeded any more; `reason` is one of the operator's own."""
        self._failed.labels(namespace, reason).inc()

    def finished(self, namespace: str, status: Mapping[str, Any], failure: str = "") -> None:
        """A session came to its end, with this status; `failure` is one of the operator's own reasons."""
        features = status.get("features") or {}
        if failure:
            self.failed(namespace, failure)
        self._finished.labels(namespace, status.get("phase") or "Failed").inc()
        for counter, amount in (
            (self._gpu_seconds, status.get("gpuSeconds")),
            (self._gpu_saved, features.get("gpuSecondsSaved")),
            (self._reused, features.get("reused")),
            (self._computed, features.get("computed")),
        ):
            counter.labels(namespace).inc(max(0, amount or 0))

    def mongodb(self, *, up: bool) -> None:
        """MongoDB was asked whether it can be used."""
        self._mongodb_up.set(up)

    def replica_set(self, members: Mapping[str, int], disk: tuple[int, int] | None) -> None:
        """How many members are in which state, and the used and all bytes under the primary's data, where known."""
        for state, number in members.items():
            self._members.labels(state).set(number)
        if disk is not None:
            self._disk_used.set(disk[0])
            self._disk_size.set(disk[1])

    def measured(self, namespace: str, bucket: str, size: int) -> None:
        """A bucket of a namespace holds `size` bytes."""
        self._stored.labels(namespace, bucket).set(size)

    def swept(self, namespace: str, size: int) -> None:
        """The sweeper freed `size` bytes."""
        self._swept.labels(namespace).inc(size)

    def halted(self, namespace: str, halted: bool) -> None:
        """The sweeper deletes nothing in this namespace, or does so again."""
        self._halted.labels(namespace).set(halted)

    def namespaces(self) -> set[str]:
        """All namespaces of which something is told that outlasts their sessions."""
        families = (family for metric in self._of_namespaces for family in metric.collect())
        return {sample.labels["namespace"] for family in families for sample in family.samples}

    def forget(self, namespace: str) -> None:
        """The namespace is gone; nothing more is told of it."""
        for metric in self._of_namespaces:
            metric.remove_by_labels({"namespace": namespace})

    def audited(self, missed: int, ghosts: int) -> None:
        """An audit was complete: so many sessions were not known, and so many known ones were not there."""
        self._missed.inc(missed)
        self._ghosts.inc(ghosts)
        self._audited.set_to_current_time()


def _version() -> str:
    try:
        return version("trainingsession-operator")
    except PackageNotFoundError:
        return "unknown"
