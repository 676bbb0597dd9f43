"""What deleted sessions left goes from a real mongod: never too early, and completely wherever it is interrupted."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId
from pymongo.database import Database

from builders import record, result
from killable_database import KillableDatabase, Killed, Killer, killed_at
from stored import DAY, everything, store_file
from trainingsession_operator import deleted as module
from trainingsession_operator.deleted import (
    Comparison,
    compare,
    mark_missing,
    note_deletions,
    remove_deleted,
    remove_ended_checkpoints,
)
from trainingsession_operator.storage import make_indexes, server_time
from trainingsession_operator.sweep import Removed, sweep

Json = dict[str, Any]
SIZE = 300_000
HOUR, NOTHING = timedelta(hours=1), timedelta(0)
CHECKPOINTS = "checkpoints of deleted sessions"
RECORDS = "artifacts and records of deleted sessions"


def uid() -> str:
    return str(uuid.uuid4())


def before(database: Database[Json], age: timedelta) -> Json:
    """A moment by MongoDB's clock."""
    return {"$subtract": ["$$NOW", int(1000 * age.total_seconds())]}


def store(
    database: Database[Json],
    policy: str = "Delete",
    *,
    artifacts: tuple[ObjectId, ...] | None = None,
    missing: timedelta | None = None,
    checkpoint: bool = False,
    **fields: Any,
) -> str:
    """Store the record of a session that published two files, or those that are named; returns its UID."""
    if artifacts is None:
        artifacts = (store_file(database, "artifacts", SIZE, 2 * DAY), store_file(database, "artifacts", SIZE, 2 * DAY))
    items = [{"name": f"file-{index}", "id": str(one)} for index, one in enumerate(artifacts)]
    made = record(result=result(artifacts=items), deletionPolicy=policy) | {"_id": uid()} | fields
    if checkpoint:
        made["checkpoint"] = {"file": store_file(database, "checkpoints", SIZE, 2 * DAY)}
    database["sessions"].insert_one(made)
    times = {"createdAt": before(database, 3 * DAY)}
    if missing is not None:
        times["missingSince"] = before(database, missing)
    database["sessions"].update_one({"_id": made["_id"]}, [{"$set": times}])
    return str(made["_id"])


def found(database: Database[Json], of: str) -> Json:
    one = database["sessions"].find_one({"_id": of})
    assert one is not None
    return one


def listed(*uids: str, policy: str = "Delete") -> dict[str, str]:
    return dict.fromkeys(uids, policy)


def missing_uids(database: Database[Json]) -> set[str]:
    return set(database["sessions"].distinct("_id", {"missingSince": {"$type": "date"}}))


def remove(database: Database[Json], there: dict[str, str], **options: Any) -> list[Removed]:
    return remove_deleted(database, there, server_time(database) - DAY, **options)


def test_a_record_whose_session_is_not_listed_is_marked_by_mongodb_s_clock_and_not_again(database):
    here, gone = store(database), store(database)
    now = server_time(database)
    assert compare(database, listed(here), now) == Comparison(
        2, 1, 0, module.hashlib.sha256(gone.encode()).hexdigest()[:8]
    )
    mark_missing(database, listed(here), now)
    assert missing_uids(database) == {gone}
    since = found(database, gone)["missingSince"]
    assert now <= since <= server_time(database)
    assert compare(database, listed(here), now).vanished == 0
    mark_missing(database, listed(here), now)
    assert found(database, gone)["missingSince"] == since


def test_a_record_that_is_listed_again_is_as_if_nothing_had_been(database):
    back = store(database, missing=2 * DAY)
    note_deletions(database, {back: "Delete"})
    plain = store(database)
    compare(database, listed(back, plain), server_time(database))
    assert remove(database, {}) == []
    assert found(database, back).keys() == found(database, plain).keys()


def test_a_record_that_was_made_after_the_list_was_asked_for_is_left_alone(database):
    began = server_time(database)
    late = store(database)
    database["sessions"].update_one({"_id": late}, {"$set": {"createdAt": began}})
    assert compare(database, {}, began) == Comparison(digest=compare(database, {}, began).digest)
    mark_missing(database, {}, began)
    assert missing_uids(database) == set()


@pytest.mark.parametrize(
    ("was", "is_now"), [("Retain", "Delete"), ("Delete", "Retain"), (None, "Delete"), (7, "Retain")]
)
def test_the_policy_of_a_record_follows_its_session(database, was, is_now):
    one, other = store(database, was), store(database, is_now)
    database.command("profile", 2)
    compare(database, listed(one, other, policy=is_now), server_time(database))
    assert found(database, one)["deletionPolicy"] == is_now
    compare(database, listed(one, other, policy=is_now), server_time(database))
    database.command("profile", 0)
    writes = list(database["system.profile"].find({"op": "update", "ns": f"{database.name}.sessions"}))
    assert len(writes) == 1, "only where it differs, and only once"


@pytest.mark.parametrize(
    ("present", "vanished", "suspicious"),
    [(5, 5, False), (6, 6, True), (30, 6, False), (29, 6, True), (1000, 200, False), (1000, 201, True), (0, 0, False)],
)
def test_a_fifth_may_vanish_at_once_and_five_always(present, vanished, suspicious):
    assert Comparison(present, vanished).is_suspicious is suspicious


def test_a_deletion_that_was_seen_is_no_vanishing_and_brings_the_last_policy(database):
    seen, unseen = store(database, "Retain"), store(database)
    note_deletions(database, {seen: "Delete", uid(): "Delete"})
    when = found(database, seen)["deletedAt"]
    note_deletions(database, {seen: "Retain"})
    assert (found(database, seen)["deletedAt"], found(database, seen)["deletionPolicy"]) == (when, "Delete")
    assert database["sessions"].count_documents({}) == 2, "a session that never had a record gets none"
    assert compare(database, {}, server_time(database)) == Comparison(
        2, 1, 1, module.hashlib.sha256(unseen.encode()).hexdigest()[:8]
    )
    mark_missing(database, {}, server_time(database))
    assert missing_uids(database) == {seen, unseen}


def test_nothing_is_removed_within_the_grace_or_of_a_session_that_is_listed(database):
    young, back = (
        store(database, missing=DAY - HOUR, checkpoint=True),
        store(database, missing=2 * DAY, checkpoint=True),
    )
    was = everything(database)
    assert remove(database, listed(back)) == []
    assert everything(database) == was
    assert missing_uids(database) == {young, back}


def test_with_delete_everything_goes_and_with_retain_the_checkpoint(database):
    gone = store(database, missing=2 * DAY, checkpoint=True)
    kept = store(database, "Retain", missing=2 * DAY, checkpoint=True)
    here = store(database, checkpoint=True)
    assert remove(database, listed(here)) == [Removed(CHECKPOINTS, 2, 2 * SIZE), Removed(RECORDS, 3, 2 * SIZE)]
    assert set(database["sessions"].distinct("_id")) == {kept, here}
    assert "checkpoint" not in found(database, kept)
    assert database["artifacts.files"].count_documents({}) == 4
    assert database["checkpoints.files"].distinct("_id") == [found(database, here)["checkpoint"]["file"]]
    assert sweep(database, NOTHING) == []
    assert gone not in missing_uids(database)
    assert remove(database, listed(here)) == []


@pytest.mark.parametrize("policy", [None, "delete", 1, ["Delete", "x"]])
def test_a_policy_that_is_no_word_of_ours_removes_no_artifacts(database, policy):
    store(database, policy, missing=2 * DAY)
    was = everything(database)
    assert remove(database, {}) == []
    assert everything(database) == was


def test_artifacts_that_another_record_names_stay_until_the_last_of_them_goes(database):
    make_indexes(database)
    shared = store_file(database, "artifacts", SIZE, 2 * DAY)
    own = store_file(database, "artifacts", SIZE, 2 * DAY)
    store(database, artifacts=(shared, own), missing=2 * DAY)
    second = store(database, artifacts=(shared,))
    assert remove(database, listed(second)) == [Removed(RECORDS, 2, SIZE)]
    assert database["artifacts.files"].distinct("_id") == [shared]
    database["sessions"].update_one({"_id": second}, [{"$set": {"missingSince": before(database, 2 * DAY)}}])
    assert remove(database, {}) == [Removed(RECORDS, 2, SIZE)]
    assert everything(database) == {}


def test_two_deleted_sessions_that_share_their_artifacts_take_them_along_in_one_round(database):
    shared = store_file(database, "artifacts", SIZE, 2 * DAY)
    for _ in range(2):
        store(database, artifacts=(shared,), missing=2 * DAY)
    assert remove(database, {}) == [Removed(RECORDS, 3, SIZE)]
    assert everything(database) == {}


def test_a_retained_session_keeps_what_it_shares_with_a_deleted_one(database):
    shared = store_file(database, "artifacts", SIZE, 2 * DAY)
    store(database, artifacts=(shared,), missing=2 * DAY)
    store(database, "Retain", artifacts=(shared,), missing=2 * DAY)
    assert remove(database, {}) == [Removed(RECORDS, 1, 0)]
    assert database["artifacts.files"].distinct("_id") == [shared]


@pytest.mark.parametrize(
    "strange",
    [{"result": 7}, {"result": {"artifacts": [1, {"id": 5}, {"id": "x"}, {"id": [1]}, {}]}}, {"checkpoint": 5},
     {"checkpoint": {"file": None}}, {"checkpoint": {"file": ["x"]}}, {"checkpoint": {"file": "é" * 12}}],
)  # fmt: skip
def test_a_record_of_strange_types_goes_too(database, strange):
    store(database, artifacts=(), missing=2 * DAY, **strange)
    remove(database, {})
    assert everything(database) == {}


def test_what_a_huge_record_names_is_left_to_the_sweep(database, monkeypatch):
    monkeypatch.setattr(module, "LARGEST_RECORD", 500)
    store(database, missing=2 * DAY, note="x" * 500)
    store(database)
    assert remove(database, {}) == [Removed(RECORDS, 1, 0)]
    assert sweep(database, DAY) == [Removed("files of artifacts that nothing names", 2, 2 * SIZE)]


def test_many_records_are_looked_at_in_parts(database, monkeypatch):
    monkeypatch.setattr(module, "RECORDS", 3)
    monkeypatch.setattr(module, "TO_REMOVE", 2)
    for _ in range(7):
        store(database, artifacts=())
    here = store(database)
    now = server_time(database)
    assert compare(database, listed(here), now).vanished == 7
    mark_missing(database, listed(here), now)
    assert len(missing_uids(database)) == 7
    assert remove_deleted(database, listed(here), server_time(database)) == [Removed(RECORDS, 7, 0)]
    assert database["sessions"].distinct("_id") == [here]


def test_documents_that_are_no_records_of_sessions_are_left_alone(database):
    database["sessions"].insert_many(
        [{"_id": 5}, {"_id": "x"}, {"_id": ObjectId(), "missingSince": datetime(2020, 1, 1)}]
    )
    assert compare(database, {}, server_time(database)).present == 0
    mark_missing(database, {}, server_time(database))
    assert remove(database, {}) == []
    assert database["sessions"].count_documents({}) == 3


def a_namespace(database: Database[Json]) -> dict[str, str]:
    """Two deleted sessions that share a file, a retained one, and one that is there; returns what is listed."""
    shared = store_file(database, "artifacts", SIZE, 2 * DAY)
    own = store_file(database, "artifacts", SIZE, 2 * DAY)
    store(database, artifacts=(shared, own), missing=2 * DAY, checkpoint=True)
    store(database, artifacts=(shared,), missing=2 * DAY)
    store(database, "Retain", missing=2 * DAY, checkpoint=True)
    return listed(store(database, checkpoint=True))


def assert_is_done(database: Database[Json]) -> None:
    """Nothing is left but the retained session's artifacts and the one that is there, and what is named is whole."""
    records = list(database["sessions"].find())
    assert len(records) == 2
    named = {ObjectId(item["id"]) for one in records for item in one["result"]["artifacts"]}
    assert set(database["artifacts.files"].distinct("_id")) == named
    assert database["artifacts.chunks"].count_documents({}) == 2 * len(named) == 8
    checkpoints = [one["checkpoint"]["file"] for one in records if "checkpoint" in one]
    assert database["checkpoints.files"].distinct("_id") == checkpoints
    assert database["checkpoints.chunks"].count_documents({}) == 2 == 2 * len(checkpoints)


def test_killed_after_any_write_the_next_round_does_the_rest(database):
    kills = 0
    while True:
        kills += 1
        there, killer = a_namespace(database), Killer(at=kills)
        try:
            remove(KillableDatabase(database, killer), there)
        except Killed:
            remove(database, there)
        assert_is_done(database)
        database.client.drop_database(database.name)
        if kills > killer.writes:
            break
    # Two checkpoints of a file, its chunks and an unsetting; two artifacts of two; two records that say it before.
    assert killer.writes == 2 * 3 + 2 * 2 + 2 * 2


def test_killed_before_any_deletion_the_next_round_does_the_rest(database):
    call = 0
    while True:
        call += 1
        there = a_namespace(database)
        try:
            remove(database, there, pace=killed_at(call))
        except Killed:
            remove(database, there)
            assert_is_done(database)
            database.client.drop_database(database.name)
        else:
            break
    assert_is_done(database)
    # Before each of two checkpoints, two artifacts and two records, and before each end.
    assert call - 1 == 2 + 4 + 2


def test_a_round_that_must_stop_goes_on_in_the_next(database):
    there = a_namespace(database)
    left = iter([True] * 4)
    done = remove(database, there, pace=lambda: next(left, False))
    assert [(one.what, one.count) for one in done] == [(CHECKPOINTS, 2), (RECORDS, 1)]
    remove(database, there)
    assert_is_done(database)


def test_a_checkpoint_goes_a_while_after_its_session_s_end(database):
    now = server_time(database)
    ends = {"ended": {"phase": "Failed", "at": now - HOUR}}, {"ended": {"phase": "Failed", "at": now}}, {}
    failed, just_failed, live = (store(database, checkpoint=True, **one) for one in ends)
    database["sessions"].update_many({}, {"$unset": {"result": ""}})
    published, just_published = store(database, checkpoint=True), store(database, checkpoint=True)
    database["sessions"].update_one({"_id": published}, {"$set": {"result.publishedAt": now - HOUR}})
    database["sessions"].update_one({"_id": just_published}, {"$set": {"result.publishedAt": now}})
    removed = remove_ended_checkpoints(database, now - timedelta(minutes=10))
    assert (removed.count, removed.bytes) == (2, 2 * SIZE)
    left = {one: "checkpoint" in found(database, one) for one in (failed, just_failed, live, published, just_published)}
    assert list(left.values()) == [False, True, True, False, True]
    assert database["checkpoints.files"].count_documents({}) == 3
    assert database["checkpoints.chunks"].count_documents({}) == 6


class NamedMeanwhile(Database[Json]):
    """A trainer that lives on behind a lost node names another checkpoint while the first one is removed."""

    another: ObjectId | None = None

    def __getitem__(self, name: str) -> Any:
        plain = Database[Json](self.client, self.name)
        if name == "checkpoints.files" and self.another is None:
            self.another = store_file(plain, "checkpoints", SIZE)
            plain["sessions"].update_one({}, {"$set": {"checkpoint.file": self.another}})
        return super().__getitem__(name)


def test_a_checkpoint_that_is_named_meanwhile_is_left_to_the_next_round(database):
    now = server_time(database)
    ended = store(database, checkpoint=True, ended={"phase": "Failed", "at": now})
    removing = NamedMeanwhile(database.client, database.name)
    remove_ended_checkpoints(removing, now)
    assert found(database, ended)["checkpoint"]["file"] == removing.another
    assert database["checkpoints.files"].distinct("_id") == [removing.another]
    remove_ended_checkpoints(database, now)
    assert "checkpoint" not in found(database, ended)
    assert database["checkpoints.files"].count_documents({}) == 0


def test_a_look_at_records_that_are_right_writes_nothing(database):
    make_indexes(database)
    there = listed(*(store(database, artifacts=()) for _ in range(50)))
    kept = [store(database, "Retain", artifacts=(), missing=9 * DAY) for _ in range(50)]
    database.command("profile", 2)
    assert compare(database, there, server_time(database)) == Comparison(
        50, 0, 0, compare(database, there, server_time(database)).digest
    )
    assert remove(database, there) == []
    assert remove_ended_checkpoints(database, server_time(database)).count == 0
    database.command("profile", 0)
    asked = [one["op"] for one in database["system.profile"].find({"ns": f"{database.name}.sessions"})]
    assert len(asked) == 5, "two comparisons, deleted checkpoints, deleted records, ended checkpoints"
    assert set(asked) <= {"command", "query"}
    assert set(kept) == missing_uids(database)
