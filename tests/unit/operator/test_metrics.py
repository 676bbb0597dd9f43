"""What Prometheus reads: names, values, and that the alerts ask for nothing else."""

from __future__ import annotations

import json
import re
import time

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


def test_the_replica_set_and_its_disk_are_told(metrics):
    metrics.replica_set({"primary": 1, "secondary": 2, "unreachable": 0}, (70, 100))
    metrics.replica_set({"primary": 0, "secondary": 2, "unreachable": 1}, None)
    assert value(metrics, "mongodb_members", state="primary") == 0
    assert value(metrics, "mongodb_members", state="unreachable") == 1
    assert value(metrics, "mongodb_disk_used_bytes") == 70, "what is not known stays as it was"
    assert value(metrics, "mongodb_disk_size_bytes") == 100


def test_failures_are_counted_by_the_operator_s_own_reasons(metrics):
    for reason in ("OutOfMemory", "OutOfMemory", "Other"):
        metrics.finished("a", {"phase": "Failed"}, reason)
    metrics.finished("a", {"phase": "Succeeded"})
    assert value(metrics, "trainingsession_failed_total", namespace="a", reason="OutOfMemory") == 2
    assert value(metrics, "trainingsession_failed_total", namespace="a", reason="Other") == 1


def test_the_wait_of_the_oldest_pending_session_is_told_by_namespace(metrics):
    index = SessionIndex()
    metrics.follow_waiting(index.longest_pending)
    now = time.time()
    for number, (namespace, since) in enumerate([("a", now - 500), ("a", now - 90), ("b", None), ("c", now + 60)]):
        index.put(str(number), Known((namespace, str(number)), "Pending", 1, finished=False, pending_since=since))
    index.put("9", Known(("b", "9"), "Pending", 1, finished=False, ours=False, pending_since=now - 900))
    assert value(metrics, "trainingsession_longest_pending_seconds", namespace="a") == pytest.approx(500, abs=60)
    assert value(metrics, "trainingsession_longest_pending_seconds", namespace="b") == 0
    assert value(metrics, "trainingsession_longest_pending_seconds", namespace="c") == 0


def everything(metrics: Metrics) -> set[str]:
    """Names of all samples of an operator that has met everything once; `up` is Prometheus' own."""
    WorkQueue(lambda key: None, 0, metrics)
    index = SessionIndex()
    index.put("1", Known(("a", "1"), "Pending", 1, finished=False))
    metrics.follow_sessions(index.census)
    metrics.follow_waiting(index.longest_pending)
    metrics.follow_watch(lambda: 0.0)
    metrics.measured("a", "features", 1)
    metrics.swept("a", 1)
    metrics.halted("a", False)
    metrics.finished("a", {"phase": "Failed"}, "BadData")
    metrics.requested("get", "jobs", "200", 0.1)
    metrics.replica_set({"primary": 1}, (1, 2))
    return {s.name for f in text_string_to_metric_families(metrics.expose().decode()) for s in f.samples} | {"up"}


def test_every_metric_that_an_alert_asks_for_is_there(metrics, repo):
    alerts = (repo / "charts/trainingsession/templates/operator-alerts.yaml").read_text()
    asked = set(re.findall(r"\b([a-z_]+)\{ \{\{- \$job", alerts))
    assert len(asked) >= 15
    assert asked <= everything(metrics)


def test_every_metric_that_the_dashboard_asks_for_is_there(metrics, repo):
    dashboard = json.loads((repo / "charts/trainingsession/dashboards/trainingsession.json").read_text())
    questions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    questions += [
        variable["query"]["query"] for variable in dashboard["templating"]["list"] if variable["name"] != "datasource"
    ]
    asked = {name for question in questions for name in re.findall(r"([a-z_]+)(?:\{|, job\))", question)}
    assert len(asked) >= 25
    assert asked <= everything(metrics)
