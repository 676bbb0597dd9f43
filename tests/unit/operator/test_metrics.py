"""What Prometheus reads: names, values, and that the alerts ask for nothing else."""

from __future__ import annotations

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from trainingsession_operator.index import Known, SessionIndex
from trainingsession_operator.metrics import Metrics
from trainingsession_operator.queue import WorkQueue


def value(metrics: Metrics, name: str, /, **labels: str) -> float | None:
    """A sample as Prometheus reads it; None where it is not there."""
    for family in text_string_to_metric_families(metrics.expose().decode()):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return float(sample.value)
    return None


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def test_two_operators_in_one_process_share_nothing(metrics):
    metrics.key_added()
    assert value(metrics, "workqueue_adds_total", name="trainingsession") == 1
    assert value(Metrics(), "workqueue_adds_total", name="trainingsession") == 0


def test_the_version_is_told(metrics):
    assert re.search(rb'trainingsession_build_info\{version="[^"]+"\} 1\.0', metrics.expose())


def test_sessions_are_counted_by_namespace_and_phase_as_they_are_now(metrics):
    index = SessionIndex()
    metrics.follow_sessions(index.census)
    for number, (namespace, phase) in enumerate([("a", "Training"), ("a", "Training"), ("b", "Pending")]):
        index.put(str(number), Known((namespace, str(number)), phase, 1, finished=False))
    assert value(metrics, "trainingsession_sessions", namespace="a", phase="Training") == 2
    index.put("1", Known(("a", "1"), "Succeeded", 1, finished=True))
    assert value(metrics, "trainingsession_sessions", namespace="a", phase="Training") == 1
    assert value(metrics, "trainingsession_sessions", namespace="a", phase="Succeeded") == 1
    index.remove("2")
    assert value(metrics, "trainingsession_sessions", namespace="b", phase="Pending") is None


FEATURES = {"reused": 900, "computed": 100, "gpuSecondsSaved": 30}


@pytest.mark.parametrize(
    ("status", "told"),
    [
        ({"phase": "Succeeded", "gpuSeconds": 12, "features": FEATURES}, (12, 30, 900, 100)),
        ({"phase": "Succeeded", "features": {"reused": 5}}, (0, 0, 5, 0)),
        ({"phase": "Succeeded"}, (0, 0, 0, 0)),
        ({"phase": "Succeeded", "gpuSeconds": None, "features": None}, (0, 0, 0, 0)),
    ],
)
def test_a_finished_session_is_counted_with_what_it_used_and_saved(metrics, status, told):
    metrics.finished("team-a", status)
    names = ("gpu_seconds", "gpu_seconds_saved", "features_reused", "features_computed")
    found = tuple(value(metrics, f"trainingsession_{name}_total", namespace="team-a") for name in names)
    assert found == told
    assert value(metrics, "trainingsession_finished_total", namespace="team-a", phase="Succeeded") == 1


def test_what_the_storage_tells_is_there(metrics):
    metrics.measured("team-a", "features", 4096)
    metrics.measured("team-a", "features", 1024)
    metrics.swept("team-a", 10)
    metrics.swept("team-a", 20)
    metrics.halted("team-a", True)
    assert value(metrics, "trainingsession_stored_bytes", namespace="team-a", bucket="features") == 1024
    assert value(metrics, "trainingsession_swept_bytes_total", namespace="team-a") == 30
    assert value(metrics, "trainingsession_sweep_halted", namespace="team-a") == 1
    metrics.halted("team-a", False)
    assert value(metrics, "trainingsession_sweep_halted", namespace="team-a") == 0


def test_every_metric_that_an_alert_asks_for_is_there(metrics, repo):
    WorkQueue(lambda key: None, 0, metrics)
    metrics.halted("a", False)
    metrics.finished("a", {"phase": "Failed"})
    metrics.requested("get", "jobs", "200", 0.1)
    told = {s.name for f in text_string_to_metric_families(metrics.expose().decode()) for s in f.samples} | {"up"}
    alerts = (repo / "charts/trainingsession/templates/operator-alerts.yaml").read_text()
    asked = set(re.findall(r"\b([a-z_]+)\{ \{\{- \$job", alerts))
    assert len(asked) >= 10
    assert asked <= told
