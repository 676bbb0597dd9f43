"""What nothing names is swept from a real mongod; what is named, or too young to be judged, stays."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import pytest
from pymongo.database import Database

from builders import record, result
from stored import (
    DAY,
    SHARD_BYTES,
    THUMBNAIL_BYTES,
    everything,
    key_of,
    lease_shard,
    open_set,
    store_digests,
    store_facts,
    store_file,
    store_set,
    store_shard,
    store_weights,
)
from trainingsession_operator import sweep as module
from trainingsession_operator.storage import make_indexes
from trainingsession_operator.sweep import Removed, sweep

Json = dict[str, Any]
BUCKETS = ("features", "artifacts", "checkpoints")
OLD, YOUNG = timedelta(hours=25), timedelta(hours=23)
NOTHING = timedelta(0)
FILE = "files of {} that nothing names"
CHUNKS = "files of {} of which only chunks are there"
STRAYS = "shards of evicted feature sets"
WEIGHTS = "base weights that no feature set names"
DIGESTS = "digests of files that no feature set names"
FACTS = "facts of data sets that no feature set names"
SIZE = 300_000


def has_file(database: Database[Json], bucket: str, file_id: Any) -> bool:
    file = database[f"{bucket}.files"].find_one({"_id": file_id})
    chunks = database[f"{bucket}.chunks"].count_documents({"files_id": file_id})
    return file is not None and chunks == -(-file["length"] // file["chunkSize"])


@pytest.fixture(autouse=True)
def one_record(database):
    """Of another session, so that the records are not taken for lost."""
    database["sessions"].insert_one(record())


@pytest.mark.parametrize("bucket", BUCKETS)
def test_a_file_that_nothing_names_is_swept_when_it_is_older_than_the_grace(database, bucket):
    old, young = store_file(database, bucket, SIZE, OLD), store_file(database, bucket, SIZE, YOUNG)
    assert sweep(database, DAY) == [Removed(FILE.format(bucket), 1, SIZE)]
    assert not has_file(database, bucket, old)
    assert database[f"{bucket}.chunks"].distinct("files_id") == [young]
    assert has_file(database, bucket, young)
    assert sweep(database, DAY) == []
    assert sweep(database, NOTHING) == [Removed(FILE.format(bucket), 1, SIZE)]
    assert sweep(database, NOTHING) == []


@pytest.mark.parametrize("bucket", BUCKETS)
def test_an_upload_that_took_long_counts_from_its_end(database, bucket):
    file_id = store_file(database, bucket, SIZE, OLD)
    database[f"{bucket}.files"].update_one({"_id": file_id}, [{"$set": {"uploadDate": "$$NOW"}}])
    assert sweep(database, DAY) == []
    assert has_file(database, bucket, file_id)


@pytest.mark.parametrize("bucket", [*BUCKETS, "digests"])
def test_chunks_without_a_file_are_swept_when_they_are_older_than_the_grace(database, bucket):
    files = [store_file(database, bucket, SIZE, age) for age in (OLD, OLD, YOUNG)]
    database[f"{bucket}.files"].delete_many({})
    # A removal that was interrupted in the middle.
    database[f"{bucket}.chunks"].delete_one({"files_id": files[1], "n": 0})
    rest = SIZE - 255 * 1024
    assert sweep(database, DAY) == [Removed(CHUNKS.format(bucket), 2, SIZE + rest)]
    assert database[f"{bucket}.chunks"].distinct("files_id") == files[2:]


def test_features_that_are_named_stay(database):
    store_weights(database, "w" * 64, 2000, OLD)
    store_set(database, "a", age=OLD, baseWeights="w" * 64)
    before = everything(database)
    assert sweep(database, NOTHING) == []
    assert everything(database) == before


@pytest.mark.parametrize("form", [str, lambda file_id: file_id], ids=["as text", "as an ObjectId"])
def test_artifacts_and_checkpoints_that_a_record_names_stay(database, form):
    make_indexes(database)
    artifact, checkpoint = (store_file(database, bucket, SIZE, OLD) for bucket in ("artifacts", "checkpoints"))
    other = store_file(database, "artifacts", SIZE, OLD)
    named = {"result": result(artifacts=[{"name": "a", "id": form(artifact)}, {"name": "b", "id": form(other)}])}
    database["sessions"].insert_one(record(**named, checkpoint={"file": form(checkpoint)}) | {"_id": "another"})
    assert sweep(database, NOTHING) == []
    assert has_file(database, "artifacts", artifact)
    assert has_file(database, "artifacts", other)
    assert has_file(database, "checkpoints", checkpoint)
    database["sessions"].update_one({"_id": "another"}, {"$unset": {"checkpoint": ""}})
    assert sweep(database, DAY) == [Removed(FILE.format("checkpoints"), 1, SIZE)]


def test_where_no_record_is_left_no_artifact_is_removed(database, caplog):
    artifact = store_file(database, "artifacts", SIZE, OLD)
    shard = store_file(database, "features", SIZE, OLD)
    database["sessions"].delete_many({})
    with caplog.at_level(logging.WARNING):
        assert sweep(database, DAY) == [Removed(FILE.format("features"), 1, SIZE)]
    assert has_file(database, "artifacts", artifact)
    assert not has_file(database, "features", shard)
    assert "holds artifacts but no record of a session" in caplog.text


def test_base_weights_go_when_the_last_set_that_names_them_is_gone(database):
    weights = store_weights(database, "w" * 64, 2000, OLD)
    young = store_weights(database, "v" * 64, 2000, YOUNG)
    store_set(database, "a", baseWeights="w" * 64)
    assert sweep(database, DAY) == []
    database["feature_sets"].update_one({"_id": key_of("a")}, {"$unset": {"baseWeights": ""}})
    assert sweep(database, DAY) == [Removed(WEIGHTS, 1, 2000)]
    assert not has_file(database, "features", weights)
    assert has_file(database, "features", young)
    assert database["base_weights"].distinct("_id") == ["v" * 64]


def test_digests_of_a_folder_go_with_the_last_features_of_it(database):
    place = "flowers file:///pictures"
    digests = store_digests(database, place, 2000, OLD)
    young = store_digests(database, "flowers file:///others", 2000, YOUNG)
    store_set(database, "a", digestsOf=["other file:///", place])
    assert sweep(database, DAY) == []
    database["feature_sets"].update_one({"_id": key_of("a")}, {"$pull": {"digestsOf": place}})
    assert sweep(database, DAY) == [Removed(DIGESTS, 1, 2000)]
    assert not has_file(database, "digests", digests)
    assert has_file(database, "digests", young)


def test_digests_that_were_written_anew_are_kept_once(database):
    place = "flowers file:///pictures"
    store_digests(database, place, 2000, 2 * OLD)
    last = store_digests(database, place, 3000, OLD)
    store_set(database, "a", digestsOf=[place])
    assert sweep(database, DAY) == [Removed(DIGESTS, 1, 2000)]
    assert has_file(database, "digests", last)


def test_facts_of_a_data_set_go_with_the_last_features_of_either_split(database):
    store_set(database, "a", split="train", description={"order": "one"})
    store_set(database, "b", split="test", description={"order": "two"})
    store_facts(database, "one", "two", OLD)
    store_facts(database, "two", "one", OLD)
    store_facts(database, "three", "two", YOUNG)
    (swept,) = sweep(database, DAY)
    assert (swept.what, swept.count) == (FACTS, 1)
    assert 100 < swept.bytes < 1000
    assert sorted(database["dataset_facts"].distinct("trainOrder")) == ["one", "three"]
    database["feature_sets"].delete_one({"_id": key_of("b")})
    assert [(one.what, one.count) for one in sweep(database, DAY) if one.what == FACTS] == [(FACTS, 1)]


@pytest.mark.parametrize("odd", [{"$gt": ""}, None, 7])
def test_what_no_trainer_would_store_does_not_keep_others_from_being_swept(database, odd):
    database["dataset_facts"].insert_one({"_id": "odd", "trainOrder": odd, "testOrder": odd})
    file_id = store_digests(database, "a", 2000, OLD)
    database["digests.files"].update_one({"_id": file_id}, {"$set": {"filename": odd}, "$unset": {"uploadDate": ""}})
    assert [one.what for one in sweep(database, DAY)] == [DIGESTS, FACTS]


class NamedMeanwhile(Database[Json]):
    """A trainer stores a set that names the base weights, between the sweep's look and its removal of them."""

    looks = 0

    def __getitem__(self, name: str) -> Any:
        if name == "feature_sets":
            self.looks += 1
            if self.looks == 2:
                store_set(Database(self.client, self.name), "new", shards=0, baseWeights="w" * 64)
        return super().__getitem__(name)


def test_base_weights_that_a_new_set_names_meanwhile_stay(database):
    weights = store_weights(database, "w" * 64, 2000, OLD)
    before = database["base_weights"].find_one({})
    assert sweep(NamedMeanwhile(database.client, database.name), DAY) == []
    assert database["feature_sets"].count_documents({"baseWeights": "w" * 64}) == 1
    assert database["base_weights"].find_one({}) == before
    assert has_file(database, "features", weights)


def test_shards_that_were_stored_after_their_set_was_evicted_are_swept(database):
    store_set(database, "there", age=OLD)
    store_shard(database, "gone", 0, OLD)
    store_shard(database, "gone", 1, YOUNG)
    lease_shard(database, "gone", 2, timedelta(minutes=1))
    lease_shard(database, "gone", 3, -OLD)
    assert sweep(database, DAY) == [Removed(STRAYS, 2, SHARD_BYTES + THUMBNAIL_BYTES)]
    assert sorted(database["feature_shards"].distinct("index", {"set": key_of("gone")})) == [1, 2]
    assert database["feature_shards"].count_documents({"set": key_of("there")}) == 2


def test_shards_of_a_set_that_is_made_anew_meanwhile_stay(database):
    for index in range(3):
        store_shard(database, "gone", index, OLD)
    asked = 0

    def pace() -> bool:
        nonlocal asked
        asked += 1
        if asked == 2:  # the first shard is removed
            store_set(database, "gone", shards=0)
        return True

    assert sweep(database, DAY, pace) == [Removed(STRAYS, 1, SHARD_BYTES + THUMBNAIL_BYTES)]
    assert open_set(database, "gone")
    assert database["feature_shards"].count_documents({"set": key_of("gone")}) == 2


def test_many_files_and_chunks_are_swept_in_parts(database, monkeypatch):
    monkeypatch.setattr(module, "FILES", 3)
    monkeypatch.setattr(module, "CHUNKS", 3)
    kept = store_set(database, "a", shards=4, age=OLD)
    for _ in range(10):
        store_file(database, "features", 10, OLD)
    for _ in range(5):
        lost = store_file(database, "features", SIZE, OLD)
        database["features.files"].delete_one({"_id": lost})
    assert sweep(database, DAY) == [
        Removed(FILE.format("features"), 10, 100),
        Removed(CHUNKS.format("features"), 5, 5 * SIZE),
    ]
    assert database["feature_sets"].distinct("_id") == [kept]
    assert database["features.files"].count_documents({}) == 6
    assert database["features.chunks"].count_documents({}) == 10
    assert sweep(database, NOTHING) == []


def test_a_sweep_that_must_stop_says_what_it_did_and_the_next_goes_on(database, caplog):
    for _ in range(3):
        store_file(database, "artifacts", SIZE, OLD)
    left = iter([True] * 6)
    with caplog.at_level(logging.INFO):
        done = sweep(database, DAY, lambda: next(left, False))
    assert done == [Removed(FILE.format("artifacts"), 2, 2 * SIZE)]
    assert f"removed 2 {FILE.format('artifacts')}, {2 * SIZE} bytes" in caplog.text
    assert sweep(database, DAY) == [Removed(FILE.format("artifacts"), 1, SIZE)]


def test_a_sweep_that_finds_nothing_reads_no_chunk(database):
    store_set(database, "a", shards=4, age=OLD)
    database.command("profile", 2)
    assert sweep(database, DAY) == []
    database.command("profile", 0)
    looks = list(database["system.profile"].find({"ns": f"{database.name}.features.chunks"}))
    assert sum(look["keysExamined"] for look in looks) == 10
    assert sum(look["docsExamined"] for look in looks) == 0
