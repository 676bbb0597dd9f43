"""A record is untrusted: whatever is in it, what the status takes from it is what the API server accepts."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from bson import ObjectId
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import JOB, NOW, UID, job, record, result, running, session
from trainingsession_operator import record_view
from trainingsession_operator.decide import decide
from trainingsession_operator.observed import Observed

# What BSON can carry: numbers of 64 bits, and every type but a mapping with keys that are no strings.
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(max_size=80),
    st.binary(max_size=8),
    st.sampled_from([
        math.nan, math.inf, -math.inf, -0.0, 2**63 - 1, -1, 1e300, 1.5, 0.99999, -0.00001, -(2**63), "\x00\ud800",
        "x" * 9000,
        datetime(2024, 1, 1, tzinfo=UTC), ObjectId("a" * 24), [], {}, [None] * 300, "a" * 24, "b" * 64, "Training", UID,
    ]),
)  # fmt: skip
DEEP = st.recursive(
    ODD, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=80), inner, max_size=4)
)


def shaped(*names: str) -> st.SearchStrategy[Any]:
    """An object with these fields, each as odd as can be; or something else entirely."""
    return st.one_of(DEEP, st.fixed_dictionaries({}, optional=dict.fromkeys(names, ODD)))


ARTIFACT = st.fixed_dictionaries(
    {"name": ODD | st.text(min_size=1, max_size=300), "id": ODD, "bytes": ODD, "sha256": ODD}
) | st.just({"name": "model.keras", "id": "a" * 24, "bytes": 2**63 - 1, "sha256": "b" * 64})
WARNING = st.fixed_dictionaries({"reason": ODD | st.just("LabelsDisagree"), "message": ODD | st.text(max_size=2000)})
RESULT = st.fixed_dictionaries(
    {},
    optional={
        "accuracy": ODD | st.floats(0, 1),
        "metrics": st.lists(shaped("name", "value"), max_size=80) | DEEP,
        "artifacts": st.lists(ARTIFACT | DEEP, max_size=80) | DEEP,
        "validationAccuracy": ODD | st.floats(0, 1),
        "evaluation": shaped(*record_view.EVALUATION),
        "repeats": shaped("n", "meanAccuracy", "deviation", "accuracies")
        | st.fixed_dictionaries(
            {"meanAccuracy": ODD | st.floats(0, 1), "deviation": ODD}
            | {"accuracies": st.lists(ODD | st.floats(0, 1), max_size=120)}
        ),
    },
)
TRACKED = st.fixed_dictionaries({"runID": st.text("a-_9\n", max_size=70), "experimentID": st.just("1"),
                                 "url": st.text("htps:/#é 1", max_size=20).map("http://a".__add__)})  # fmt: skip
HOSTILE = st.fixed_dictionaries(
    {"_id": st.just(UID)},
    optional={
        "attempt": ODD,
        "phase": ODD,
        "jobsLost": ODD,
        "progress": shaped("epoch", "epochs", "percent", "remainingSeconds", "loss"),
        "samples": shaped("train", "validation", "test"),
        "features": shaped("key", "shards", "reused", "computed", "secondsSaved", "gpuSecondsSaved"),
        "trainer": shaped("image", "versions")
        | st.fixed_dictionaries({"image": ODD, "versions": st.dictionaries(st.text(max_size=80), ODD, max_size=40)}),
        "failure": shaped("exitCode", "message", "attempt", "reason"),
        "measured": shaped("accuracy"),
        "warnings": st.lists(shaped("reason", "message") | WARNING, max_size=40) | DEEP,
        "headFrom": shaped("name", "uid", "sha256"),
        "tracking": st.fixed_dictionaries({"mlflow": shaped("runID", "experimentID", "url") | TRACKED, "failure": ODD}),
        "extracted": ODD,
        "result": RESULT | DEEP,
    },
)  # fmt: skip


@cache
def status_validator() -> jsonschema.Draft202012Validator:
    """The definition's status schema; what only Kubernetes understands (x-kubernetes-*) is ignored."""
    definition = Path(__file__).parents[3] / "manifests/crd/trainingsessions.yaml"
    schema = yaml.safe_load(definition.read_text())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return jsonschema.Draft202012Validator(_closed(schema["properties"]["status"]))


def _closed(schema: Any) -> Any:
    """The schema with unknown fields refused, which the API server would drop, and with int32/int64 as bounds."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if "properties" in schema and isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        closed["additionalProperties"] = False
    if schema.get("format") in ("int32", "int64"):
        closed.setdefault("maximum", 2**31 - 1 if schema["format"] == "int32" else 2**63 - 1)
    return closed


@settings(deadline=None)  # the first example reads the definition
@given(HOSTILE)
def test_no_record_makes_a_status_that_the_definition_refuses(hostile):
    for observed in (
        Observed(job(("Complete", "CompletionsReached", "")), record=hostile),
        Observed(job(("Failed", "BackoffLimitExceeded", "")), (running(),), record=hostile),
        Observed(job(active=1), (running(),), record={**hostile, "attempt": "pod-1"}),
        Observed(record=hostile),
    ):
        status = decide(session({"jobName": JOB}), observed, NOW).status
        status_validator().validate(status)


@given(HOSTILE)
def test_lists_that_are_maps_have_no_key_twice(hostile):
    for items in (record_view.metrics(hostile), record_view.artifacts(hostile)):
        names = [item["name"] for item in items]
        assert len(names) == len(set(names)) <= 64


@pytest.mark.parametrize(
    ("given_accuracy", "shown"),
    [
        (0, "0.0000"), (1, "1.0000"), (0.98765, "0.9877"), (0.99999, "1.0000"), (-0.0, "0.0000"),
        (1.00001, None), (-0.1, None), (math.nan, None), (math.inf, None), (True, None), ("0.9", None), (None, None),
        ([1], None), (2**62, None),
    ],
)  # fmt: skip
def test_accuracy_is_a_number_from_0_to_1_with_four_decimals(given_accuracy, shown):
    assert record_view.accuracy(record(result=result(given_accuracy))) == shown


def test_how_far_the_accuracy_can_be_trusted_is_shown_with_four_decimals():
    said = {
        "evaluation": {"accuracyLow": 0.91234, "accuracyHigh": 1, "baseline": math.nan, "own": 3, "loss": 0.25},
        "validationAccuracy": 0.95,
        "repeats": {"n": 99, "meanAccuracy": 0.9, "deviation": 0.0125, "accuracies": [0.91, 0.89]},
    }
    assert record_view.evaluation(record(result=result(**said))) == {
        "validationAccuracy": "0.9500",
        "evaluation": {"accuracyLow": "0.9123", "accuracyHigh": "1.0000", "loss": "0.2500"},
        "repeats": {"n": 2, "meanAccuracy": "0.9000", "deviation": "0.0125", "accuracies": ["0.9100", "0.8900"]},
    }


@pytest.mark.parametrize(
    "repeats",
    [
        None, [], {"n": 2}, {"accuracies": [0.9], "meanAccuracy": 0.9, "deviation": 0},
        {"accuracies": [0.9, "no"], "meanAccuracy": 0.9, "deviation": 0},
        {"accuracies": [0.9, 0.8], "meanAccuracy": 1.2, "deviation": 0},
    ],
)  # fmt: skip
def test_repeats_are_shown_whole_or_not_at_all(repeats):
    assert record_view.evaluation(record(result=result(repeats=repeats, validationAccuracy=2))) == {}


def test_text_is_clipped_and_made_printable():
    assert record_view.text("a\x00b\nc\u202ed" + "x" * 100, 8) == "a b c dx"
    assert record_view.text("\n\t ", 8) is None


def test_an_artifact_without_a_whole_identity_is_left_out():
    whole = {"name": "model.keras", "id": "a" * 24, "bytes": 1, "sha256": "b" * 64}
    broken = [{**whole, "name": f"broken-{key}", key: "no"} for key in ("id", "bytes", "sha256")]
    assert record_view.artifacts(record(result=result(artifacts=[*broken, whole]))) == [whole]


def test_the_failure_of_another_attempt_is_not_this_ones():
    left = record(failure={"exitCode": 65, "message": "Bad archive.", "attempt": "pod-1"})
    assert record_view.failure(left, "pod-1") == record_view.Failure(65, "Bad archive.", None)
    assert record_view.failure(left, "pod-2") is None


@pytest.mark.parametrize(
    ("reason", "taken"),
    [
        ("Diverged", "Diverged"),
        ("OutOfGpuMemory", "OutOfGpuMemory"),
        ("OutOfMemory", "OutOfMemory"),
        ("ResultPublished", None),
        (["Diverged"], None),
    ],
)
def test_of_a_trainers_reasons_only_its_own_are_taken(reason, taken):
    left = record(failure={"exitCode": 64, "message": "No.", "attempt": "pod-1", "reason": reason})
    assert record_view.failure(left, "pod-1").reason == taken


def test_what_the_store_saved_is_shown_in_whole_seconds():
    saved = {"key": "k", "reused": 5, "secondsSaved": 12.9, "gpuSecondsSaved": 0}
    assert record_view.features(record(features=saved)) == {**saved, "secondsSaved": 12}
    assert record_view.features(record(features={"secondsSaved": -1, "gpuSecondsSaved": math.nan})) == {}


@pytest.mark.parametrize(("value", "said"), [(True, True), (1, False), ("yes", False), (None, False)])
def test_only_true_says_that_all_features_are_stored(value, said):
    assert record_view.extracted(record(extracted=value)) is said


def test_warnings_are_shown_once_for_each_reason_and_stay_when_the_record_is_away():
    said = {"reason": "LabelsDisagree", "message": "3 images are in more than one class."}
    odd = [
        {"reason": "no word", "message": "x"},
        {"reason": "Empty", "message": " "},
        None,
        said,
        {**said, "message": "y"},
    ]
    assert record_view.warnings({"warnings": odd}) == [said]
    status = decide(
        session({"jobName": JOB}), Observed(job(active=1), (running(),), (), record(warnings=odd)), NOW
    ).status
    assert status["warnings"] == [said]
    away = decide(session({"jobName": JOB, "warnings": [said]}), Observed(job(active=1), (running(),), (), None), NOW)
    assert away.status["warnings"] == [said]


def test_a_tracking_server_that_does_not_take_part_is_a_warning_until_it_does():
    run = {"experimentID": "7", "runID": "a" * 32, "url": "https://mlflow/#/experiments/7/runs/a"}
    away = record(tracking={"mlflow": {}, "failure": "MLflow at https://mlflow does not take part (HTTP 503)"})
    running_job = {"job": job(active=1), "pods": (running(),)}
    first = decide(session({"jobName": JOB}), Observed(record=away, **running_job), NOW).status
    assert [warning["reason"] for warning in first["warnings"]] == ["TrackingFailed"]
    assert "tracking" not in first
    then = decide(session(first), Observed(record=record(tracking={"mlflow": run}), **running_job), NOW).status
    assert "warnings" not in then
    assert then["tracking"] == {"mlflow": run}
    assert record_view.tracking({"tracking": {"mlflow": {**run, "url": "javascript:alert()"}}}) == {}
