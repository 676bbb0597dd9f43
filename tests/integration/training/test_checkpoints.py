"""Checkpoints on a real MongoDB: one that counts, never a half one, and none that holds a training up."""

from __future__ import annotations

import signal
import uuid

import gridfs
import numpy as np
import pytest

from real_mongod import RealMongod
from trainingsession_trainer.checkpoints import Checkpoints
from trainingsession_trainer.config import parse_session
from trainingsession_trainer.mongodb import connect
from trainingsession_trainer.records import Replaced, Result, SessionRecord, create_record
from trainingsession_trainer.snapshot import Epoch, Snapshot
from trainingsession_trainer.training import bind

LIKE = (np.zeros((40, 50), np.float32), np.zeros(3, np.float32))
IN_THE_BACKGROUND = {"every_seconds": 0.0}
AT_THE_END = {"every_seconds": 1e9}


def snapshot(epochs: int) -> Snapshot:
    """A state that tells its epoch."""
    figures = tuple(Epoch(number, 1.0, {"loss": 0.5}) for number in range(1, epochs + 1))
    return Snapshot(figures, tuple(array + epochs for array in LIKE))


def load(checkpoints: Checkpoints) -> Snapshot | None:
    return checkpoints.load(LIKE, 1, 100)


@pytest.fixture
def files(database):
    """Ids of all files in the bucket."""
    return lambda: [file["_id"] for file in database["checkpoints.files"].find()]


@pytest.fixture
def session(database, new_checkpoints, files):
    """Gives a further attempt of one session, and its record."""

    class Session:
        uid = uuid.uuid4().hex

        def attempt(self, **settings) -> Checkpoints:
            return new_checkpoints(self.uid, **{**AT_THE_END, **settings})

        @property
        def record(self):
            return database["sessions"].find_one({"_id": self.uid})

    return Session()


def test_the_latest_state_is_what_the_next_attempt_goes_on_with(session, files, database) -> None:
    first = session.attempt()
    assert load(first) is None
    for epochs in (1, 2, 3):
        first.offer(snapshot(epochs))
    assert files() == [], "not due before the end"
    assert first.save_latest() == "the next attempt goes on with epoch 4"
    named = session.record["checkpoint"]
    assert set(named) == {"file", "sha256", "bytes", "epoch"}
    assert named["epoch"] == 3
    stream = gridfs.GridFSBucket(database, "checkpoints").open_download_stream(named["file"])
    assert len(stream.read()) == named["bytes"]
    found = load(session.attempt())
    assert np.array_equal(found.state[0], snapshot(3).state[0])
    assert found.epochs == snapshot(3).epochs


def test_a_new_checkpoint_takes_the_place_of_the_old_one(session, files) -> None:
    checkpoints = session.attempt()
    for epochs in (1, 2):
        checkpoints.offer(snapshot(epochs))
        checkpoints.save_latest()
    assert files() == [session.record["checkpoint"]["file"]]
    # Nothing is new, so nothing is written.
    assert checkpoints.save_latest() == "the next attempt goes on with epoch 3"
    assert files() == [session.record["checkpoint"]["file"]]


def test_a_stop_before_the_first_epoch_ends_stores_nothing(session, files) -> None:
    checkpoints = session.attempt()
    load(checkpoints)
    assert checkpoints.save_latest() == "the next attempt finds the features and trains from the start"
    assert files() == []
    assert "checkpoint" not in session.record


def test_an_attempt_that_comes_no_further_leaves_the_checkpoint_that_it_found(session, files) -> None:
    first = session.attempt()
    first.offer(snapshot(2))
    first.save_latest()
    named = session.record["checkpoint"]
    second = session.attempt()
    load(second)
    assert second.save_latest() == "the next attempt goes on with epoch 3"
    assert session.record["checkpoint"] == named
    assert files() == [named["file"]]


def damage_a_chunk(database, named) -> None:
    chunk = database["checkpoints.chunks"].find_one({"files_id": named["file"]})
    data = bytearray(chunk["data"])
    data[len(data) // 2] ^= 1
    database["checkpoints.chunks"].update_one({"_id": chunk["_id"]}, {"$set": {"data": bytes(data)}})


DAMAGES = {
    "damaged": (damage_a_chunk, "is damaged: its SHA-256 is not the one in the record"),
    "without a chunk": (
        lambda database, named: database["checkpoints.chunks"].delete_one({"files_id": named["file"]}),
        "is missing or damaged",
    ),
    "without its file": (
        lambda database, named: database["checkpoints.files"].delete_one({"_id": named["file"]}),
        "is missing or damaged",
    ),
    "too large to be one": (
        lambda database, named: database["sessions"].update_one({}, {"$set": {"checkpoint.bytes": 1 << 40}}),
        "does not fit the head",
    ),
    "named by nonsense": (
        lambda database, named: database["sessions"].update_one({}, {"$set": {"checkpoint": {"file": "x"}}}),
        "does not fit the head",
    ),
}


@pytest.mark.parametrize(("damage", "words"), DAMAGES.values(), ids=DAMAGES.keys())
def test_a_checkpoint_that_cannot_be_used_is_dropped_with_one_line(
    session, database, reporter, files, damage, words: str
) -> None:
    first = session.attempt()
    first.offer(snapshot(2))
    first.save_latest()
    damage(database, session.record["checkpoint"])
    second = session.attempt()
    assert load(second) is None
    lines = reporter._out.getvalue().splitlines()
    assert [line.partition(" ")[2] for line in lines] == [
        f"The checkpoint of an earlier attempt is not used: it {words}; starting anew"
    ]
    assert files() == []
    second.offer(snapshot(1))
    assert second.save_latest() == "the next attempt goes on with epoch 2"
    assert np.array_equal(load(session.attempt()).state[0], snapshot(1).state[0])


def test_a_checkpoint_of_another_keras_is_not_used(session, reporter) -> None:
    first = session.attempt(binding={"Keras version": "3.0"})
    first.offer(snapshot(2))
    first.save_latest()
    assert load(session.attempt(binding={"Keras version": "4.0"})) is None
    assert "it is of another Keras version; starting anew" in reporter._out.getvalue()


def test_what_a_killed_attempt_has_left_unnamed_is_deleted_by_the_next(session, database, files) -> None:
    first = session.attempt()
    first.offer(snapshot(1))
    first.save_latest()
    bucket = gridfs.GridFSBucket(database, "checkpoints")
    bucket.upload_from_stream(session.uid, b"unnamed")
    other = bucket.upload_from_stream("another session", b"named elsewhere")
    assert load(session.attempt()) is not None
    assert sorted(files()) == sorted([session.record["checkpoint"]["file"], other])


def test_a_replaced_attempt_names_nothing_and_takes_its_file_away(session, files) -> None:
    old = session.attempt()
    old.offer(snapshot(1))
    old.save_latest()
    named = session.record["checkpoint"]
    old.offer(snapshot(2))
    new = session.attempt()
    with pytest.raises(Replaced):
        old.save_latest()
    assert session.record["checkpoint"] == named
    assert files() == [named["file"]]
    assert load(new).epoch == 1


def test_a_replaced_attempt_hears_of_it_from_a_save_in_the_background(session) -> None:
    old = session.attempt(**IN_THE_BACKGROUND)
    session.attempt()
    old.offer(snapshot(1))
    with pytest.raises(Replaced):
        old.save_latest()


def test_with_the_result_the_checkpoint_goes(session, database, files) -> None:
    checkpoints = session.attempt()
    checkpoints.offer(snapshot(1))
    checkpoints.save_latest()
    SessionRecord(database, session.uid, session.record["attempt"]).publish(Result(0.5, {}, ()))
    assert "checkpoint" not in session.record
    checkpoints.remove()
    assert files() == []
    checkpoints.offer(snapshot(2))
    with pytest.raises(Replaced):
        checkpoints.save_latest()
    assert files() == []


@pytest.fixture
def server(tmp_path):
    """A mongod of one's own, to be hurt."""
    found = RealMongod(tmp_path)
    found.start()
    found.initiate()
    yield found
    if found.process is not None:
        found.process.send_signal(signal.SIGCONT)
    found.stop()


@pytest.fixture
def on_server(server, reporter):
    """Checkpoints in that mongod."""
    database = connect(server.uri, "hurt")
    create_record(database, "uid", "team-a", "digits")
    record = SessionRecord(database, "uid", "pod-1")
    record.claim({})

    def make(**settings) -> Checkpoints:
        return Checkpoints(database, record, {"session": "uid"}, reporter, lambda: False, **settings)

    yield make
    database.client.close()


def test_a_mongodb_that_hangs_holds_no_epoch_up_and_the_latest_state_wins(server, on_server) -> None:
    checkpoints = on_server(**IN_THE_BACKGROUND)
    load(checkpoints)
    server.process.send_signal(signal.SIGSTOP)
    for epochs in (1, 2, 3):
        checkpoints.offer(snapshot(epochs))
    server.process.send_signal(signal.SIGCONT)
    assert checkpoints.save_latest() == "the next attempt goes on with epoch 4"
    assert np.array_equal(load(on_server()).state[0], snapshot(3).state[0])


def test_a_mongodb_that_hangs_at_the_end_costs_the_last_epochs_and_no_more_time_than_is_left(server, on_server) -> None:
    checkpoints = on_server(**AT_THE_END, last_seconds=5.0)
    checkpoints.offer(snapshot(1))
    assert checkpoints.save_latest() == "the next attempt goes on with epoch 2"
    checkpoints.offer(snapshot(2))
    server.process.send_signal(signal.SIGSTOP)
    said = checkpoints.save_latest()
    server.process.send_signal(signal.SIGCONT)
    assert said.startswith("the last epochs are lost (Could not ")
    assert said.endswith("); the next attempt goes on with epoch 2")
    assert load(on_server()).epoch == 1


def test_a_mongodb_that_comes_back_before_the_end_gets_the_latest_state(server, on_server) -> None:
    checkpoints = on_server(**IN_THE_BACKGROUND)
    load(checkpoints)
    server.kill()
    for epochs in (1, 2):
        checkpoints.offer(snapshot(epochs))
    server.start()
    server.wait_for_primary()
    assert checkpoints.save_latest() == "the next attempt goes on with epoch 3"


def test_a_mongodb_that_refuses_is_told_once_and_asked_again(session, database, reporter) -> None:
    database.create_collection("checkpoints.chunks", validator={"never": True})
    checkpoints = session.attempt(**IN_THE_BACKGROUND)
    for epochs in (1, 2):
        checkpoints.offer(snapshot(epochs))
        said = checkpoints.save_latest()
    assert said.startswith("the last epochs are lost (Could not store the checkpoint (Document failed validation")
    assert said.endswith("the next attempt finds the features and trains from the start")
    assert reporter._out.getvalue().count("Training goes on without.") == 1
    database.command("collMod", "checkpoints.chunks", validator={})
    checkpoints.offer(snapshot(3))
    assert checkpoints.save_latest() == "the next attempt goes on with epoch 4"


def document(**spec) -> dict:
    spec = {"dataset": {"name": "digits"}, "baseModel": {"name": "ResNet50", "weights": "none"}, **spec}
    metadata = {"namespace": "team-a", "name": "digits", "uid": "uid"}
    return {"apiVersion": "trainingsession.dev/v1alpha1", "kind": "TrainingSession", "metadata": metadata, "spec": spec}


def test_a_checkpoint_belongs_to_its_session_its_spec_its_features_and_its_keras() -> None:
    usual = bind(parse_session(document()), "key")
    assert usual == bind(parse_session(document(resources={"gpus": 0})), "key"), "of no meaning for the numbers"
    changes = (
        {"head": {"layers": [{"type": "Dropout", "config": {"rate": 0.5}}]}},
        {"training": {"epochs": 21}},
        {"training": {"seed": 1}},
        {"dataset": {"name": "digits", "subset": 0.5}},
        {"dataset": {"name": "digits", "validationSplit": 0.3}},
    )
    assert len({str(bind(parse_session(document(**change)), "key")) for change in changes} | {str(usual)}) == 6
    assert bind(parse_session(document()), "other")["feature set"] != usual["feature set"]
    assert usual["session"] == "uid"
    assert "Keras version" in usual
