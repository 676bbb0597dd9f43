"""Claims and shards of the feature store against a real mongod, without a model."""

from __future__ import annotations

import hashlib
import threading

import numpy as np
import pytest
from bson import ObjectId
from gridfs import GridFSBucket
from pymongo import MongoClient, monitoring

from trainingsession_trainer import shard_files
from trainingsession_trainer.claims import Claims
from trainingsession_trainer.feature_sets import FeatureSet
from trainingsession_trainer.feature_store import FeatureStore

LARGE = FeatureSet("key", "train", 64, 64, (40_000,))  # 5 MB, five chunks
SMALL = FeatureSet("key", "train", 400, 4, (3,))


def store_of(database):
    return FeatureStore(database, lambda: False)


@pytest.fixture
def stored(database):
    """A store, a shard of several chunks in it and its values."""
    values = np.random.default_rng(0).integers(1, 2**15, (64, 40_000), np.uint16).view(np.float16)
    store = store_of(database)
    assert store.claim(LARGE, 0)
    assert store.finish(LARGE, 0, values, {"seconds": 1.5})
    return store, values


def read(store):
    return store.read(LARGE, 0, store.find(LARGE, 0))


def test_a_shard_of_several_chunks_comes_back_and_any_gridfs_client_reads_it(database, stored):
    store, values = stored
    shard = store.find(LARGE, 0)
    assert database["features.chunks"].count_documents({"files_id": shard["file"]}) > 4
    assert np.array_equal(read(store).view(np.uint16), values.view(np.uint16))
    assert shard["facts"] == {"seconds": 1.5}
    bucket = GridFSBucket(database, "features")
    with bucket.open_download_stream(shard["file"]) as stream:
        assert len(stream.read()) == stream.length == shard["bytes"]
    bucket.delete(shard["file"])
    assert read(store) is None


def test_shards_are_read_by_several_threads_at_once(database, stored):
    store, values = stored
    found = []
    threads = [threading.Thread(target=lambda: found.append(read(store))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for one in found:
        assert np.array_equal(one.view(np.uint16), values.view(np.uint16))


@pytest.mark.parametrize("chunk", range(5))
def test_a_flipped_bit_in_any_chunk_is_found(database, stored, chunk):
    store, _ = stored
    chunks = database["features.chunks"]
    document = chunks.find_one({"n": chunk})
    data = bytearray(document["data"])
    data[len(data) // 2] ^= 16
    chunks.update_one({"_id": document["_id"]}, {"$set": {"data": bytes(data)}})
    assert read(store) is None


@pytest.mark.parametrize(
    "damage", ["chunk missing", "chunk short", "last chunk short", "chunk too much", "chunks exchanged", "file missing"]
)
def test_a_shard_that_is_not_whole_is_none(database, stored, damage):
    store, _ = stored
    chunks = database["features.chunks"]
    some = chunks.find_one({"n": 2})
    if damage == "chunk missing":
        chunks.delete_one({"_id": some["_id"]})
    elif damage == "chunk short":
        chunks.update_one({"_id": some["_id"]}, {"$set": {"data": some["data"][:-1]}})
    elif damage == "last chunk short":
        last = chunks.find_one({"n": 4})
        chunks.update_one({"_id": last["_id"]}, {"$set": {"data": last["data"][:-1]}})
    elif damage == "chunk too much":
        chunks.insert_one({"files_id": some["files_id"], "n": 5, "data": b"more"})
    elif damage == "chunks exchanged":
        for before, after in ((2, 99), (3, 2), (99, 3)):
            chunks.update_one({"n": before}, {"$set": {"n": after}})
    else:
        database["features.files"].delete_one({"_id": some["files_id"]})
    assert read(store) is None
    store.drop(LARGE, 0, store.find(LARGE, 0))
    assert store.claim(LARGE, 0)
    assert chunks.count_documents({}) == database["features.files"].count_documents({}) == 0


def test_writing_again_after_a_lost_answer_changes_nothing(database):
    files = shard_files.ShardFiles(database, "features")
    file_id, data = ObjectId(), bytes(3 * shard_files.CHUNK_BYTES + 7)
    digest = hashlib.sha256(data).hexdigest()
    files.write(file_id, "name", data)
    database["features.chunks"].delete_one({"n": 1})
    files.write(file_id, "name", data)
    assert database["features.chunks"].count_documents({}) == 4
    assert bytes(files.read(file_id, len(data), digest)) == data


def test_what_a_document_claims_is_not_allocated(database, stored):
    store, _ = stored
    document = store.find(LARGE, 0)
    assert store.read(LARGE, 0, {**document, "bytes": 2**50}) is None
    assert store.read(LARGE, 0, {**document, "dtype": "float64"}) is None
    assert store.read(SMALL, 0, document) is None


def test_many_workers_at_once_take_each_shard_once(database):
    taken, lock, together = [], threading.Lock(), threading.Barrier(16)

    def work():
        store = store_of(database)
        claims = Claims(store, SMALL, 100)
        together.wait()
        while True:
            claims.look()
            index = claims.claim(besides=None)
            if index is None:
                return
            assert store.finish(SMALL, index, np.full((4, 3), index, np.float16), {})
            with lock:
                taken.append(index)

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(100))


class Asked(monitoring.CommandListener):
    """The numbers of shards that were asked about, and how many commands there were."""

    def __init__(self):
        self.shards = []
        self.commands = 0

    def started(self, event):
        self.commands += 1
        if event.command_name == "aggregate":
            self.shards.append(len(event.command["pipeline"][0]["$match"]["_id"]["$in"]))

    def succeeded(self, event):
        pass

    def failed(self, event):
        pass


def test_a_worker_alone_asks_about_nothing_twice_and_takes_shards_in_order(mongod, database):
    asked = Asked()
    with MongoClient(mongod.uri, event_listeners=[asked]) as client:
        store = store_of(client[database.name])
        claims = Claims(store, SMALL, 100)
        for expected in range(3):
            claims.look()
            before = asked.commands
            assert claims.claim(besides=None) == expected
            assert asked.commands == before + 1
            assert store.finish(SMALL, expected, np.ones((4, 3), np.float16), {})
        claims.look()
        assert (claims.images, len(claims.missing)) == (12, 97)
        assert asked.shards == [100, 100, 99, 98]


def test_a_worker_among_many_shards_asks_only_about_the_next_ones(mongod, database):
    found = FeatureSet("key", "train", 40_000, 4, (3,))
    asked = Asked()
    with MongoClient(mongod.uri, event_listeners=[asked]) as client:
        store, other = store_of(client[database.name]), store_of(database)
        claims = Claims(store, found, 10_000)
        claims.look()
        for index in range(300):  # others hold more than are asked about at once
            assert other.claim(found, index)
        claims.look()
        assert asked.shards == [10_000, 256, 256]
        assert claims.claim(besides=300) == 301


def test_a_lease_that_passed_is_for_the_taking_and_a_finished_shard_never_is(database):
    store, other = store_of(database), store_of(database)
    assert store.claim(SMALL, 0)
    assert other.look(SMALL, [0, 1]) == ({}, {0})
    assert store.look(SMALL, [0, 1]) == ({}, set())
    assert not other.claim(SMALL, 0)
    database.feature_shards.update_one({}, [{"$set": {"leaseUntil": {"$add": ["$$NOW", -1]}}}])
    assert other.look(SMALL, [0, 1]) == ({}, set())
    assert other.claim(SMALL, 0)
    assert not store.claim(SMALL, 0)
    assert other.finish(SMALL, 0, np.ones((4, 3), np.float16), {})
    assert not store.claim(SMALL, 0)
    assert not other.claim(SMALL, 0)
    assert store.look(SMALL, [0, 1]) == ({0: 4}, set())
    assert set(database.feature_shards.find_one()) == {
        "_id", "set", "index", "file", "sha256", "bytes", "images", "dtype", "facts",
    }  # fmt: skip
