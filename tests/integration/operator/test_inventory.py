"""Inventories with a real API server and a real mongod: what is gone, vanished, lost, and what came back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from kubernetes import client
from pymongo import MongoClient
from pymongo.database import Database

from builders import condition
from killable_database import Killed, killed_at
from storage_world import LONG_AGO, SIZE, World, database_time
from stored import DAY, everything, store_file, store_set
from trainingsession_operator import sentinel
from trainingsession_operator.cluster import Cluster
from trainingsession_operator.deleted import remove_deleted
from trainingsession_operator.errors import ApiError, ConflictError
from trainingsession_operator.inventory import CONFIRM
from trainingsession_operator.resource import Session, parse_session

Json = dict[str, Any]
DELETE = {"artifacts": {"deletionPolicy": "Delete"}}
HOUR = timedelta(hours=1)


@dataclass
class Told:
    """What a keeper's callbacks were told."""

    sizes: dict[tuple[str, str], int] = field(default_factory=dict)
    freed: dict[str, int] = field(default_factory=dict)
    is_halted: dict[str, bool] = field(default_factory=dict)
    measurements: int = 0

    def measured(self, namespace: str, bucket: str, size: int) -> None:
        self.sizes[namespace, bucket] = size
        self.measurements += 1

    def swept(self, namespace: str, size: int) -> None:
        self.freed[namespace] = self.freed.get(namespace, 0) + size

    def halted(self, namespace: str, is_halted: bool) -> None:
        self.is_halted[namespace] = is_halted


class Watching(Cluster):
    """Counts the statuses that are written."""

    def __init__(self, api: client.ApiClient) -> None:
        super().__init__(api)
        self.written: list[str] = []

    def patch_status(self, session: Session, changes: Any) -> str:
        self.written.append(session.name)
        return super().patch_status(session, changes)


@pytest.fixture
def world(api: client.ApiClient, mongod: Any) -> Iterator[World]:
    made = World(api, mongod.uri)
    yield made
    made.close()


@pytest.fixture
def cluster(api: client.ApiClient) -> Watching:
    return Watching(api)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def round_(world: World, cluster: Watching, told: Told, namespace: str) -> Callable[[], None]:
    """A round of one operator process over the one namespace."""
    keeper = world.keeper(cluster, told=told, WATCH_NAMESPACES=namespace)
    return keeper.round


def uid(session: Json) -> str:
    return str(session["metadata"]["uid"])


def records(database: Database[Json]) -> dict[str, Json]:
    return {one["_id"]: one for one in database["sessions"].find()}


def age(database: Database[Json], by: timedelta) -> None:
    """Let time pass for the records that are missing."""
    earlier = {"$subtract": ["$missingSince", int(1000 * by.total_seconds())]}
    database["sessions"].update_many({"missingSince": {"$exists": True}}, [{"$set": {"missingSince": earlier}}])


def confirm(world: World, namespace: str, token: str) -> None:
    world.core.patch_namespace(namespace, {"metadata": {"annotations": {CONFIRM: token}}})


def token_in(log: str) -> str:
    """The token of the last warning."""
    return log.rpartition(f"{CONFIRM}=")[2][:8]


def several(world: World, namespace: str, count: int, **spec: Any) -> tuple[list[Json], Database[Json]]:
    """Sessions that have succeeded, each with one artifact, and their database."""
    sessions = [world.create(namespace, f"digits-{index}", **(spec or DELETE)) for index in range(count)]
    for session in sessions:
        world.succeed(session, "model.keras")
    return sessions, world.databases[-1]


@pytest.mark.parametrize("seen", [True, False], ids=["seen by the watch", "while no operator ran"])
def test_a_deleted_session_with_delete_is_gone_after_the_grace_and_one_with_retain_stays(
    world, namespace, cluster, told, seen
):
    kept, gone = world.create(namespace, "kept"), world.create(namespace, "gone", **DELETE)
    for session in (kept, gone):
        world.succeed(session, "model.keras", "metrics.json")
    database = world.databases[-1]
    keeper = world.keeper(cluster, told=told, WATCH_NAMESPACES=namespace)
    keeper.round()
    for session in (kept, gone):
        world.delete(session)
        if seen:
            keeper.deleted(namespace, uid(session), session["spec"]["artifacts"]["deletionPolicy"])
    keeper.round()
    assert all(("deletedAt" in one) is seen for one in records(database).values())
    assert all("missingSince" in one for one in records(database).values())
    age(database, DAY - HOUR)
    keeper.round()
    assert len(records(database)) == 2
    age(database, HOUR)
    keeper.round()
    assert records(database).keys() == {uid(kept)}
    assert database["artifacts.files"].count_documents({}) == 2
    assert told.freed == {namespace: 2 * SIZE}
    keeper.round()
    assert database["artifacts.files"].count_documents({}) == 2
    assert told.sizes[namespace, "artifacts"] == 2 * SIZE


def test_a_record_follows_the_policy_of_its_session_and_takes_the_last_one_along(world, namespace, round_):
    session = world.create(namespace, "digits")
    database = world.database(session)
    assert records(database)[uid(session)]["deletionPolicy"] == "Retain"
    where = world._where(session)
    world.custom.patch_namespaced_custom_object(*where, {"spec": DELETE})
    round_()
    assert records(database)[uid(session)]["deletionPolicy"] == "Delete"


def test_the_record_of_a_new_session_has_its_policy_from_the_start(world, namespace):
    session = world.create(namespace, "digits", **DELETE)
    assert records(world.database(session))[uid(session)]["deletionPolicy"] == "Delete"


class HalfList(Cluster):
    """An API server that fails after the first sessions."""

    def sessions(self, namespace: str = "") -> Iterator[Json]:
        yield from list(super().sessions(namespace))[:1]
        raise ApiError("cannot list sessions: The provided continue parameter is too old", 410)


def test_nothing_is_marked_or_removed_where_the_list_is_not_complete(world, api, namespace, caplog):
    sessions, database = several(world, namespace, 3)
    world.keeper(WATCH_NAMESPACES=namespace).round()
    world.delete(sessions[0])
    world.keeper(WATCH_NAMESPACES=namespace).round()
    age(database, 2 * DAY)
    orphan = store_file(database, "artifacts", SIZE, LONG_AGO)
    before, marked = everything(database), records(database)
    world.keeper(HalfList(api), WATCH_NAMESPACES=namespace).round()
    assert everything(database) == before
    assert records(database) == marked
    assert "The provided continue parameter is too old; the next round tries again" in caplog.text
    world.keeper(WATCH_NAMESPACES=namespace).round()
    assert uid(sessions[0]) not in records(database)
    assert orphan not in database["artifacts.files"].distinct("_id")


def test_nothing_is_marked_or_removed_without_the_permission_to_list(world, api, namespace, caplog):
    sessions, database = several(world, namespace, 1)
    world.delete(sessions[0])
    nobody = client.ApiClient(api.configuration)
    nobody.set_default_header("Impersonate-User", "nobody")
    before = records(database)
    world.keeper(ReadsNamespaces(nobody, api), WATCH_NAMESPACES=namespace).round()
    assert records(database) == before
    assert "is forbidden" in caplog.text


class ReadsNamespaces(Cluster):
    """May read namespaces as before, and has lost every other right."""

    def __init__(self, api: client.ApiClient, allowed: client.ApiClient) -> None:
        super().__init__(api)
        self.core = client.CoreV1Api(allowed)


def test_where_too_many_vanish_at_once_nothing_is_removed_until_it_is_confirmed(world, namespace, round_, told, caplog):
    sessions, database = several(world, namespace, 8)
    round_()
    assert told.is_halted == {namespace: False}
    orphan = store_file(database, "artifacts", SIZE, LONG_AGO)
    for session in sessions[:6]:
        world.delete(session)
    with caplog.at_level(logging.INFO):
        round_()
        round_()
    assert told.is_halted == {namespace: True}
    warning = "nothing is removed from its storage, because 6 of 8 sessions vanished at once"
    assert caplog.text.count(warning) == 1, "said once"
    assert all("missingSince" not in one for one in records(database).values())
    token = token_in(caplog.text)
    assert f"kubectl annotate --overwrite namespace {namespace} {CONFIRM}={token}" in caplog.text

    confirm(world, namespace, "0" * 8)
    round_()
    assert told.is_halted == {namespace: True}
    assert orphan in database["artifacts.files"].distinct("_id")

    confirm(world, namespace, token)
    round_()
    assert told.is_halted == {namespace: False}
    assert sum("missingSince" in one for one in records(database).values()) == 6
    assert orphan not in database["artifacts.files"].distinct("_id")
    age(database, DAY)
    round_()
    assert records(database).keys() == {uid(session) for session in sessions[6:]}


def test_a_confirmation_is_of_what_vanished_and_of_nothing_later(world, namespace, round_, told, caplog):
    sessions, database = several(world, namespace, 12)
    round_()
    for session in sessions[:6]:
        world.delete(session)
    round_()
    confirm(world, namespace, token_in(caplog.text))
    round_()
    for session in sessions[6:]:
        world.delete(session)
    round_()
    assert told.is_halted == {namespace: True}
    assert sum("missingSince" in one for one in records(database).values()) == 6


def test_a_few_that_vanish_in_every_namespace_are_many(world, api, new_namespace, cluster, told, caplog):
    namespaces = [new_namespace(api) for _ in range(3)]
    made = [several(world, name, 4) for name in namespaces]
    keeper = world.keeper(cluster, told=told, WATCH_NAMESPACES=",".join(namespaces))
    for sessions, _ in made[:2]:
        for session in sessions[:3]:
            world.delete(session)
    keeper.round()
    assert told.is_halted == {namespaces[0]: True, namespaces[1]: True, namespaces[2]: False}
    assert "3 of 4 sessions vanished at once, and 6 of 12 in all namespaces" in caplog.text
    assert all("missingSince" not in one for _, database in made for one in records(database).values())
    confirm(world, namespaces[1], token_in(caplog.text))
    keeper.round()
    assert told.is_halted == {namespaces[0]: True, namespaces[1]: False, namespaces[2]: False}


class Restored(Cluster):
    """A cluster that was restored: some sessions are not there for a while."""

    lost: frozenset[str] = frozenset()

    def sessions(self, namespace: str = "") -> Iterator[Json]:
        return (one for one in super().sessions(namespace) if one["metadata"]["name"] not in self.lost)


def test_an_empty_list_after_a_restore_costs_nothing_and_is_forgotten_when_the_sessions_are_back(
    world, api, namespace, told, caplog
):
    sessions, database = several(world, namespace, 7)
    cluster = Restored(api)
    keeper = world.keeper(cluster, told=told, WATCH_NAMESPACES=namespace)
    before = everything(database)
    cluster.lost = frozenset(session["metadata"]["name"] for session in sessions)
    keeper.round()
    assert told.is_halted == {namespace: True}
    cluster.lost = frozenset()
    with caplog.at_level(logging.INFO):
        keeper.round()
    assert told.is_halted == {namespace: False}
    assert f"namespace {namespace}: its storage is looked after again" in caplog.text
    assert {key: ids for key, ids in everything(database).items() if key != "operator"} == before
    cluster.lost = frozenset(["digits-0"])
    keeper.round()
    assert [one for one, is_so in records(database).items() if "missingSince" in is_so] == [uid(sessions[0])]
    age(database, 2 * DAY)
    cluster.lost = frozenset()
    keeper.round()
    assert all("missingSince" not in one for one in records(database).values())


def test_after_a_restore_nothing_is_removed_for_the_grace_and_nobody_is_asked(world, namespace, cluster, told, caplog):
    sessions, database = several(world, namespace, 2)
    keeper = world.keeper(cluster, told=told, WATCH_NAMESPACES=namespace)
    keeper.round()
    backup = {name: list(database[name].find()) for name in database.list_collection_names()}
    world.records.drop_database(database.name)
    keeper.round()
    assert [world.session(session)["status"]["phase"] for session in sessions] == ["Failed", "Failed"]
    database["operator"].drop()
    for name, documents in backup.items():
        if documents:
            database[name].insert_many(documents)
    sentinel.note_restore(database)
    orphan = store_file(database, "artifacts", SIZE, LONG_AGO)
    keeper.round()
    assert told.is_halted == {namespace: False}
    assert [world.session(session)["status"]["phase"] for session in sessions] == ["Succeeded", "Succeeded"]
    assert orphan in database["artifacts.files"].distinct("_id")
    database["operator"].update_one({}, {"$set": {"restoredAt": database_time(database) - DAY}})
    keeper.round()
    assert orphan not in database["artifacts.files"].distinct("_id")


def test_a_restore_that_begins_in_the_middle_of_a_sweep_ends_it(world, namespace, cluster, told, monkeypatch):
    monkeypatch.setattr(sentinel, "LOOK_SECONDS", 0.0)
    _, database = several(world, namespace, 2)
    keeper = world.keeper(cluster, told=told, WATCH_NAMESPACES=namespace)
    keeper.round()
    orphans = {store_file(database, "artifacts", SIZE, LONG_AGO) for _ in range(5)}

    def pace() -> bool:
        """Before each deletion; after the second one, somebody restores a backup."""
        if len(orphans & set(database["artifacts.files"].distinct("_id"))) == 3:
            sentinel.note_restore(database)
        return True

    keeper.round(pace)
    assert len(orphans & set(database["artifacts.files"].distinct("_id"))) in (2, 3)


def test_what_succeeded_after_the_backup_is_asked_about_in_spite_of_a_restore(world, namespace, cluster, told, caplog):
    sessions, database = several(world, namespace, 2)
    keeper = world.keeper(cluster, told=told, WATCH_NAMESPACES=namespace)
    keeper.round()
    database["sessions"].delete_one({"_id": uid(sessions[1])})
    sentinel.note_restore(database)
    keeper.round()
    assert told.is_halted == {namespace: True}
    assert "1 sessions have succeeded of which it knows no result: digits-1" in caplog.text
    confirm(world, namespace, token_in(caplog.text))
    keeper.round()
    assert told.is_halted == {namespace: False}


def test_any_number_of_deletions_that_were_seen_is_believed(world, namespace, cluster, told):
    sessions, database = several(world, namespace, 7)
    keeper = world.keeper(cluster, told=told, WATCH_NAMESPACES=namespace)
    for session in sessions:
        world.delete(session)
        keeper.deleted(namespace, uid(session), "Delete")
    keeper.round()
    assert told.is_halted == {namespace: False}
    age(database, DAY)
    keeper.round()
    assert everything(database).keys() == {"operator"}, "the sentinel"


def test_an_inventory_of_finished_sessions_that_are_right_writes_nothing(
    world, namespace, round_, cluster, told, small_pages
):
    sessions, database = several(world, namespace, 2 * small_pages + 1)
    round_()
    versions = [world.session(session)["metadata"]["resourceVersion"] for session in sessions]
    was, measurements = everything(database), told.measurements
    database.command("profile", 2)
    round_()
    database.command("profile", 0)
    assert cluster.written == []
    assert [world.session(session)["metadata"]["resourceVersion"] for session in sessions] == versions
    assert {key: ids for key, ids in everything(database).items() if key != "system.profile"} == was
    looks = list(database["system.profile"].find({"ns": {"$regex": "sessions$|artifacts.files$|operator$"}}))
    assert not [one for one in looks if one["op"] in ("insert", "update", "remove")]
    assert len([one for one in looks if one["op"] in ("query", "command")]) < 30
    assert told.measurements == measurements + 4


def status_of(world: World, session: Json) -> Json:
    return dict(world.session(session)["status"])


def test_a_success_whose_artifacts_are_lost_is_none_until_they_are_there_again(
    world, namespace, round_, cluster, caplog
):
    (lost, whole), database = several(world, namespace, 2)
    file = records(database)[uid(lost)]["result"]["artifacts"][0]["id"]
    before = status_of(world, lost)
    found = list(database["artifacts.files"].find({"$expr": {"$eq": [{"$toString": "$_id"}, file]}}))
    database["artifacts.files"].delete_one({"_id": found[0]["_id"]})
    round_()
    now = status_of(world, lost)
    assert (now["phase"], now["accuracy"], condition(now, "Failed")["reason"]) == (
        "Failed",
        "0.9625",
        "ArtifactsMissing",
    )
    assert condition(now, "Finished")["status"] == "True"
    assert f"namespace {namespace}: 1 sessions have lost artifacts in MongoDB" in caplog.text
    assert cluster.written == ["digits-0"]
    round_()
    assert cluster.written == ["digits-0"]
    database["artifacts.files"].insert_many(found)
    round_()
    again = status_of(world, lost)
    assert again["phase"] == "Succeeded"
    assert {**again, "conditions": None} == {**before, "conditions": None}
    assert condition(again, "Complete")["message"] == condition(before, "Complete")["message"]
    assert cluster.written == ["digits-0"] * 2
    assert status_of(world, whole)["phase"] == "Succeeded"


def test_a_status_that_was_edited_by_hand_is_put_right_from_the_record(world, namespace, round_, cluster):
    (session,), _ = several(world, namespace, 1)
    before = status_of(world, session)
    world.edit(session, {"accuracy": "1.0000"})
    round_()
    assert status_of(world, session) == before
    assert cluster.written == ["digits-0"]


class Overtaken(Cluster):
    """Somebody writes the session between our look and our patch."""

    world: World
    once = True

    def patch_status(self, session: Session, changes: Any) -> str:
        if self.once:
            self.once = False
            where = ("trainingsession.dev", "v1alpha1", session.namespace, "trainingsessions", session.name)
            self.world.custom.patch_namespaced_custom_object(*where, {"metadata": {"labels": {"a": "b"}}})
            with pytest.raises(ConflictError):
                super().patch_status(session, changes)
            raise ConflictError("cannot write the status: the object has been modified", 409)
        return super().patch_status(session, changes)


def test_a_status_that_somebody_else_wrote_meanwhile_is_left_to_the_next_round(world, api, namespace):
    (session,), _ = several(world, namespace, 1)
    world.edit(session, {"accuracy": "1.0000"})
    cluster = Overtaken(api)
    cluster.world = world
    keeper = world.keeper(cluster, WATCH_NAMESPACES=namespace)
    keeper.round()
    assert status_of(world, session)["accuracy"] == "1.0000"
    keeper.round()
    assert status_of(world, session)["accuracy"] == "0.9625"


def test_a_mongodb_that_does_not_answer_changes_no_status_and_removes_nothing(
    world, namespace, round_, cluster, caplog
):
    (session, deleted), database = several(world, namespace, 2)
    round_()
    world.delete(deleted)
    round_()
    age(database, 2 * DAY)
    # A view that fails whenever it is read.
    database["artifacts.files"].drop()
    failing = [{"$group": {"_id": {"$divide": [1, "$n"]}}}]
    database.create_collection("artifacts.files", viewOn="artifacts.chunks", pipeline=failing)
    round_()
    assert f"sessions of namespace {namespace}: MongoDB could not look for the artifacts" in caplog.text
    assert status_of(world, session)["phase"] == "Succeeded"
    assert cluster.written == []
    assert uid(deleted) in records(database)


def test_a_record_too_large_to_be_read_condemns_nobody(world, namespace, round_, cluster):
    (session,), database = several(world, namespace, 1)
    database["sessions"].update_one({}, {"$set": {"result.metrics": "x" * 300_000}})
    database["artifacts.files"].delete_many({})
    round_()
    assert cluster.written == []
    assert status_of(world, session)["phase"] == "Succeeded"


def test_the_sessions_of_another_controller_are_left_alone(world, namespace, round_, cluster):
    session = world.create(namespace, "theirs", managedBy="example.org/other")
    world.succeed(session, "model.keras")
    world.databases[-1]["artifacts.files"].delete_many({})
    round_()
    assert cluster.written == []


def test_when_mongodb_came_back_empty_no_success_is_claimed_and_then_nothing_is_swept_until_it_is_confirmed(
    world, namespace, cluster, told, caplog
):
    sessions, database = several(world, namespace, 3)
    database.client.drop_database(database.name)
    world.keeper(cluster, told=told, WATCH_NAMESPACES=namespace).round()
    assert {condition(status_of(world, one), "Failed")["reason"] for one in sessions} == {"ArtifactsMissing"}
    assert told.is_halted == {}, "there is no storage of which anything could be removed"

    # A new session makes the database anew; whoever restores files now must not lose them.
    world.database(world.create(namespace, "new"))
    orphan = store_file(database, "artifacts", SIZE, LONG_AGO)
    for _ in range(2):
        world.keeper(cluster, told=told, WATCH_NAMESPACES=namespace).round()
        assert told.is_halted == {namespace: True}
    assert (
        "MongoDB came back empty or older (3 sessions have succeeded of which it knows no result: digits-0"
        in caplog.text
    )
    assert f"Restore the newest backup of database {database.name}" in caplog.text
    token = token_in(caplog.text)
    assert token == sentinel.read(database).doubt
    assert database["artifacts.files"].distinct("_id") == [orphan]

    confirm(world, namespace, token)
    for _ in range(2):
        world.keeper(cluster, told=told, WATCH_NAMESPACES=namespace).round()
        assert told.is_halted == {namespace: False}
    assert database["artifacts.files"].distinct("_id") == []


def test_artifacts_whose_record_was_lost_outlive_the_confirmation(world, namespace, round_, told, caplog):
    (session, _), database = several(world, namespace, 2)
    database["sessions"].delete_one({"_id": uid(session)})
    round_()
    assert told.is_halted == {namespace: True}
    confirm(world, namespace, token_in(caplog.text))
    round_()
    assert told.is_halted == {namespace: False}
    assert database["artifacts.files"].count_documents({}) == 2
    assert status_of(world, session)["phase"] == "Succeeded"


@pytest.mark.parametrize("how", ["lost", "older"])
def test_a_sentinel_that_is_not_what_it_was_stops_the_sweep_also_after_a_restart(
    world, namespace, cluster, told, caplog, how
):
    database = world.database(world.create(namespace, "digits"))
    keeper = world.keeper(cluster, told=told, WATCH_NAMESPACES=namespace)
    keeper.round()
    if how == "lost":
        database[sentinel.COLLECTION].drop()
    else:
        database[sentinel.COLLECTION].update_one({}, {"$set": {"seenAt": database_time(database) - HOUR}})
    orphan = store_file(database, "artifacts", SIZE, LONG_AGO)
    for again in (keeper, world.keeper(cluster, told=told, WATCH_NAMESPACES=namespace)):
        again.round()
        assert told.is_halted == {namespace: True}
        assert database["artifacts.files"].distinct("_id") == [orphan]
    assert "MongoDB came back empty or older (its sentinel was lost)" in caplog.text
    # The right backup, whose sentinel knows of no doubt.
    database[sentinel.COLLECTION].replace_one({}, {"seenAt": database_time(database)})
    again.round()
    assert told.is_halted == {namespace: False}


def test_a_round_without_an_inventory_lists_nothing(world, api, namespace):
    database = world.database(world.create(namespace, "digits"))
    orphan = store_file(database, "artifacts", SIZE, LONG_AGO)
    world.keeper(HalfList(api), FEATURES_QUOTA_PER_NAMESPACE="").round(inventory=False)
    assert database["artifacts.files"].distinct("_id") == [orphan]


def test_sessions_of_all_namespaces_are_compared_each_with_its_own(world, api, new_namespace, cluster, told):
    namespaces = [new_namespace(api) for _ in range(2)]
    kept, gone = (several(world, name, 1) for name in namespaces)
    world.delete(gone[0][0])
    world.keeper(cluster, told=told).round()
    assert all("missingSince" not in one for one in records(kept[1]).values())
    assert all("missingSince" in one for one in records(gone[1]).values())
    assert {told.is_halted[name] for name in namespaces} == {False}


class AnsweredMeanwhile(Database[Json]):
    """Another session asks for an answer while a deleted one's artifacts are being removed."""

    ask: Callable[[], Any]
    answers: list[Any]

    def __getitem__(self, name: str) -> Any:
        if name == "artifacts.files" and not self.answers:
            self.answers.append(self.ask())
        return super().__getitem__(name)


def test_a_session_is_answered_from_a_deleted_one_until_that_is_being_removed(world, namespace):
    first = world.create(namespace, "first", **DELETE)
    world.succeed(first, "model.keras")
    second = parse_session(world.create(namespace, "second", reuseResult="IfIdentical"))
    world.records.prepare(second, "same")
    database = world.databases[-1]
    fields = {"identity": "same", "missingSince": database_time(database) - LONG_AGO}
    database["sessions"].update_one({"_id": uid(first)}, {"$set": fields})
    published = records(database)[uid(first)]["result"]
    assert world.records.reuse_result(second, "same")["result"] == published
    database["sessions"].update_one({"_id": second.uid}, {"$unset": {"result": "", "reusedFrom": ""}})

    removing = AnsweredMeanwhile(database.client, database.name)
    removing.ask, removing.answers = lambda: world.records.reuse_result(second, "same"), []
    remove_deleted(removing, {}, database_time(database))
    assert removing.answers == [None]
    assert "result" not in records(database)[second.uid]
    assert database["artifacts.files"].count_documents({}) == 0


def stored(database: Database[Json]) -> dict[str, list[Json]]:
    """All documents of the database."""
    return {name: list(database[name].find()) for name in database.list_collection_names()}


def outcome(world: World, database: Database[Json], sessions: list[Json]) -> Any:
    """What a round has come to, without the times."""
    marks = {one: sorted(set(found) & {"missingSince", "deletedAt", "removing", "checkpoint"})
             for one, found in records(database).items()}  # fmt: skip
    return everything(database), marks, [status_of(world, session)["phase"] for session in sessions]


def test_killed_anywhere_in_a_round_the_next_operator_comes_to_the_same(world, namespace):
    """The round has everything to do: what is deleted, missing, lost, orphaned, ended, evicted."""
    sessions = [world.create(namespace, f"digits-{index}", **DELETE) for index in range(4)]
    for session in sessions:
        world.succeed(session, "model.keras", "metrics.json")
    database = world.databases[-1]
    lost, _, gone, vanished = sessions
    for index, session in enumerate((gone, vanished)):
        world.delete(session)
        since = {"missingSince": database_time(database) - LONG_AGO} if index == 0 else {}
        checkpoint = {"checkpoint": {"file": store_file(database, "checkpoints", SIZE, LONG_AGO)}}
        database["sessions"].update_one({"_id": uid(session)}, {"$set": since | checkpoint})
    database["sessions"].update_one(
        {"_id": uid(vanished)}, {"$set": {"result.publishedAt": database_time(database) - HOUR}}
    )
    file = records(database)[uid(lost)]["result"]["artifacts"][0]["id"]
    database["artifacts.files"].delete_one({"$expr": {"$eq": [{"$toString": "$_id"}, file]}})
    store_file(database, "artifacts", SIZE, LONG_AGO)
    store_set(database, "evicted", shards=4)
    start, statuses, there = stored(database), [status_of(world, one) for one in sessions[:2]], sessions[:2]

    def begin() -> None:
        for name in database.list_collection_names():
            database[name].delete_many({})
        for name, documents in start.items():
            if documents:
                database[name].insert_many(documents)
        for session, status in zip(there, statuses, strict=True):
            world.edit(session, status)

    world.keeper(WATCH_NAMESPACES=namespace).round()
    expected = outcome(world, database, there)
    assert expected[2] == ["Failed", "Succeeded"]
    assert expected[1] == {uid(lost): [], uid(sessions[1]): [], uid(vanished): ["missingSince"]}
    assert expected[0].keys() == {"sessions", "operator", "artifacts.files", "artifacts.chunks"}
    call, killed = 0, True
    while killed:
        begin()
        call += 1
        try:
            world.keeper(WATCH_NAMESPACES=namespace).round(killed_at(call))
            killed = False
        except Killed:
            world.keeper(WATCH_NAMESPACES=namespace).round()
        assert outcome(world, database, there) == expected, f"killed at its {call}th pause"
    assert call > 30


def gone_database(world: World, session: Json) -> Database[Json]:
    """The database and user of a namespace that is not there any more, with what one deleted session left."""
    made = world.database(session)
    name = made.name.replace("trainings_team-", "trainings_gone-")
    made.client.admin.command("ping")
    client_: MongoClient[Json] = made.client
    database = client_[name]
    world.databases.append(database)
    database.command("createUser", name, pwd="x", roles=[])
    record = {**records(made)[uid(session)], "deletionPolicy": "Delete", "deletedAt": database_time(made) - LONG_AGO}
    database["sessions"].insert_one(record)
    database[sentinel.COLLECTION].insert_one({"_id": sentinel.ID, "seenAt": database_time(made) - LONG_AGO})
    store_file(database, "artifacts", SIZE, LONG_AGO)
    return database


@pytest.fixture
def managing(api: client.ApiClient, mongod: Any) -> Iterator[World]:
    """With a user for every namespace."""
    made = World(api, mongod.uri, managed_users=True)
    yield made
    for database in made.databases:
        database.command("dropAllUsersFromDatabase")
    made.close()


def users(database: Database[Json]) -> list[str]:
    return [one["user"] for one in database.command("usersInfo")["users"]]


@pytest.mark.parametrize("interrupted", [False, True], ids=["", "after the last round was killed between the two"])
def test_the_database_and_the_user_of_a_namespace_that_is_gone_go_when_every_deletion_was_seen(
    managing, namespace, caplog, interrupted
):
    session = managing.create(namespace, "digits")
    database = gone_database(managing, session)
    if interrupted:
        database.command("dropUser", database.name)
    live = managing.databases[0]
    with caplog.at_level(logging.INFO):
        managing.keeper().round()
    names = database.client.list_database_names()
    assert database.name not in names
    assert users(database) == []
    assert f"its database {database.name} was dropped" in caplog.text
    assert live.name in names
    assert users(live) == [live.name]


def test_where_anything_else_is_in_it_the_database_is_kept_and_said_to_be_and_features_go(
    managing, namespace, told, caplog
):
    database = gone_database(managing, managing.create(namespace, "digits"))
    database["sessions"].update_one({}, {"$set": {"deletionPolicy": "Retain"}})
    store_file(database, "features", 500, LONG_AGO)
    keeper = managing.keeper(told=told)
    with caplog.at_level(logging.INFO):
        keeper.round()
        keeper.round()
    assert users(database) == [database.name]
    assert database["artifacts.files"].count_documents({}) == 1
    assert database["features.files"].count_documents({}) == 0
    assert 500 in told.freed.values()
    assert caplog.text.count(f"its database {database.name}, {SIZE} bytes, is kept, because it holds what") == 1


def test_a_deletion_is_noted_in_the_database_of_a_namespace_that_is_gone(managing, namespace):
    session = managing.create(namespace, "digits")
    database = gone_database(managing, session)
    database["sessions"].update_one({}, {"$unset": {"deletedAt": ""}, "$set": {"deletionPolicy": "Retain"}})
    keeper = managing.keeper()
    keeper.deleted(database.name.split("_")[1], uid(session), "Delete")
    keeper.round(inventory=False)
    assert records(database)[uid(session)]["deletionPolicy"] == "Delete"
    assert "deletedAt" in records(database)[uid(session)]
    assert "deletedAt" not in records(managing.databases[0])[uid(session)]


def test_only_so_many_deletions_are_remembered_while_mongodb_is_away(world, monkeypatch):
    monkeypatch.setattr("trainingsession_operator.keeper.MOST_DELETIONS", 3)
    keeper = world.keeper()
    for index in range(5):
        keeper.deleted("team", str(index), "Delete")
    assert [key[1] for key in keeper._deletions] == ["2", "3", "4"]
