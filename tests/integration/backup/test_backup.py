"""Backups of a real mongod and their way back into an empty one."""

from __future__ import annotations

import hashlib
import os
import threading
import zipfile
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId
from gridfs import GridFSBucket
from pymongo.database import Database

from builders import record, result
from stored import DAY, everything, store_set, store_weights
from trainingsession_operator import load as load_module
from trainingsession_operator import sentinel
from trainingsession_operator.archive import Archive, ArchiveError, ArchiveWriter
from trainingsession_operator.archives import Archives
from trainingsession_operator.backup import make, restore
from trainingsession_operator.dump import Dump
from trainingsession_operator.errors import StartError, StorageUnavailableError
from trainingsession_operator.load import load
from trainingsession_operator.places import Folder, PlaceError
from trainingsession_operator.storage import make_indexes, server_time

Json = dict[str, Any]
NOW = datetime(2026, 11, 26, 2, 30, tzinfo=UTC)
WEIGHTS = "e" * 64


@pytest.fixture(autouse=True)
def _nobody_sweeps(monkeypatch):
    monkeypatch.setattr(load_module, "SETTLE_SECONDS", 0.0)


@pytest.fixture
def archives(tmp_path) -> Archives:
    folder = tmp_path / "backups"
    folder.mkdir()
    return Archives(Folder(folder))


def store(database: Database[Json], bucket: str, content: bytes) -> ObjectId:
    return GridFSBucket(database, bucket).upload_from_stream("file", content)


def read(database: Database[Json], bucket: str, file_id: ObjectId) -> bytes:
    return GridFSBucket(database, bucket).open_download_stream(file_id).read()


def session(database: Database[Json], name: str, content: bytes | None = None, **fields: Any) -> str:
    """Store the record of a session, which has succeeded where it has content; returns its UID."""
    uid = f"00000000-0000-0000-0000-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    if content is not None:
        artifact = {"name": "model.keras", "id": str(store(database, "artifacts", content)), "bytes": len(content),
                    "sha256": hashlib.sha256(content).hexdigest()}  # fmt: skip
        fields |= {"result": result(artifacts=[artifact]), "attempt": "pod"}
    database["sessions"].replace_one({"_id": uid}, {**record(), "_id": uid, "name": name, **fields}, upsert=True)
    return uid


def model_of(database: Database[Json], uid: str) -> bytes:
    """The artifact that the record names, which must be the one that was published."""
    (named,) = database["sessions"].find_one({"_id": uid})["result"]["artifacts"]
    content = read(database, "artifacts", ObjectId(named["id"]))
    assert hashlib.sha256(content).hexdigest() == named["sha256"]
    return content


def contents(database: Database[Json]) -> dict[str, list[Json]]:
    """Every document, but for the sentinel, and every index."""
    names = sorted(one["name"] for one in database.list_collections(filter={"type": "collection"}))
    names = [n for n in names if n != sentinel.COLLECTION and not n.startswith("system.") and ".." not in n]
    documents = {name: list(database[name].find().sort("_id", 1)) for name in names}
    indexes = {f"{name}: indexes": sorted(database[name].index_information()) for name in names}
    return {name: found for name, found in (documents | indexes).items() if found}


def fill(database: Database[Json]) -> None:
    """What a namespace has: sessions, a checkpoint, features, weights, facts."""
    make_indexes(database)
    for index in range(3):
        session(database, f"s{index}", os.urandom(700_000 + index))
    checkpoint = store(database, "checkpoints", os.urandom(300_000))
    session(database, "running", attempt="pod", checkpoint={"file": checkpoint, "epoch": 3})
    store_set(database, "set", baseWeights=WEIGHTS)
    store_weights(database, WEIGHTS, 400_000)
    database["dataset_facts"].insert_one({"_id": "facts", "images": 10})
    sentinel.refresh(database, sentinel.read(database), server_time(database))


def test_an_empty_mongodb_is_as_before_with_features_and_every_index(source, target, database, archives):
    fill(database)
    source.client["somebody_elses"]["data"].insert_one({"_id": 1})
    database.command("createUser", database.name, pwd="p", roles=[])
    name = make(source.client, archives, 7, features=True, now=NOW)
    assert name == "trainingsession-20261126T023000Z.zip"
    assert restore(target.client, archives) == name
    back = target.client[database.name]
    assert contents(back) == contents(database)
    names = target.client.list_database_names()
    assert "somebody_elses" not in names, "only namespaces' databases"
    assert back.command("usersInfo")["users"] == [], "the operator makes users anew"
    source.client.drop_database("somebody_elses")
    database.command("dropAllUsersFromDatabase")


def test_without_features_their_catalog_is_left_out_too_and_the_weights_stay(source, target, database, archives):
    fill(database)
    make(source.client, archives, 7, features=False, now=NOW)
    restore(target.client, archives)
    back = target.client[database.name]
    there = everything(back)
    assert not {"feature_sets", "feature_shards", "feature_uses"} & there.keys()
    weights = back["base_weights"].find_one({"_id": WEIGHTS})
    assert there["features.files"] == {weights["file"]}
    assert len(read(back, "features", weights["file"])) == 400_000
    left_out = ("feature", "operator")
    assert {k: v for k, v in contents(back).items() if not k.startswith(left_out)} == {
        k: v for k, v in contents(database).items() if not k.startswith(left_out)
    }


class Traffic(threading.Thread):
    """Sessions that publish, and one that replaces its checkpoint, as fast as MongoDB takes them."""

    def __init__(self, first: Database[Json], second: Database[Json]) -> None:
        super().__init__(daemon=True)
        self.first, self.second = first, second
        self.stop = threading.Event()
        self.rounds = 0

    def run(self) -> None:
        before = None
        while not self.stop.is_set():
            self.rounds += 1
            session(self.first, f"t{self.rounds}", os.urandom(300_000))
            checkpoint = store(self.first, "checkpoints", b"%d" % self.rounds * 50_000)
            session(self.first, "running", attempt="pod", checkpoint={"file": checkpoint, "epoch": self.rounds})
            if before is not None:
                GridFSBucket(self.first, "checkpoints").delete(before)
            before = checkpoint
            self.second["sessions"].update_one({"_id": "count"}, {"$set": {"rounds": self.rounds}}, upsert=True)


def test_a_backup_under_traffic_is_of_one_moment_over_all_namespaces(source, target, database, tmp_path):
    second = source.client[f"trainings_team-b_{database.name[-8:]}"]
    traffic = Traffic(database, second)
    traffic.start()

    def more() -> None:
        """At least a few files come between the rounds over contents and the moment."""
        seen = traffic.rounds
        while traffic.rounds < seen + 5:
            pass

    more()
    path = tmp_path / "archive.zip"
    with path.open("wb") as file:
        manifest = Dump(source.client, ArchiveWriter(file), between=more).run()
    more()
    traffic.stop.set()
    traffic.join()
    with path.open("rb") as file:
        load(target.client, Archive(file))
    back = target.client[database.name]
    finished = back["sessions"].count_documents({"result": {"$exists": True}})
    assert 10 <= finished < traffic.rounds
    for found in back["sessions"].find({"result": {"$exists": True}}):
        model_of(back, found["_id"])
    running = back["sessions"].find_one({"name": "running"})["checkpoint"]
    assert read(back, "checkpoints", running["file"]) == b"%d" % running["epoch"] * 50_000
    counted = target.client[second.name]["sessions"].find_one({"_id": "count"})["rounds"]
    # Each is written in this order, and waits for the one before.
    assert counted <= running["epoch"] <= finished <= counted + 1
    assert manifest["databases"][database.name]["sessions"] == finished + 1


def test_a_file_that_is_being_stored_meanwhile_is_whole_in_the_end(source, target, database, tmp_path):
    fill(database)
    half = ObjectId()
    database["features.files"].insert_one({"_id": half, "length": 600_000, "chunkSize": 300_000})
    chunk = {"files_id": half, "data": b"x" * 300_000}
    database["features.chunks"].insert_one({**chunk, "n": 0})

    def rest() -> None:
        database["features.chunks"].insert_one({**chunk, "n": 1})

    with (tmp_path / "archive.zip").open("w+b") as file:
        Dump(source.client, ArchiveWriter(file), features=True, between=rest).run()
        load(target.client, Archive(file))
    assert read(target.client[database.name], "features", half) == b"x" * 600_000


def test_a_moment_that_was_lost_is_taken_again_and_given_up_in_the_end(source, target, database, tmp_path):
    fill(database)
    too_old = 239
    with (tmp_path / "archive.zip").open("w+b") as file:
        lost = Dump(source.client, ArchiveWriter(file), between=lambda: source.fail("find", too_old, 2))
        assert lost.run()["parts"] == [1, 4]
        load(target.client, Archive(file))
    assert target.client[database.name]["sessions"].count_documents({}) == 4
    with (tmp_path / "second.zip").open("w+b") as file:
        lost = Dump(source.client, ArchiveWriter(file), between=lambda: source.fail("find", too_old, 3))
        with pytest.raises(StorageUnavailableError, match="minSnapshotHistoryWindowInSeconds; raise that"):
            lost.run()


def test_what_came_into_being_since_stays_and_what_the_operator_made_gives_way(source, target, database, archives):
    finished, untouched, running = (session(database, name, b"old") for name in ("finished", "untouched", "running"))
    lost = session(database, "lost", b"old")
    make(source.client, archives, 7, features=False, now=NOW)
    back = target.client[database.name]
    session(back, "finished", b"new")
    session(back, "running", attempt="another pod")
    session(back, "untouched")
    doubted = sentinel.doubt(back)
    restore(target.client, archives)
    assert model_of(back, finished) == b"new"
    assert back["sessions"].find_one({"_id": running})["attempt"] == "another pod"
    assert model_of(back, untouched) == model_of(back, lost) == b"old"
    seen = sentinel.read(back)
    assert (doubted.doubt, seen.doubt) != ("", doubted.doubt), "the doubt is gone"
    assert seen.restored_at is not None
    before = contents(back)
    restore(target.client, archives)
    assert contents(back) == before, "once more changes nothing"


def test_one_database_can_be_restored_alone(source, target, database, archives):
    fill(database)
    other = source.client[f"trainings_team-b_{database.name[-8:]}"]
    session(other, "s", b"x")
    make(source.client, archives, 7, features=False, now=NOW)
    restore(target.client, archives, database=other.name)
    there = [name for name in target.client.list_database_names() if name.startswith("trainings_")]
    assert there == [other.name]
    with pytest.raises(StartError, match=f'no database "nobody"; it has: {database.name}, {other.name}'):
        restore(target.client, archives, database="nobody")


@pytest.mark.parametrize("strange", ["/etc/passwd", "a/b.chunks", "é %2F", "x.files"])
def test_collections_of_any_name_come_back(source, target, database, archives, strange, caplog):
    database[strange].insert_one({"_id": {"a": 1}, "files_id": 5, "length": "long"})
    database["digests.chunks"].insert_one({"_id": 1, "files_id": 1, "n": 0})
    database["digests.files"].insert_one({"_id": 1, "length": 10, "chunkSize": "?"})
    database.create_collection("view", viewOn=strange, pipeline=[])
    database.command("create", "a..b")
    make(source.client, archives, 7, features=False, now=NOW)
    restore(target.client, archives)
    assert contents(target.client[database.name]) == contents(database)


def test_only_so_many_are_kept_and_what_an_unfinished_one_left_goes_after_a_day(source, database, archives, tmp_path):
    session(database, "s", b"x")
    folder = tmp_path / "backups"
    names = [make(source.client, archives, 2, features=False, now=NOW + day * DAY) for day in range(2)]
    for moment in (NOW + timedelta(hours=1), NOW + 2 * DAY - timedelta(hours=1)):
        (folder / f"trainingsession-{moment:%Y%m%dT%H%M%SZ}.zip.part").write_bytes(b"half")
    (folder / "trainingsession-20261126T040000Z.zip").write_bytes(b"without its digest")
    (folder / "notes.txt").write_text("mine")
    names.append(make(source.client, archives, 2, features=False, now=NOW + 2 * DAY))
    kept = {file for name in names[1:] for file in (name, f"{name}.sha256")}
    assert {path.name for path in folder.iterdir()} == kept | {"trainingsession-20261128T013000Z.zip.part", "notes.txt"}
    assert archives.names() == names[1:]
    digest, named = (folder / f"{names[2]}.sha256").read_text().split()
    assert (digest, named) == (hashlib.sha256((folder / names[2]).read_bytes()).hexdigest(), names[2])


def test_the_last_backup_before_a_loss_is_neither_deleted_nor_passed_over(source, target, database, archives, caplog):
    for index in range(5):
        session(database, f"s{index}", b"x")
    full = [make(source.client, archives, 2, features=False, now=NOW + day * DAY) for day in range(2)]
    source.client.drop_database(database.name)
    empty = [make(source.client, archives, 2, features=False, now=NOW + day * DAY) for day in range(2, 6)]
    assert archives.names() == [full[1], *empty[-2:]]
    assert f"the old backup {full[1]} is kept: it holds the records of 5 sessions" in caplog.text
    with pytest.raises(StartError, match=f"{empty[-1]}, holds the records of 0 .*and {full[1]} before it"):
        restore(target.client, archives)
    assert restore(target.client, archives, full[1]) == full[1]
    for index in range(3):
        session(database, f"s{index}", b"x")
    caplog.clear()
    regained = [make(source.client, archives, 2, features=False, now=NOW + day * DAY) for day in range(6, 8)]
    assert archives.names() == regained, "it is one of the old ones again"
    assert "is kept" not in caplog.text
    assert restore(target.client, archives) == regained[-1]


def test_nothing_is_swept_while_a_backup_is_being_restored(source, target, database, archives, monkeypatch):
    uid = session(database, "s", b"x" * 600_000)
    sentinel.refresh(database, sentinel.read(database), server_time(database))
    sentinel.doubt(database)
    sentinel.confirm(database)
    confirmed = sentinel.read(database).confirmed_at
    make(source.client, archives, 7, features=False, now=NOW)
    back, seen = target.client[database.name], list[str]()
    load_collection = load_module._load_collection

    def looking(collection, documents, done):
        load_collection(collection, documents, done)
        seen.append(collection.name)
        assert sentinel.is_within(sentinel.read(back), DAY, server_time(back)), collection.name

    monkeypatch.setattr(load_module, "_load_collection", looking)
    restore(target.client, archives)
    assert {"artifacts.chunks", "artifacts.files", "sessions", "operator"} <= set(seen)
    assert model_of(back, uid) == b"x" * 600_000
    assert (sentinel.read(back).doubt, sentinel.read(back).confirmed_at) == ("", confirmed)


def test_a_damaged_backup_is_refused_before_anything_is_restored(source, target, database, archives, tmp_path):
    session(database, "s", os.urandom(1_000_000))
    older = make(source.client, archives, 7, features=False, now=NOW - DAY)
    newer = make(source.client, archives, 7, features=False, now=NOW)
    with (tmp_path / "backups" / newer).open("r+b") as file:
        file.seek(500_000)
        file.write(b"damage")
    with pytest.raises(PlaceError, match=f"{newer} is damaged: .* restore an earlier one by name"):
        restore(target.client, archives)
    assert database.name not in target.client.list_database_names()
    with pytest.raises(StartError, match=f'no backup "{newer}x"; there are: {older}, {newer}'):
        restore(target.client, archives, f"{newer}x")
    assert restore(target.client, archives, older) == older


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda body: body[: len(body) // 2], "not a whole archive"),
        (lambda body: body[:3_000] + b"damage" + body[3_006:], "artifacts.chunks is damaged in the archive"),
        (lambda body: b"", "not a whole archive"),
    ],
    ids=["cut", "damaged", "empty"],
)
def test_an_archive_that_is_not_whole_is_a_sentence(source, target, database, tmp_path, change, message):
    session(database, "s", os.urandom(100_000))
    path = tmp_path / "archive.zip"
    with path.open("wb") as file:
        Dump(source.client, ArchiveWriter(file)).run()
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ArchiveError, match=message), path.open("rb") as file:
        load(target.client, Archive(file))


def test_an_archive_of_a_newer_form_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as newer:
        newer.writestr("MANIFEST.json", '{"format": 2}')
    with pytest.raises(ArchiveError, match="its format is 2, and this operator reads 1"):
        Archive((tmp_path / "a.zip").open("rb"))


def test_a_backup_of_a_mongodb_without_any_session_can_be_restored(source, target, archives):
    make(source.client, archives, 7, features=False, now=NOW)
    restore(target.client, archives)


def test_where_nothing_was_backed_up_nothing_is_restored(target, archives):
    with pytest.raises(StartError, match="there is no backup to restore"):
        restore(target.client, archives)
