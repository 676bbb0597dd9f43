"""A folder on a claim is digested once; whatever changed is read again."""

from __future__ import annotations

import io
import os
import re
import uuid

import pytest
from pymongo import MongoClient

from pictures import go_on, layout, png, write_folder
from trainingsession_trainer.datasets import open_dataset
from trainingsession_trainer.datasets.known_files import RACY_NS, KnownFile, KnownFiles
from trainingsession_trainer.file_digests import FileDigests
from trainingsession_trainer.reporting import Reporter
from trainingsession_trainer.spec import Dataset

FILES = layout(train__cat=6, train__dog=3, test__cat=2, test__dog=1)
SPEC = Dataset(uri="file:///flowers/", claim_name="data")


@pytest.fixture
def database(mongod):
    with MongoClient(mongod.uri) as client:
        name = f"digests_{uuid.uuid4().hex[:12]}"
        yield client[name]
        client.drop_database(name)


@pytest.fixture
def flowers(tmp_path, monkeypatch):
    """A folder on a claim, whose files changed long ago."""
    monkeypatch.setattr("trainingsession_trainer.datasets.DATASET_MOUNT", tmp_path / "claim")
    folder = write_folder(tmp_path / "claim/flowers", FILES)
    for path in folder.rglob("*.png"):
        os.utime(path, ns=(10**18, 10**18))
    return folder


def opened(tmp_path, database, spec=SPEC):
    """The data set and how many files were read for it."""
    out = io.StringIO()
    found = open_dataset(spec, tmp_path / "work", Reporter(out), go_on, None, FileDigests(database, go_on))
    (read,) = re.findall(r"of which ([\d,]+) had to be read", out.getvalue())
    return found, int(read)


def test_a_folder_is_read_once_and_known_from_then_on(tmp_path, database, flowers):
    first, read = opened(tmp_path, database)
    again, read_again = opened(tmp_path, database)
    assert (read, read_again) == (12, 0)
    assert first.train.order_digest == again.train.order_digest
    assert first.test.digests == again.test.digests


def test_what_is_new_or_changed_is_read_and_what_is_gone_is_forgotten(tmp_path, database, flowers):
    opened(tmp_path, database)
    (flowers / "train/cat/0.png").unlink()
    write_folder(flowers, {"train/cat/new.png": png(1000), "train/dog/8.png": png(1001)})
    for name in ("train/cat/new.png", "train/dog/8.png"):
        os.utime(flowers / name, ns=(10**18 + 1, 10**18 + 1))
    os.utime(flowers / "test/cat/9.png", ns=(10**18 + 5, 10**18 + 5))
    changed, read = opened(tmp_path, database)
    assert read == 3
    fresh, _ = opened(tmp_path, database, Dataset(uri="file:///flowers", claim_name="data"))
    assert changed.train.order_digest == fresh.train.order_digest
    kept = FileDigests(database, go_on).recall("data file:///flowers/")
    assert "train/cat/0.png" not in kept
    assert len(kept) == 12
    assert len(list(database["digests.files"].find({"filename": "data file:///flowers/"}))) == 1


def test_another_claim_or_folder_is_another_place(tmp_path, database, flowers):
    opened(tmp_path, database)
    assert opened(tmp_path, database, Dataset(uri="file:///flowers/", claim_name="other"))[1] == 12
    assert opened(tmp_path, database, Dataset(uri="file:///", claim_name="data"))[1] == 12


def test_a_file_that_changed_just_now_is_read_again_next_time(tmp_path, database, flowers):
    opened(tmp_path, database)
    os.utime(flowers / "train/cat/0.png")
    assert opened(tmp_path, database)[1] == 1
    assert opened(tmp_path, database)[1] == 1


def test_digests_that_are_damaged_cost_reading_only(tmp_path, database, flowers):
    first, _ = opened(tmp_path, database)
    database["digests.chunks"].update_many({}, {"$set": {"data": b"x" * 10}})
    again, read = opened(tmp_path, database)
    assert read == 12
    assert again.train.order_digest == first.train.order_digest
    assert opened(tmp_path, database)[1] == 0


def test_names_of_any_kind_come_back_as_they_were(database):
    memory = FileDigests(database, go_on)
    files = {name: KnownFile(1, 2, bytes(32)) for name in ("a b.png", "ü\n.png", r"K\xe4se/a.png", "", "\u2028")}
    memory.remember("data file:///x", files)
    assert memory.recall("data file:///x") == files
    assert memory.recall("data file:///y") == {}


def test_a_file_that_is_changed_while_it_is_read_is_not_remembered(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"x" * 10)
    os.utime(path, ns=(10**18, 10**18))
    kept = {}

    class Kept:
        def recall(self, place):
            return {}

        def remember(self, place, files):
            kept.update(files)

    def change():
        os.utime(path, ns=(10**18 + 1, 10**18 + 1))
        return False

    known = KnownFiles("x", Kept(), now=lambda: 10**18 + 2 * RACY_NS)
    known.digest(path, "a.png", change, "reading")
    assert known.keep() == 1
    assert kept == {}
    known.digest(path, "a.png", go_on, "reading")
    known.keep()
    assert set(kept) == {"a.png"}
