"""Feature sets are evicted on a real mongod while trainers open them, compute them and make them anew."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from pymongo.database import Database

from killable_database import KillableDatabase, Killed, Killer
from stored import (
    SHARD_BYTES,
    THUMBNAIL_BYTES,
    everything,
    key_of,
    lease_shard,
    open_set,
    set_bytes,
    store_set,
    store_shard,
    store_weights,
    use_set,
)
from trainingsession_operator.eviction import StoredSet, bytes_of, next_to_evict
from trainingsession_operator.storage import (
    Eviction,
    complete_eviction,
    evict,
    make_indexes,
    marked_sets,
    read_sets,
)
from trainingsession_operator.sweep import sweep

Json = dict[str, Any]
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
NOTHING = timedelta(0)


def seen(database: Database[Json], name: str, *live: str) -> StoredSet:
    (found,) = (one for one in read_sets(database, live) if one.key == key_of(name))
    return found


def evict_seen(database: Database[Json], found: StoredSet, **options: Any) -> Eviction | None:
    return evict(database, found.key, found.used_at, **options)


def is_whole(database: Database[Json], name: str, shards: int = 2) -> bool:
    """Whether the set is there and each of its documents names a file with all of its chunks."""
    found = database["feature_sets"].find_one({"_id": key_of(name)})
    documents = list(database["feature_shards"].find({"set": key_of(name)}))
    if found is None or "evicting" in found or len(documents) != shards:
        return False
    thumbnails = [document["thumbnails"]["file"] for document in documents if "thumbnails" in document]
    for file_id in (found["manifest"]["file"], *thumbnails, *(document["file"] for document in documents)):
        file = database["features.files"].find_one({"_id": file_id})
        if file is None or file["length"] != sum(
            len(chunk["data"]) for chunk in database["features.chunks"].find({"files_id": file_id})
        ):
            return False
    return True


def test_a_set_counts_its_shards_its_manifest_and_its_base_weights_once(database):
    store_weights(database, "w" * 64, 5000)
    store_set(database, "a", shards=3, baseWeights="w" * 64)
    store_set(database, "b", shards=1, baseWeights="w" * 64)
    store_set(database, "without shards", shards=0)
    a, b = seen(database, "a"), seen(database, "b")
    assert (a.bytes, a.weights, a.weights_bytes) == (set_bytes(3), "w" * 64, 5000)
    assert bytes_of(read_sets(database)) == set_bytes(3) + set_bytes(1) + set_bytes(0) + 5000
    assert bytes_of([a, b]) == a.bytes + b.bytes + 5000


def test_sets_come_in_the_order_of_their_use_by_mongodb_s_clock(database):
    for name, used in (("middle", 2), ("old", 3), ("new", 1)):
        store_set(database, name, used=used * HOUR)
    found = read_sets(database)
    assert [one.key for one in found] == [key_of(name) for name in ("old", "middle", "new")]
    assert [int(one.idle_seconds // 3600) for one in found] == [3, 2, 1]


def test_a_set_that_was_never_opened_counts_from_when_it_was_made(database):
    store_set(database, "old", used=HOUR)
    database["feature_sets"].update_one({"_id": key_of("old")}, {"$unset": {"lastUsedAt": ""}})
    found = seen(database, "old")
    assert int(found.idle_seconds // 3600) == 1
    assert evict_seen(database, found).complete
    assert everything(database) == {}


@pytest.mark.parametrize(
    "need",
    [
        lambda database: use_set(database, "old", MINUTE),
        lambda database: lease_shard(database, "old", 7, MINUTE),
        lambda database: database["feature_sets"].update_one({"_id": key_of("old")}, {"$push": {"recipes": "live"}}),
    ],
    ids=["an attempt uses", "whose shard is leased", "that a live session's recipe leads to"],
)
def test_the_quota_evicts_the_least_recently_used_set_but_not_one(database, need):
    store_set(database, "old", used=3 * HOUR, recipes=["ended"])
    store_set(database, "middle", used=2 * HOUR, recipes=["ended"])
    store_set(database, "new", used=HOUR)
    assert next_to_evict(read_sets(database, ["live"]), 2 * set_bytes(), 600).key == key_of("old")
    need(database)
    chosen = next_to_evict(read_sets(database, ["live"]), 2 * set_bytes(), 600)
    assert chosen.key == key_of("middle")
    assert evict_seen(database, chosen) == Eviction(chosen.key, shards=2, bytes=set_bytes(), complete=True)
    assert is_whole(database, "new")
    assert not database["feature_shards"].find_one({"set": chosen.key})
    assert sweep(database, NOTHING) == []


def test_a_use_and_a_lease_that_have_passed_hold_nothing(database):
    store_set(database, "old")
    use_set(database, "old", -MINUTE)
    lease_shard(database, "old", 7, -MINUTE)
    assert not seen(database, "old").needed
    use_set(database, "old", MINUTE)
    assert seen(database, "old").needed


def test_a_set_that_is_opened_after_it_was_chosen_is_left_alone(database):
    store_set(database, "old")
    chosen = seen(database, "old")
    assert open_set(database, "old")
    before = everything(database)
    assert evict_seen(database, chosen) is None
    assert everything(database) == before
    assert is_whole(database, "old")


def test_two_evictors_of_one_set_remove_it_once(database):
    store_set(database, "old")
    chosen, other = seen(database, "old"), []

    def pace() -> bool:
        # The mark is there from the second time on.
        if marked_sets(database):
            other.append(complete_eviction(database, chosen.key))
        return True

    done = evict_seen(database, chosen, pace=pace)
    assert everything(database) == {}
    assert done.shards + sum(one.shards for one in other) == 2
    assert [done.complete, *(one.complete for one in other)].count(True) == 1


def test_killed_after_any_write_the_next_round_completes_the_eviction(database):
    kills = 0
    while True:
        kills += 1
        store_set(database, "old")
        lease_shard(database, "old", 2, -MINUTE)
        store_set(database, "other")
        killer = Killer(at=kills)
        try:
            evict_seen(KillableDatabase(database, killer), seen(database, "old"))
        except Killed:
            assert not open_set(database, "old"), "a trainer must find it either marked or gone"
            for key in marked_sets(database):
                assert complete_eviction(database, key).complete
        assert not database["feature_sets"].find_one({"_id": key_of("old")})
        assert not database["feature_shards"].find_one({"set": key_of("old")})
        sweep(database, NOTHING)
        assert is_whole(database, "other")
        assert database["features.files"].count_documents({}) == 4, "the other set's shards, thumbnails and manifest"
        assert database["features.chunks"].count_documents({}) == 6
        database.client.drop_database(database.name)
        if kills > killer.writes:
            break
    # The mark; a document, a file and its chunks of two shards; the thumbnails of one; the leased one; the manifest;
    # the set.
    assert killer.writes == 1 + 2 * 3 + 2 + 1 + 2 + 1


class Overtaker:
    """A trainer that finds the set marked: completes the eviction and stores the set anew, with other files.

    It does so before the evictor's `at`-th deletion; the shard that was leased before is so again, by the same worker.
    """

    def __init__(self, database: Database[Json], at: int) -> None:
        self.database, self.at, self.asked, self.done = database, at, 0, False

    def pace(self) -> bool:
        self.asked += 1
        # The first time is before the mark, when there is nothing to overtake.
        if self.asked == self.at + 1:
            complete_eviction(self.database, key_of("old"))
            store_set(self.database, "old", used=NOTHING, shards=3, age=NOTHING)
            lease_shard(self.database, "old", 3, MINUTE, token="same")
            self.done = True
        return True


def test_a_set_that_is_made_anew_while_an_old_evictor_goes_on_survives_it(database):
    """For every deletion before which the evictor can be overtaken, until it is done before."""
    overtaken = 0
    while True:
        store_set(database, "old", shards=3)
        lease_shard(database, "old", 3, -MINUTE, token="same")
        trainer = Overtaker(database, at=overtaken + 1)
        evict_seen(database, seen(database, "old"), pace=trainer.pace)
        if not trainer.done:
            break
        claimed = database["feature_shards"].delete_many({"leaseUntil": {"$exists": True}})
        assert claimed.deleted_count == 1, f"the claim is lost, overtaken before deletion {trainer.at}"
        assert is_whole(database, "old", shards=3), f"overtaken before deletion {trainer.at}"
        database.client.drop_database(database.name)
        overtaken += 1
    assert overtaken == 5, "before each of four shards and before the set's document"
    assert everything(database) == {}


def test_a_shard_that_is_finished_while_its_set_is_evicted_is_left_to_the_next_round(database):
    store_set(database, "old", shards=1)
    lease_shard(database, "old", 0, -MINUTE)
    database["feature_shards"].update_one({"_id": f"{key_of('old')}/0"}, {"$unset": {"file": ""}})
    late = []

    def pace() -> bool:
        if marked_sets(database) and not late:
            late.append(store_shard(database, "old", 0))
        return True

    done = evict_seen(database, seen(database, "old"), pace=pace)
    assert (done.complete, done.shards) == (False, 0)
    assert complete_eviction(database, key_of("old")) == Eviction(key_of("old"), 1, set_bytes(1), complete=True)
    sweep(database, NOTHING)  # the first file of shard 0
    assert everything(database) == {}


def test_an_eviction_that_must_stop_goes_on_in_the_next_round(database):
    store_set(database, "old", shards=3)
    left = iter([True, True])
    done = evict_seen(database, seen(database, "old"), pace=lambda: next(left, False))
    assert done == Eviction(key_of("old"), shards=1, bytes=SHARD_BYTES + THUMBNAIL_BYTES, complete=False)
    assert marked_sets(database) == [key_of("old")]
    assert read_sets(database) == []
    assert complete_eviction(database, key_of("old")).shards == 2
    assert everything(database) == {}


def test_nothing_of_a_set_in_use_is_removed_while_evictions_and_sweeps_go_on(database):
    """A session extracts and trains with a quota of nothing, no grace, and an evictor that never rests."""
    make_indexes(database)
    store_set(database, "in use", used=HOUR, shards=0, age=NOTHING)
    use_set(database, "in use", 10 * MINUTE)
    ended, evicted = threading.Event(), []

    def keep_evicting() -> None:
        while not ended.is_set():
            while (chosen := next_to_evict(read_sets(database), 0, 0)) is not None:
                done = evict_seen(database, chosen)
                if done is not None:
                    evicted.append(done.key)
            sweep(database, HOUR)

    evictor = threading.Thread(target=keep_evicting)
    evictor.start()
    try:
        for index in range(20):
            lease_shard(database, "in use", index, MINUTE)
            store_shard(database, "in use", index)
            store_set(database, f"passing {index}", shards=1)
        for _ in range(5):
            assert is_whole(database, "in use", shards=20)
    finally:
        ended.set()
        evictor.join()
    assert key_of("in use") not in evicted
    assert evicted, "the evictor did work meanwhile"
    assert is_whole(database, "in use", shards=20)
    database["feature_uses"].delete_many({})
    assert {one.key for one in read_sets(database) if not one.needed} >= {key_of("in use")}


def test_documents_of_strange_types_do_not_stop_the_look(database):
    store_set(database, "good")
    database["feature_sets"].insert_one({"_id": 5, "lastUsedAt": "yesterday"})
    database["feature_sets"].insert_one({"_id": "no digest", "recipes": 7})
    store_set(database, "odd", used=HOUR, baseWeights={"a": 1})
    assert {one.key for one in read_sets(database)} == {key_of("good"), key_of("odd")}
