"""What a shard survives: its trainer killed, its mongod killed, its store full, another's clock wrong."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from pymongo import MongoClient

import feature_worker
from feature_worker import SHARD, SHARDS, STAGES, Work
from real_mongod import RealMongod
from trainingsession_trainer import mongodb
from trainingsession_trainer.errors import StorageError
from trainingsession_trainer.feature_sets import FeatureSet
from trainingsession_trainer.feature_store import FeatureStore


@pytest.fixture(scope="module")
def right(mongod):
    """The features that every way must end with, of all shards."""
    with MongoClient(mongod.uri) as client:
        work = Work(client["right_features"], SHARDS)
        work.complete()
        features = work.stored()
        client.drop_database("right_features")
    return features


class Worker:
    """An extraction in a process of its own."""

    def __init__(self, mongod, database, *arguments):
        command = [sys.executable, feature_worker.__file__, mongod.uri, database.name, *arguments]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TF_CPP_MIN_LOG_LEVEL": "3"}
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def ready(self):
        assert self.process.stdout.readline() == "ready\n"
        return self

    def go(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self

    def end(self):
        """Give its exit code, the images it computed and those it decoded."""
        output, _ = self.process.communicate(timeout=120)
        return self.process.returncode, *(int(number) for number in output.split())


@pytest.fixture
def worker(mongod, database):
    started = []

    def start(*arguments):
        started.append(Worker(mongod, database, *arguments))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.communicate()


def orphans(database):
    """Count files that no shard names, and chunks that no file names: only a sweep may remove them."""
    shards = list(database.feature_shards.find({"file": {"$exists": True}}))
    named = {shard["file"] for shard in shards} | {
        shard["thumbnails"]["file"] for shard in shards if "thumbnails" in shard
    }
    files = set(database["features.files"].distinct("_id"))
    chunks = set(database["features.chunks"].distinct("files_id"))
    assert named <= files
    return len(files - named), len(chunks - files)


def pass_leases(database):
    database.feature_shards.update_many(
        {"leaseUntil": {"$exists": True}}, [{"$set": {"leaseUntil": {"$add": ["$$NOW", -1]}}}]
    )


@pytest.mark.parametrize("stage", STAGES)
def test_another_completes_what_a_killed_trainer_left(database, worker, right, stage):
    killed = worker("--die", stage).ready().go()
    assert killed.end() == (-signal.SIGKILL,)

    work = Work(database, 2)
    there, busy = work.store.look(work.found, range(2))
    left = stage != "finished"
    assert there == ({} if left else {0: SHARD})
    # The second shard may have been claimed while the first was being stored.
    assert busy - {1} == ({0} if left else set())
    assert not work.store.claim(work.found, 0), "neither a live lease nor a finished shard is for the taking"
    pass_leases(database)
    assert work.complete() == work.images.decoded == (2 * SHARD if left else SHARD)
    assert np.array_equal(work.stored(), right[: 2 * SHARD])
    assert database.feature_shards.count_documents({}) == 2
    assert database.feature_shards.count_documents({"token": {"$exists": True}}) == 0
    assert orphans(database) == (1 if stage in ("chunks half written", "file written") else 0, 0)


def test_two_processes_at_once_on_an_empty_store_compute_each_image_once(database, worker, right):
    both = [worker("--shards", "8") for _ in range(2)]
    for one in both:
        one.ready()
    for one in both:
        one.go()
    ends = [one.end() for one in both]
    assert [code for code, _, _ in ends] == [0, 0]
    assert sum(computed for _, computed, _ in ends) == sum(decoded for _, _, decoded in ends) == 8 * SHARD
    assert all(computed for _, computed, _ in ends)
    assert np.array_equal(Work(database, 8).stored(), right[: 8 * SHARD])
    assert orphans(database) == (0, 0)


@pytest.mark.parametrize("clock", ["3600", "-3600"])
def test_a_clock_an_hour_off_neither_takes_nor_keeps_a_lease(database, worker, right, clock):
    work = Work(database, 2)
    assert work.store.claim(work.found, 0)
    wrong = worker("--clock", clock).ready().go()
    until(lambda: database.feature_shards.count_documents({"_id": "key/1", "file": {"$exists": True}}) == 1)
    assert work.store.finish(work.found, 0, right[:SHARD], {})
    assert wrong.end() == (0, SHARD, SHARD)
    assert np.array_equal(work.stored(), right[: 2 * SHARD])

    database.feature_shards.delete_many({})
    assert worker("--clock", clock, "--die", "claimed").ready().go().end() == (-signal.SIGKILL,)
    shard = database.feature_shards.aggregate(
        [{"$project": {"left": {"$dateDiff": {"startDate": "$$NOW", "endDate": "$leaseUntil", "unit": "second"}}}}]
    ).next()
    assert 0 < shard["left"] <= work.store.lease_seconds


def test_mongod_killed_twenty_times_in_the_middle_of_an_extraction(tmp_path, right, monkeypatch):
    monkeypatch.setattr(mongodb, "PAUSE_SECONDS", 0.2)
    server = RealMongod(tmp_path)
    server.start()
    server.initiate()
    kills = []

    def told(stored, computed, rate):
        # Told after each batch and each turn: shards are being stored meanwhile.
        if computed > SHARD * len(kills) and len(kills) < 20:
            server.kill()
            server.start()
            kills.append(computed)

    try:
        work = Work(mongodb.connect(server.uri, "killed"), SHARDS)
        assert work.complete(told) == work.images.decoded == SHARDS * SHARD
        assert len(kills) == 20
        server.wait_for_primary()
        assert np.array_equal(work.stored(), right)
        with MongoClient(server.uri) as client:
            database = client["killed"]
            shards = list(database.feature_shards.find())
            assert sorted(shard["index"] for shard in shards) == list(range(SHARDS))
            assert {shard["images"] for shard in shards} == {SHARD}
            files, chunks = orphans(database)
            assert files <= 20
            assert chunks == 0
    finally:
        server.stop()


@contextlib.contextmanager
def small_disk(folder, size):
    """Mount a disk on the folder, for processes that are started with the prefix this gives; it ends with them."""
    tools = [shutil.which(tool) for tool in ("unshare", "nsenter", "mount")]
    if os.geteuid() != 0 or not all(tools):
        pytest.skip("a small disk needs root, unshare, nsenter and mount")
    folder.mkdir(parents=True)
    script = f"mount -t tmpfs -o size={size} tmpfs {folder} && echo ready && exec cat"
    keeper = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        if keeper.stdout.readline() != "ready\n":
            pytest.skip("this machine lets nobody mount a tmpfs")
        yield ("nsenter", "--mount", "--target", str(keeper.pid))
    finally:
        keeper.communicate()


def test_a_full_store_is_a_storage_error_and_harms_nothing(tmp_path):
    found = FeatureSet("key", "train", 40 * 64, 64, (1 << 17,))

    def shard(index):
        return np.random.default_rng(index).integers(1, 2**15, found.shape(index), np.uint16).view(np.float16)

    with small_disk(tmp_path / "data", "420m") as prefix:
        server = RealMongod(tmp_path, prefix=prefix)
        server.start()
        server.initiate()
        try:
            database = mongodb.connect(server.uri, "full")
            store = FeatureStore(database, lambda: False, patience=3)
            stored = 0

            def fill():
                nonlocal stored
                for index in range(40):
                    assert store.claim(found, index)
                    assert store.finish(found, index, shard(index), {})
                    stored += 1

            with pytest.raises(StorageError) as raised:
                fill()
            assert raised.value.exit_code == 69
            assert 0 < stored < 40

            server.kill()
            subprocess.run([*prefix, "mount", "-o", "remount,size=3g", tmp_path / "data"], check=True)
            server.start()
            server.wait_for_primary()
            for index in range(stored):
                read = store.read(found, index, store.find(found, index))
                assert np.array_equal(read.view(np.uint16), shard(index).view(np.uint16))
            assert orphans(database)[1] == 0
            assert store.claim(found, stored)
            assert store.finish(found, stored, shard(stored), {})
        finally:
            server.kill()


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline
        pause.wait(0.05)
