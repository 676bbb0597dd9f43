"""Rounds over the namespaces' storage with a real API server and a real mongod."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from kubernetes import client
from pymongo.database import Database

import builders
from storage_world import World
from stored import DAY, key_of, set_bytes, store_file, store_set, use_set
from trainingsession_operator.cluster import Cluster
from trainingsession_operator.errors import ApiError
from trainingsession_operator.keeper import StorageKeeper
from trainingsession_operator.recipe import recipe_digest
from trainingsession_operator.records import Records
from trainingsession_operator.tenants import Server

Json = dict[str, Any]
SOON = 30.0
OLD = timedelta(hours=25)


@pytest.fixture
def world(api: client.ApiClient, mongod: Any) -> Iterator[World]:
    made = World(api, mongod.uri)
    yield made
    made.close()


@pytest.fixture
def other_namespace(api: client.ApiClient) -> str:
    """Another namespace, whose name is too long for a database's."""
    name = f"{uuid.uuid4().hex}-{'x' * 30}"
    client.CoreV1Api(api).create_namespace({"metadata": {"name": name}})
    return name


def sets(database: Database[Json]) -> set[str]:
    return set(database["feature_sets"].distinct("_id"))


def test_a_round_evicts_what_no_live_session_needs_until_the_quota_is_kept(world, namespace, caplog):
    live = world.create(namespace, "live")
    world.finish(world.create(namespace, "ended", baseModel={"name": "ResNet50"}))
    database = world.database(live)
    ended = {**live["spec"], "baseModel": {**live["spec"]["baseModel"], "name": "ResNet50"}}
    store_set(database, "of live", used=4 * DAY, recipes=[recipe_digest(live["spec"])])
    store_set(database, "of ended", used=3 * DAY, recipes=[recipe_digest(ended)])
    store_set(database, "unknown", used=2 * DAY)
    store_set(database, "newest", used=timedelta(minutes=11))
    assert 2 * set_bytes() > 2**20 > set_bytes()
    with caplog.at_level(logging.INFO):
        world.keeper().round()
    assert sets(database) == {key_of("of live")}
    assert (
        f"namespace {namespace}: feature set {key_of('of ended')} evicted (above the quota, and unused for 72.0 h)"
        in (caplog.text)
    )
    assert f"2 shards, {set_bytes()} bytes freed" in caplog.text

    store_set(database, "newest", used=timedelta(minutes=11))
    use_set(database, "newest", timedelta(minutes=1))
    world.keeper().round()
    assert sets(database) == {key_of("of live"), key_of("newest")}
    assert "raise features.quotaPerNamespace if this lasts" in caplog.text

    world.finish(live)
    world.keeper().round()
    assert sets(database) == {key_of("newest")}


def test_without_a_quota_nothing_is_evicted_but_orphans_and_interrupted_evictions_go(world, namespace):
    database = world.database(world.create(namespace, "digits"))
    for name in ("kept", "marked"):
        store_set(database, name, used=9 * DAY, shards=4)
    database["feature_sets"].update_one({"_id": key_of("marked")}, {"$set": {"evicting": "by one who died"}})
    store_file(database, "checkpoints", 1000, OLD)
    world.keeper(FEATURES_QUOTA_PER_NAMESPACE="").round()
    assert sets(database) == {key_of("kept")}
    assert database["features.files"].count_documents({}) == 6
    assert database["checkpoints.files"].count_documents({}) == 0


def test_the_graces_are_those_of_the_settings(world, namespace):
    database = world.database(world.create(namespace, "digits"))
    store_set(database, "old", used=timedelta(minutes=90), shards=4)
    file_id = store_file(database, "artifacts", 1000, OLD)
    world.keeper(EVICTION_GRACE_MINUTES="120", ORPHAN_GRACE_HOURS="26").round()
    assert sets(database) == {key_of("old")}
    assert database["artifacts.files"].distinct("_id") == [file_id]
    world.keeper(EVICTION_GRACE_MINUTES="80", ORPHAN_GRACE_HOURS="24").round()
    assert sets(database) == set()
    assert database["artifacts.files"].distinct("_id") == []


class HalfList(Cluster):
    """An API server that fails after the first page of sessions."""

    def sessions(self, namespace: str) -> Iterator[Json]:
        yield from list(super().sessions(namespace))[:1]
        raise ApiError("cannot list sessions: The provided continue parameter is too old", 410)


def test_nothing_is_evicted_where_the_list_of_sessions_is_not_complete(world, api, namespace, caplog):
    session = world.create(namespace, "digits")
    world.finish(session)
    database = world.database(session)
    store_set(database, "old", used=DAY, shards=4)
    world.keeper(HalfList(api)).round()
    assert sets(database) == {key_of("old")}
    assert "The provided continue parameter is too old; the next round tries again" in caplog.text
    world.keeper().round()
    assert sets(database) == set()


POISON = [
    {"spec": "text", "status": "text"},
    {"spec": {"dataset": [1], "baseModel": 3}},
    {"spec": {"artifacts": 3, "managedBy": {}}, "status": {"conditions": "none"}},
    {"status": {"conditions": [{"type": "Finished", "status": "True"}, 3], "phase": "Succeeded", "artifacts": ["x"]}},
]


def test_sessions_that_cannot_be_read_keep_nobodys_storage_from_being_looked_after(world, api, namespace, caplog):
    class Poisoned(Cluster):
        """Lists sessions besides, of a definition that lets everything through."""

        def sessions(self, namespace: str = "") -> Iterator[Json]:
            yield from super().sessions(namespace)
            for number, one in enumerate(POISON):
                metadata = {"namespace": there, "name": f"p{number}", "uid": f"uid-{number}", "resourceVersion": "1"}
                yield {"metadata": metadata, **one}

    there, session = namespace, world.create(namespace, "digits")
    world.finish(session)
    database = world.database(session)
    store_set(database, "old", used=DAY, shards=4)
    with caplog.at_level(logging.WARNING):
        world.keeper(Poisoned(api)).round()
    assert sets(database) == set()
    assert f"of namespace {namespace}" not in caplog.text


def test_all_pages_of_sessions_are_read(world, namespace, small_pages):
    names = {f"digits-{index}" for index in range(2 * small_pages + 1)}
    for name in names:
        world.create(namespace, name)
    assert {found["metadata"]["name"] for found in world.cluster.sessions(namespace)} == names


def test_what_fails_in_one_namespace_stops_no_other(world, namespace, other_namespace, caplog):
    databases = [world.database(world.create(name, "digits")) for name in (namespace, other_namespace)]
    for database in databases:
        store_set(database, "old", used=DAY, shards=4)
    # A view cannot be written to.
    bad, good = sorted(databases, key=lambda database: database.name)
    bad["feature_shards"].drop()
    bad.create_collection("feature_shards", viewOn="feature_sets")
    world.keeper().round()
    assert f"storage of database {bad.name}: MongoDB could not" in caplog.text
    assert sets(bad) == {key_of("old")}
    assert sets(good) == set()


def test_only_databases_of_watched_namespaces_that_are_there_are_looked_at(world, namespace, other_namespace):
    watched, other = (world.database(world.create(name, "digits")) for name in (namespace, other_namespace))
    client = watched.client
    before = client[f"trainings_{namespace}_01234567"]  # of an earlier namespace of that name
    gone = client["trainings_gone_01234567"]
    foreign = client[f"other_{namespace}"]
    world.databases += [before, gone, foreign]
    looked_at = (watched, other, before, gone, foreign)
    for database in looked_at:
        store_set(database, "old", used=DAY, shards=4)
    world.keeper(WATCH_NAMESPACES=namespace).round()
    assert [sets(database) for database in looked_at] == [set(), *[{key_of("old")}] * 4]
    world.keeper().round()
    assert [sets(database) for database in looked_at] == [set(), set(), *[{key_of("old")}] * 3]


class Rounds(StorageKeeper):
    """Tells of every round instead of doing it."""

    told: Callable[[], None]
    inventories: list[bool]

    def round(self, pace: Callable[[], bool] = lambda: True, *, inventory: bool = True) -> bool:
        assert pace()
        self.inventories.append(inventory)
        self.told()
        # The third finds MongoDB away, so that the fourth takes the inventory that is due.
        return len(self.inventories) != 3


def test_the_end_of_a_session_brings_a_round_and_a_stop_the_end(world):
    done, stop = threading.Semaphore(0), threading.Event()
    keeper = Rounds(builders.settings(STORAGE_INTERVAL_MINUTES="1440"), world.cluster, world.records, 0.0)
    keeper.told, keeper.inventories = done.release, []
    thread = threading.Thread(target=keeper.keep, args=(stop,))
    thread.start()
    try:
        for is_doubtful in (False, False, True, False, False):
            keeper.wake(inventory=is_doubtful)
            assert done.acquire(timeout=SOON)
    finally:
        stop.set()
        keeper.wake()
        thread.join(SOON)
    assert not thread.is_alive()
    assert not done.acquire(blocking=False)
    # With its time, or when it is asked for, until MongoDB is there for it.
    assert keeper.inventories == [True, False, True, True, False]


def test_a_deletion_that_was_seen_is_noted_also_when_the_operator_stops(world, namespace):
    session = world.create(namespace, "digits")
    database = world.database(session)
    stop, keeper = threading.Event(), world.keeper()
    keeper.deleted(namespace, session["metadata"]["uid"], "Delete")
    stop.set()
    keeper.keep(stop)
    assert "deletedAt" in database["sessions"].find_one({})


def test_a_deletion_that_could_not_be_noted_is_noted_in_the_next_round(world, namespace, other_namespace):
    sessions = [world.create(name, "digits") for name in (namespace, other_namespace)]
    bad, good = (world.database(session) for session in sessions)
    (record,) = bad["sessions"].find()
    bad["sessions"].drop()
    bad.create_collection("sessions", viewOn="feature_sets")  # a view cannot be written to
    keeper = world.keeper()
    for session in sessions:
        keeper.deleted(session["metadata"]["namespace"], session["metadata"]["uid"], "Delete")
    keeper.round(inventory=False)
    assert "deletedAt" in good["sessions"].find_one({})
    bad["sessions"].drop()
    bad["sessions"].insert_one(record)
    keeper.round(inventory=False)
    assert "deletedAt" in bad["sessions"].find_one({})


def test_an_unreachable_mongodb_is_a_line_in_the_log(api, caplog, impatient):
    away = "mongodb://127.0.0.1:1/?replicaSet=rs0"
    records = Records(Server(away, managed_users=False), Cluster(api))
    StorageKeeper(builders.settings(), Cluster(api), records).round()
    records.close()
    assert "storage of all namespaces: MongoDB could not list the databases: " in caplog.text
