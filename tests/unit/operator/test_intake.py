"""What an event of the watch leads to: keys on the queue, and ends that are counted once."""

from __future__ import annotations

import re

import pytest

from trainingsession_operator.handlers import Intake
from trainingsession_operator.health import Watchdog
from trainingsession_operator.index import Known, SessionIndex
from trainingsession_operator.metrics import Metrics
from trainingsession_operator.newcomers import Newcomers
from trainingsession_operator.queue import WorkQueue
from trainingsession_operator.status import pending_since

LONG_AGO = "2020-01-01T00:00:00Z"


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def resource(phase: str, *, finished: bool, generation: int = 1, ttl: int | None = None) -> dict[str, object]:
    said = {"Finished": finished}
    if finished:
        said |= dict.fromkeys(("PodsReady", "Running", "Suspended"), False)
        said |= {"Complete": phase == "Succeeded", "Failed": phase == "Failed"}
    conditions = [{"type": kind, "status": str(is_so)} for kind, is_so in said.items()]
    return {
        "metadata": {"namespace": "a", "name": "s", "uid": "u", "resourceVersion": "5", "generation": generation},
        "spec": {"runPolicy": {"ttlSecondsAfterFinished": ttl}} if ttl is not None else {},
        "status": {"phase": phase, "conditions": conditions, **({"completionTime": LONG_AGO} if finished else {})},
    }


@pytest.fixture
def deletions() -> list[tuple[str, str, str]]:
    return []


@pytest.fixture
def intake(metrics, deletions) -> Intake:
    """With a queue that has no workers: what is put on it stays there."""
    watchdog = Watchdog()
    queue = WorkQueue(lambda key: None, 0, metrics)

    def deleted(*deletion):
        deletions.append(deletion)

    return Intake(queue, SessionIndex(), watchdog, metrics, watchdog.forget, deleted, Newcomers())


def finished(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("trainingsession_finished_total", {"namespace": "a", "phase": "Succeeded"})


def test_an_end_is_news_once(intake, metrics):
    intake.told({"type": "ADDED", "object": resource("Training", finished=False)})
    for kind in ("MODIFIED", "MODIFIED", None, "DELETED"):
        intake.told({"type": kind, "object": resource("Succeeded", finished=True)})
    assert finished(metrics) == 1


def test_after_a_restart_what_had_ended_is_no_news(intake, metrics):
    for kind in (None, None, "MODIFIED", "DELETED"):
        intake.told({"type": kind, "object": resource("Succeeded", finished=True)})
    assert finished(metrics) == 0
    assert len(intake.queue) == 0


@pytest.mark.parametrize(
    "hand",
    [{"phase": "Failed"}, {"completionTime": None}, {"conditions": [{"type": "Finished", "status": "True"}]}],
    ids=["another phase", "no time", "one condition"],
)
def test_after_a_restart_an_end_that_does_not_look_like_the_operators_is_looked_at(intake, hand):
    session = resource("Succeeded", finished=True)
    session["status"] |= hand
    intake.told({"type": None, "object": session})
    assert len(intake.queue) == 1


def test_a_session_of_another_controller_is_left_alone(intake, metrics):
    for kind, phase in (("ADDED", "Pending"), ("MODIFIED", "Succeeded")):
        session = {**resource(phase, finished=phase == "Succeeded"), "spec": {"managedBy": "example.org/other"}}
        intake.told({"type": kind, "object": session})
    assert len(intake.queue) == 0
    assert finished(metrics) is None
    assert intake.index.census() == {}
    assert intake.index.find("u") is None


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"artifacts": {"deletionPolicy": "Delete"}}, ["Delete"]),
        ({"artifacts": {"deletionPolicy": "Retain"}}, ["Retain"]),
        ({"artifacts": {"deletionPolicy": "delete it all"}}, ["Retain"]),
        ({"artifacts": []}, ["Retain"]),
        ("text", ["Retain"]),
        ({"managedBy": "example.org/other"}, []),
    ],
)
def test_a_deletion_is_told_with_its_last_policy(intake, deletions, spec, told):
    session = {**resource("Succeeded", finished=True), "spec": spec}
    intake.told({"type": "ADDED", "object": session})
    assert deletions == []
    intake.told({"type": "DELETED", "object": session})
    assert deletions == [("a", "u", policy) for policy in told]
    assert intake.index.all() == {}


def test_the_echo_of_our_own_status_is_no_reason_to_look(intake):
    begun = resource("Pending", finished=False)
    intake.index.put("u", Known(("a", "s"), "Pending", 1, finished=False))
    intake.watchdog.wrote(("a", "s"), "5")
    intake.told({"type": "MODIFIED", "object": begun})
    assert len(intake.queue) == 0
    intake.told({"type": "MODIFIED", "object": begun})
    assert len(intake.queue) == 1, "somebody else's write"


def test_an_ended_session_that_is_to_be_deleted_later_is_looked_at(intake):
    intake.told({"type": None, "object": resource("Succeeded", finished=True, ttl=0)})
    assert len(intake.queue) == 1


@pytest.mark.parametrize("spec", [None, 3, [], {"runPolicy": "none"}, {"runPolicy": None}])
def test_a_spec_of_another_schema_is_taken_in_like_any_other(intake, spec):
    ended = {**resource("Succeeded", finished=True), "spec": spec}
    begun = {**resource("Pending", finished=False), "spec": spec}
    intake.told({"type": "ADDED", "object": begun})
    intake.told({"type": "MODIFIED", "object": ended})
    assert len(intake.queue) == 1


@pytest.mark.parametrize("status", ["text", 3, [], {"conditions": "none"}, {"conditions": [3]}])
def test_a_status_of_another_schema_is_left_to_the_look(intake, status):
    intake.told({"type": "ADDED", "object": {**resource("Pending", finished=False), "status": status}})
    assert len(intake.queue) == 1


def test_a_session_without_a_status_is_handed_to_its_first_look_until_it_changes(intake):
    made = {key: value for key, value in resource("", finished=False).items() if key != "status"}
    intake.told({"type": "ADDED", "object": made})
    assert intake.newcomers.take(("a", "s")).resource == made
    for kind, changed in (("MODIFIED", made), ("DELETED", made)):
        intake.told({"type": "ADDED", "object": made})
        intake.told({"type": kind, "object": changed})
        assert intake.newcomers.take(("a", "s")) is None
    # A list tells what was there before this operator, and an operator before it may have looked.
    for kind, found in ((None, made), ("ADDED", resource("Training", finished=False))):
        intake.told({"type": kind, "object": found})
        assert intake.newcomers.take(("a", "s")) is None


def test_another_controllers_session_is_not_kept_for_a_look_that_never_comes(intake):
    made = {key: value for key, value in resource("", finished=False).items() if key != "status"}
    intake.told({"type": "ADDED", "object": {**made, "spec": {"managedBy": "example.org/other"}}})
    assert intake.newcomers.take(("a", "s")) is None


def pending(metrics: Metrics, intake: Intake) -> float | None:
    metrics.follow_waiting(intake.index.longest_pending)
    return metrics.registry.get_sample_value("trainingsession_longest_pending_seconds", {"namespace": "a"})


@pytest.mark.parametrize(
    ("phase", "conditions", "waits"),
    [
        ("Pending", [], True),
        ("Pending", [{"type": "Running", "status": "False", "lastTransitionTime": LONG_AGO}], True),
        ("Pending", [{"type": "QuotaReserved", "status": "False", "lastTransitionTime": LONG_AGO}], False),
        ("Training", [{"type": "Running", "status": "True", "lastTransitionTime": LONG_AGO}], False),
        ("Suspended", [], False),
        ("Pending", [{"type": "Running", "status": "False", "lastTransitionTime": "yesterday"}], True),
    ],
)
def test_only_a_pending_session_outside_of_a_queue_waits(intake, metrics, phase, conditions, waits):
    one = resource(phase, finished=False)
    one["metadata"]["creationTimestamp"] = LONG_AGO
    one["status"]["conditions"] += conditions
    intake.told({"type": "ADDED", "object": one})
    assert (pending(metrics, intake) > 0) is waits


@pytest.mark.parametrize(
    ("conditions", "since"),
    [
        ({"Running": ("False", "2024-05-06T12:00:00Z")}, "2024-05-06T12:00:00Z"),
        ({"Running": ("False", "2024-05-06T12:00:00Z"), "Suspended": ("False", LONG_AGO)}, "2024-05-06T12:00:00Z"),
        ({"Running": ("False", LONG_AGO), "Suspended": ("False", "2024-05-06T12:00:00Z")}, "2024-05-06T12:00:00Z"),
        ({"Running": ("False", LONG_AGO), "QuotaReserved": ("True", "2024-05-06T12:00:00Z")}, "2024-05-06T12:00:00Z"),
        ({}, LONG_AGO),
    ],
    ids=["its last attempt ended", "never suspended", "went on", "came out of a queue", "not looked at"],
)
def test_a_session_waits_since_it_could_have_run(conditions, since):
    one = resource("Pending", finished=False)
    one["metadata"]["creationTimestamp"] = LONG_AGO
    one["status"]["conditions"] += [
        {"type": kind, "status": status, "lastTransitionTime": at} for kind, (status, at) in conditions.items()
    ]
    assert pending_since(one) == since


@pytest.mark.parametrize(("reason", "counted"), [("OutOfMemory", "OutOfMemory"), ("written by hand", "Other")])
def test_a_failure_is_counted_by_its_reason(intake, metrics, reason, counted):
    intake.told({"type": "ADDED", "object": resource("Training", finished=False)})
    failed = resource("Failed", finished=True)
    next(c for c in failed["status"]["conditions"] if c["type"] == "Failed")["reason"] = reason
    intake.told({"type": "MODIFIED", "object": failed})
    labels = {"namespace": "a", "reason": counted}
    assert metrics.registry.get_sample_value("trainingsession_failed_total", labels) == 1


def test_what_alerts_count_is_there_from_a_namespaces_first_session_on(intake, metrics, repo):
    """Prometheus sees no increase in the first value of a series."""
    alerts = (repo / "charts/trainingsession/templates/operator-alerts.yaml").read_text()
    (reasons,) = re.findall(r'reason=~"([A-Za-z|]+)"', alerts)
    intake.told({"type": None, "object": resource("Training", finished=False)})
    counted = {
        ("trainingsession_failed_total", "reason"): {*reasons.split("|")},
        ("trainingsession_finished_total", "phase"): {"Succeeded", "Failed"},
    }
    for (name, label), values in counted.items():
        found = [s for family in metrics.registry.collect() for s in family.samples if s.name == name]
        assert {s.labels[label]: s.value for s in found} == dict.fromkeys(values, 0)
    metrics.forget("a")
    assert metrics.namespaces() == set()


def test_a_success_that_lost_its_artifacts_is_counted_as_a_failure_and_not_as_another_end(intake, metrics):
    lost = resource("Failed", finished=True)
    next(c for c in lost["status"]["conditions"] if c["type"] == "Failed")["reason"] = "ArtifactsMissing"
    for kind, session in ((None, resource("Succeeded", finished=True)), ("MODIFIED", lost), ("MODIFIED", lost)):
        intake.told({"type": kind, "object": session})
    labels = {"namespace": "a", "reason": "ArtifactsMissing"}
    assert metrics.registry.get_sample_value("trainingsession_failed_total", labels) == 1
    ends = {"namespace": "a", "phase": "Failed"}
    assert metrics.registry.get_sample_value("trainingsession_finished_total", ends) == 0
