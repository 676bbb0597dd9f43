"""What tells that a database came back from a backup, and when that of a namespace that is gone may be dropped."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import Any

import pytest
from pymongo.database import Database

from builders import record
from stored import DAY, everything, set_bytes, store_digests, store_facts, store_file, store_set, store_weights
from trainingsession_operator import gone, sentinel
from trainingsession_operator.storage import server_time

Json = dict[str, Any]
GRACE = timedelta(hours=24)


def look(database: Database[Json], age: timedelta = timedelta(0)) -> sentinel.Sentinel:
    """Look after the database, as an operator did `age` ago."""
    found = sentinel.refresh(database, sentinel.read(database), server_time(database))
    if age:
        database[sentinel.COLLECTION].update_one({}, {"$set": {"seenAt": server_time(database) - age}})
        found = sentinel.read(database)
    return found


def test_the_sentinel_is_written_once_a_day(database):
    assert sentinel.read(database) == sentinel.Sentinel()
    first = look(database)
    assert first.seen_at is not None
    assert look(database) == first
    almost = look(database, timedelta(hours=23, minutes=59))
    assert look(database) == almost
    older = look(database, DAY)
    assert look(database).seen_at > older.seen_at


def test_a_doubt_stays_until_it_is_confirmed_and_is_then_another(database):
    look(database)
    doubted = sentinel.doubt(database)
    assert len(doubted.doubt) == 8
    assert sentinel.doubt(database).doubt == doubted.doubt
    assert look(database).doubt == doubted.doubt
    confirmed = sentinel.confirm(database)
    assert confirmed.doubt == ""
    assert confirmed.confirmed_at <= server_time(database)
    assert sentinel.doubt(database).doubt not in ("", doubted.doubt)


@pytest.mark.parametrize("strange", [{"seenAt": "now", "doubt": 5, "confirmedAt": []}, {"doubt": "x" * 9999}])
def test_a_sentinel_that_was_written_by_somebody_else_says_nothing(database, strange):
    database[sentinel.COLLECTION].insert_one({"_id": sentinel.ID, **strange})
    assert sentinel.read(database) == sentinel.Sentinel()
    assert look(database).seen_at is not None


def store(database: Database[Json], policy: str = "Delete", deleted: timedelta | None = 3 * DAY) -> None:
    fields: Json = {"_id": str(uuid.uuid4()), "deletionPolicy": policy}
    if deleted is not None:
        fields["deletedAt"] = server_time(database) - deleted
    database["sessions"].insert_one(record() | fields)


def why_kept(database: Database[Json]) -> str:
    return gone.why_kept(database, server_time(database), GRACE)


def test_a_database_is_dropped_when_every_deletion_was_seen_and_nobody_has_looked_after_it(database):
    store(database)
    look(database, 3 * DAY)
    assert why_kept(database) == ""


def test_one_that_never_had_a_sentinel_waits_for_the_grace_from_when_it_is_noticed(database):
    store(database)
    assert why_kept(database) == "its namespace is gone only since a short time"
    look(database, GRACE + DAY - timedelta(minutes=1))
    assert why_kept(database) == "its namespace is gone only since a short time"
    look(database, GRACE + DAY)
    assert why_kept(database) == ""


def test_one_that_an_operator_of_another_cluster_looks_after_stays(database):
    store(database)
    look(database, timedelta(hours=23))
    assert why_kept(database) != ""


@pytest.mark.parametrize("deleted", [None, timedelta(hours=23)], ids=["seen by nobody", "within the grace"])
def test_one_session_whose_deletion_is_not_proven_is_enough_to_keep_everything(database, deleted):
    store(database)
    store(database, "Delete", deleted)
    store(database, "Retain")
    look(database, 3 * DAY)
    assert why_kept(database) == "it holds what sessions left of which no deletion was seen until the grace ago"


def test_one_session_with_retain_keeps_the_artifacts_and_records_but_no_features(database):
    store(database)
    store(database, "Retain")
    look(database, 3 * DAY)
    assert why_kept(database) == gone.RETAINED
    store_set(database, "a", shards=1, baseWeights="w" * 64)
    store_weights(database, "w" * 64, 2000)
    store_file(database, "checkpoints", 100)
    store_digests(database, "flowers file:///", 50)
    store_facts(database, "one", "two")
    artifact = store_file(database, "artifacts", 100)
    assert gone.drop_features(database) == set_bytes(1) + 2000 + 150
    assert everything(database).keys() == {"sessions", "operator", "artifacts.files", "artifacts.chunks"}
    assert database["artifacts.files"].distinct("_id") == [artifact]
    assert gone.drop_features(database) == 0


def test_a_database_that_came_back_from_a_backup_stays(database):
    store(database)
    look(database)
    sentinel.doubt(database)
    look(database, 3 * DAY)
    assert why_kept(database) == "it came back from a backup, and nobody has confirmed it"


def test_the_bytes_of_all_buckets_are_counted(database):
    for bucket in ("features", "artifacts", "checkpoints", "digests"):
        store_file(database, bucket, 100)
    assert gone.stored_bytes(database) == 400
    assert isinstance(server_time(database), datetime)
