"""A status is read only where it has its form; whatever stands in it, a look at the session comes to an end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import NOW, STARTED, condition, job, record, resource, result, running, session
from memory_world import merged
from trainingsession_operator import missing
from trainingsession_operator.decide import decide
from trainingsession_operator.observed import Observed
from trainingsession_operator.readable import FORM, readable
from trainingsession_operator.refusals import failed_look, unreadable
from trainingsession_operator.resource import parse_session
from trainingsession_operator.status import is_as_written, is_finished, merge_patch, pending_since

TIME = {"lastTransitionTime": STARTED}
CONDITION = {"type": "Finished", "status": "True", "reason": "ResultPublished", "message": "", **TIME}


@pytest.mark.parametrize("status", [None, "text", 3, [], [{"phase": "Failed"}]])
def test_what_is_no_object_says_nothing(status):
    assert readable(status) == {}


@pytest.mark.parametrize(
    ("status", "read"),
    [
        ({"phase": "Paused", "jobName": "a"}, {"jobName": "a"}),
        ({"attempts": "3", "disruptions": True, "gpuSeconds": -1}, {}),
        ({"startTime": "yesterday", "completionTime": "2024-05-06T12:00:00"}, {}),
        ({"progress": {"percent": "ten", "epoch": 1}}, {}),
        ({"progress": {"epoch": 1, "of a newer version": [1]}},) * 2,
        ({"artifacts": [{"name": "model.keras"}]}, {}),
        ({"conditions": "none"}, {}),
        ({"conditions": [3, CONDITION, {**CONDITION, "status": "Perhaps"}]}, {"conditions": [CONDITION]}),
        ({"conditions": [{"type": "Running", "status": "False"}]},) * 2,
        ({"of a newer version": 1}, {}),
    ],
)
def test_only_what_has_its_form_is_read(status, read):
    assert readable(status) == read


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.sampled_from(["", "x", "True", "Failed", STARTED, "1.0000"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "type", "x"]), inner),
    max_leaves=6,
)
CONDITIONS = st.lists(
    JSON
    | st.fixed_dictionaries(
        {"type": st.sampled_from(["Finished", "Suspended", "PodsReady", "Failed"])},
        optional=dict.fromkeys(("status", "reason", "message", "lastTransitionTime"), JSON),
    ),
    max_size=4,
)
STATUSES = JSON | st.dictionaries(st.sampled_from(list(FORM)), JSON, max_size=8).flatmap(
    lambda given: CONDITIONS.map(lambda conditions: {**given, "conditions": conditions})
)
OBSERVED = st.sampled_from([
    Observed(step=None, record=record()),
    Observed(record=record()),
    Observed(job(active=1), (running(),), record=record(attempt="pod-1", phase="Training")),
    Observed(job(("Failed", "DeadlineExceeded", "")), record=record()),
    Observed(job(("Complete", "Done", "")), record=record(result=result())),
])  # fmt: skip
LIMITS = {"runPolicy": {"pendingDeadlineSeconds": 5, "activeDeadlineSeconds": 9, "maxDisruptions": 1}}


@given(STATUSES, OBSERVED)
def test_no_status_keeps_a_session_from_being_looked_at_and_told_the_truth(status, observed):
    given_ = {**resource(**LIMITS), "status": status}
    one = parse_session(given_)
    assert (pending_since(given_) is None) or isinstance(pending_since(given_), str)
    decisions = [
        decide(one, observed, NOW),
        unreadable(one, "The spec cannot be read.", NOW),
        failed_look(one, KeyError("secret"), NOW),
    ]
    for decision in decisions:
        new = decision.status
        assert readable(new) == new, "the next look can read it"
        assert merged(one.raw_status, merge_patch(one.raw_status, new)) == new
        assert "secret" not in str(new)
        assert not is_finished(new) or is_as_written(new)
    if missing.claims_success(one.status):
        missing.restated(one.status, {}, (), STARTED)


def test_a_session_that_cannot_be_read_keeps_what_was_told_and_is_at_no_end():
    known = {"phase": "Training", "jobName": "j", "startTime": STARTED, "attempts": 2, "completionTime": STARTED}
    before = {**known, "conditions": [{"type": "PodsReady", "status": "True", "reason": "R", "message": "", **TIME}]}
    decision = unreadable(session(before), "The spec cannot be read.", NOW)
    assert {name: decision.status.get(name) for name in known} == {**known, "completionTime": None}
    told = {c["type"]: (c["status"], c["reason"]) for c in decision.status["conditions"]}
    assert told["Accepted"] == ("False", "InvalidSpec")
    assert told["PodsReady"] == told["Running"] == ("Unknown", "InvalidSpec")
    assert told["Finished"] == ("False", "NotFinished")
    assert decision.actions == ()


def test_what_is_told_of_a_bug_names_its_kind_and_not_its_words():
    decision = failed_look(session(), KeyError("password"), NOW)
    found = condition(decision.status, "Accepted")
    assert (found["status"], found["reason"]) == ("Unknown", "LookFailed")
    assert "(KeyError)" in found["message"]
    again = failed_look(session(decision.status), KeyError("password"), NOW)
    assert merge_patch(decision.status, again.status) == {}
