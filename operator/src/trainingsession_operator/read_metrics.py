"""Metrics that are made up when Prometheus reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


@dataclass(frozen=True)
class QueueState:
    """A work queue at one moment; times in seconds."""

    depth: int
    """Keys that are due and wait for a worker."""
    unfinished_seconds: float
    """Sum over all running work."""
    longest_running_seconds: float
    failing: int
    """Keys whose last work failed."""
    longest_failing_seconds: float
    """Since the first failure of the key that has been failing for the longest time."""


class _Read(Collector):
    def __init__(self, read: Callable[[], Iterable[Metric]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        return self._read()


def of_queue(state: Callable[[], QueueState], name: str) -> Collector:
    """Of one work queue, under its name."""

    def read() -> Iterable[Metric]:
        now = state()
        for metric, what, value in (
            ("workqueue_depth", "Keys that are due and wait for a worker.", now.depth),
            ("workqueue_unfinished_work_seconds", "Sum of the ages of all running looks.", now.unfinished_seconds),
            ("workqueue_longest_running_processor_seconds", "Age of the oldest running look.",
             now.longest_running_seconds),
            ("workqueue_keys_in_backoff", "Keys whose last look failed.", now.failing),
            ("workqueue_longest_backoff_seconds", "Age of the oldest failure that lasts.",
             now.longest_failing_seconds),
        ):  # fmt: skip
            family = GaugeMetricFamily(metric, what, labels=["name"])
            family.add_metric([name], value)
            yield family

    return _Read(read)


def of_sessions(census: Callable[[], Mapping[tuple[str, str], int]]) -> Collector:
    """How many sessions there are in each namespace and phase."""

    def read() -> Iterable[Metric]:
        family = GaugeMetricFamily("trainingsession_sessions", "Sessions.", labels=["namespace", "phase"])
        for labels, number in census().items():
            family.add_metric(labels, number)
        yield family

    return _Read(read)


def of_waiting(waiting: Callable[[], Mapping[str, float]]) -> Collector:
    """For how many seconds the oldest pending session of each namespace has waited."""

    def read() -> Iterable[Metric]:
        family = GaugeMetricFamily(
            "trainingsession_longest_pending_seconds", "Wait of the oldest session in phase Pending.",
            labels=["namespace"],
        )  # fmt: skip
        for namespace, seconds in waiting().items():
            family.add_metric([namespace], seconds)
        yield family

    return _Read(read)
