"""MongoDB's part of the faults that the operator must survive: connections that drop, and records that lie."""

from __future__ import annotations

import json
import uuid

import pytest
from bson import ObjectId

from builders import condition


def a_session(lane):
    name = f"session-{uuid.uuid4().hex[:8]}"
    uid = lane.create(name)
    attempt = lane.attempt(uid)
    attempt.start()
    lane.phase(uid, "Extracting")
    return uid, attempt


def test_what_changed_while_the_change_stream_was_lost_is_read_again(lane):
    uid, attempt = a_session(lane)
    with lane.mongo.away():
        # Nothing but the record changes, and no event of Kubernetes tells of it.
        attempt.train()
    lane.phase(uid, "Training")
    published = attempt.publish(0.9625)
    attempt.end(0)
    lane.check_succeeded(uid, published)


def test_without_mongodb_no_end_is_claimed_and_the_result_is_shown_when_it_is_back(lane):
    uid, attempt = a_session(lane)
    with lane.mongo.away():
        published = attempt.publish(0.9625)
        attempt.end(0)
        lane.watch.wait_for(
            "the reason", lambda: condition(lane.watch.status(uid), "PodsReady")["reason"] == "StorageUnavailable"
        )
        assert lane.operator.probe() == 200
    assert lane.finished(uid)["phase"] == "Succeeded"
    assert lane.watch.status(uid)["artifacts"] == published["artifacts"]
    lane.check_trained_once(uid)


@pytest.mark.parametrize("where", ["progress", "samples", "features", "trainer", "measured", "failure", "result"])
def test_a_hostile_record_has_no_patch_refused_and_the_session_goes_on(lane, where):
    uid, attempt = a_session(lane)
    asked = len(lane.proxy.requests)
    hostile = {
        "progress": {"epoch": float("nan"), "epochs": -1, "percent": 10**30 * 1.0, "loss": "x" * 2**20},
        "samples": {"train": True, "validation": "many", "test": 2**63 - 1},
        "features": {"key": "k" * 2**20, "shards": -5, "reused": float("inf")},
        "trainer": {"image": 7, "versions": {f"name-{i}" * 100: "v" * 1000 for i in range(1000)}},
        "measured": {"accuracy": float("inf")},
        "failure": {"exitCode": "0", "message": ["no"], "reason": "x" * 2**20, "attempt": attempt.uid},
        "result": {"accuracy": "1.0", "metrics": [None, {"name": "a" * 2**20}], "artifacts": {"id": ObjectId()}},
    }  # fmt: skip
    sessions = attempt.database["sessions"]
    sessions.update_one({"_id": uid}, {"$set": {where: hostile[where], "phase": "Training"}})
    lane.phase(uid, "Training")
    assert len(json.dumps(lane.watch.status(uid))) < 2**16
    sessions.update_one({"_id": uid}, {"$unset": {where: 1}})
    published = attempt.publish(0.9625)
    attempt.end(0)
    lane.check_succeeded(uid, published)
    assert {code for _, request, code in lane.proxy.requests[asked:] if request.is_write} <= {200, 201, 409}


def test_a_record_that_names_another_sessions_attempt_moves_neither(lane):
    (uid, attempt), (other, beside) = a_session(lane), a_session(lane)
    stolen = {"attempt": beside.uid, "name": "other", "_stolen": other, "phase": "Training"}
    attempt.database["sessions"].update_one({"_id": uid}, {"$set": stolen})
    published = beside.publish(0.9375)
    beside.end(0)
    lane.check_succeeded(other, published)
    assert lane.watch.status(uid)["phase"] == "Extracting"
    attempt.database["sessions"].update_one({"_id": uid}, {"$set": {"attempt": attempt.uid}})
    published = attempt.publish(0.9625)
    attempt.end(0)
    lane.check_succeeded(uid, published)
