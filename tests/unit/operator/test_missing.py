"""A status that claims a success is compared with what is in MongoDB; one that is right costs no write."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from builders import NOW as THEN
from builders import condition, job, record, result, session
from trainingsession_operator import missing
from trainingsession_operator.decide import decide
from trainingsession_operator.observed import Observed
from trainingsession_operator.status import merge_patch

Json = dict[str, Any]
ID, OTHER = "a" * 24, "c" * 24
NOW = "2024-05-07T12:00:00Z"
RECORD = record(result=result())
EMPTY: Json = {}


def artifact(name: str, id: str) -> Json:  # noqa: A002 - as in the status
    return {"name": name, "id": id, "bytes": 1, "sha256": "b" * 64}


@pytest.fixture
def succeeded() -> Json:
    """The status that the operator writes of a session that succeeded."""
    observed = Observed(job=job(("Complete", "CompletionsReached", "")), record=RECORD)
    return decide(session(), observed, THEN).status


def changes(status: Json, found: Json, *there: str) -> Json:
    return merge_patch(status, missing.restated(status, found, there, NOW))


def test_a_status_whose_artifacts_are_there_is_left_as_it_is(succeeded):
    assert missing.claims_success(succeeded)
    assert missing.artifact_ids(succeeded, RECORD) == {ID}
    assert changes(succeeded, RECORD, ID) == {}


def test_words_of_a_success_that_another_version_wrote_are_no_reason_to_write(succeeded):
    for one in succeeded["conditions"]:
        one["message"] = "said otherwise"
    assert changes(succeeded, RECORD, ID) == {}


def test_a_success_without_its_artifacts_is_a_failure_with_the_same_accuracy(succeeded):
    found = missing.restated(succeeded, RECORD, (), NOW)
    assert (found["phase"], found["accuracy"], found["artifacts"]) == ("Failed", "0.9625", succeeded["artifacts"])
    assert [condition(found, kind)["status"] for kind in ("Complete", "Failed", "Finished")] == [
        "False",
        "True",
        "True",
    ]
    failed = condition(found, "Failed")
    assert (failed["reason"], failed["lastTransitionTime"]) == ("ArtifactsMissing", NOW)
    assert failed["message"] == (
        "1 of 1 artifacts are not in MongoDB any more: model.keras. Restore MongoDB from a backup, or create a new "
        "session; the accuracy was measured and stays."
    )
    assert condition(found, "Finished")["lastTransitionTime"] == condition(succeeded, "Finished")["lastTransitionTime"]
    assert condition(found, "Running") == condition(succeeded, "Running")
    assert missing.is_condemned(found)
    assert not missing.claims_success(found)
    assert changes(found, RECORD) == {}


def test_when_they_are_there_again_it_is_what_it_was(succeeded):
    found = missing.restated(missing.restated(succeeded, RECORD, (), NOW), RECORD, (ID,), NOW)
    for kind in ("Complete", "Failed"):
        assert condition(found, kind)["lastTransitionTime"] == NOW
        condition_of(found, kind)["lastTransitionTime"] = condition(succeeded, kind)["lastTransitionTime"]
    assert found == succeeded


def condition_of(status: Json, kind: str) -> Json:
    return next(one for one in status["conditions"] if one["type"] == kind)


def test_where_the_record_was_lost_with_all_files_the_status_keeps_what_it_knows(succeeded):
    found = missing.restated(succeeded, EMPTY, (), NOW)
    assert condition(found, "Failed")["reason"] == "ArtifactsMissing"
    assert (found["accuracy"], found["artifacts"]) == ("0.9625", succeeded["artifacts"])
    again = missing.restated(found, EMPTY, (ID,), NOW)
    assert (again["phase"], condition(again, "Complete")["message"]) == (
        "Succeeded",
        condition(succeeded, "Complete")["message"],
    )


def test_where_only_the_record_was_lost_the_success_stays(succeeded):
    assert changes(succeeded, EMPTY, ID) == {}


def test_the_lost_files_are_named_and_what_is_there_is_not(succeeded):
    names = [f"file-{index}" for index in range(12)]
    items = [artifact(name, f"{index:024x}") for index, name in enumerate(names)]
    found = missing.restated(succeeded, record(result=result(artifacts=items)), (items[0]["id"],), NOW)
    message = condition(found, "Failed")["message"]
    assert message.startswith(f"11 of 12 artifacts are not in MongoDB any more: {', '.join(names[1:9])} and 3 more. ")


@pytest.mark.parametrize(
    "edited",
    [{"accuracy": "1.0000"}, {"artifacts": [artifact("model.keras", OTHER)]}, {"accuracy": None}],
    ids=["the accuracy", "the artifacts", "no accuracy"],
)
def test_what_was_edited_by_hand_is_put_right_from_the_record(succeeded, edited):
    status = {key: value for key, value in {**succeeded, **edited}.items() if value is not None}
    assert missing.restated(status, RECORD, (ID,), NOW) == succeeded


@pytest.mark.parametrize("phase", ["Training", "Failed"])
def test_a_phase_that_was_edited_by_hand_is_put_right(succeeded, phase):
    status = {**succeeded, "phase": phase}
    assert missing.claims_success(status)
    assert missing.restated(status, RECORD, (ID,), NOW) == succeeded


def test_a_condition_that_was_removed_by_hand_is_there_again(succeeded):
    status = copy.deepcopy(succeeded)
    status["conditions"] = [one for one in status["conditions"] if one["type"] != "Failed"]
    found = missing.restated(status, RECORD, (ID,), NOW)
    assert condition(found, "Failed")["status"] == "False"
    assert {one["type"] for one in found["conditions"]} == {one["type"] for one in succeeded["conditions"]}


@pytest.mark.parametrize("lacks", ["accuracy", "artifacts"])
def test_a_claim_with_nothing_behind_it_is_a_failure(succeeded, lacks):
    status = {key: value for key, value in succeeded.items() if key != lacks}
    found = missing.restated(status, record(attempt="x"), (ID,), NOW)
    assert condition(found, "Failed")["message"].startswith("MongoDB holds no result of the session any more. ")
    assert found["phase"] == "Failed"


def test_a_session_that_was_answered_from_another_says_so_again(succeeded):
    found = RECORD | {"reusedFrom": {"name": "first", "uid": "0f6a2f6e-0000-4a6e-9d1c-6f1f7a3c2b10"}}
    before = decide(session(), Observed(record=found), THEN).status
    lost = missing.restated(before, found, (), NOW)
    assert condition(lost, "Complete")["reason"] == "ArtifactsMissing"
    for known in (found, EMPTY):
        again = condition(missing.restated(lost, known, (ID,), NOW), "Complete")
        assert {**again, "lastTransitionTime": None} == {**condition(before, "Complete"), "lastTransitionTime": None}
        assert again["reason"] == "ResultReused"


def test_a_session_that_published_no_artifacts_has_lost_none(succeeded):
    found = record(result=result(artifacts=[]))
    status = missing.restated(succeeded, found, (), NOW)
    assert (status["phase"], status["artifacts"]) == ("Succeeded", [])
    assert changes(status, found) == {}


def test_a_failure_of_another_kind_claims_nothing(succeeded):
    failed = decide(session(), Observed(job=job(("Failed", "BackoffLimitExceeded", "")), record=record()), THEN).status
    for status in (failed, {**failed, "phase": "Pending", "conditions": []}, {}):
        assert not missing.claims_success(status)
        assert not missing.is_condemned(status)
