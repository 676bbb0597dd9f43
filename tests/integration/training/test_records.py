"""The record on a real MongoDB: claimed by the newest attempt, published once, never with a half of the artifacts."""

from __future__ import annotations

import hashlib
import threading
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import gridfs
import pytest
from bson import ObjectId
from pymongo import MongoClient

from real_mongod import free_port
from trainingsession_trainer import artifacts
from trainingsession_trainer.artifacts import publish
from trainingsession_trainer.config import parse_session
from trainingsession_trainer.errors import Stopped, StorageError
from trainingsession_trainer.records import Artifact, Published, Replaced, Result, SessionRecord, create_record

TRAINER = {"image": "trainer:1", "versions": {"keras": "3"}}


@pytest.fixture
def session():
    return parse_session(
        {
            "apiVersion": "trainingsession.dev/v1alpha1",
            "kind": "TrainingSession",
            "metadata": {"namespace": "team-a", "name": "digits", "uid": str(uuid.uuid4())},
            "spec": {"dataset": {"name": "digits"}, "baseModel": {"name": "ResNet50"}},
        }
    )


@pytest.fixture
def attempt(database, session):
    """Makes attempts of one session whose record exists."""
    create_record(database, session.uid, session.namespace, session.name)
    return lambda name: SessionRecord(database, session.uid, name)


@pytest.fixture
def stored(database, session):
    return lambda: database["sessions"].find_one({"_id": session.uid})


def result(database, accuracy: float = 0.5) -> Result:
    """A result with one artifact that is really there."""
    data = b"weights"
    file_id = gridfs.GridFSBucket(database, "artifacts").upload_from_stream("digits/head", data)
    artifact = Artifact("head", str(file_id), len(data), hashlib.sha256(data).hexdigest())
    return Result(accuracy, {"test_loss": 0.25}, (artifact,))


def files(database) -> int:
    return database["artifacts.files"].count_documents({})


def test_a_claim_says_who_and_when(attempt, stored) -> None:
    assert attempt("pod-1").claim(TRAINER)
    record = stored()
    assert record["attempt"] == "pod-1"
    assert record["phase"] == "Extracting"
    assert record["trainer"] == TRAINER
    assert abs(record["attemptStartedAt"].replace(tzinfo=UTC) - datetime.now(UTC)) < timedelta(minutes=1)
    assert record["recordVersion"] == 2
    assert record["deletionPolicy"] == "Retain"


def test_without_a_record_nothing_is_claimed(database) -> None:
    with pytest.raises(StorageError, match="The record of session nobody is not in the database"):
        SessionRecord(database, "nobody", "pod-1").claim(TRAINER)
    assert database["sessions"].count_documents({}) == 0


def test_a_replaced_attempt_can_neither_report_nor_publish_and_its_files_go(attempt, stored, database) -> None:
    old, new = attempt("pod-1"), attempt("pod-2")
    assert old.claim(TRAINER)
    assert new.claim(TRAINER)
    for write in (lambda: old.progress("Training", {"percent": 5}), lambda: old.describe({"train": 1}, {})):
        with pytest.raises(Stopped):
            write()
    with pytest.raises(Replaced) as caught:
        publish(database, old, result(database))
    assert caught.value.exit_code == 75
    assert files(database) == 0
    old.fail(64, "no")
    assert "failure" not in stored()
    assert publish(database, new, result(database, 0.75)) is Published.BY_US
    assert stored()["result"]["accuracy"] == 0.75


def test_a_result_is_published_once_and_stays(attempt, stored, database) -> None:
    record = attempt("pod-1")
    record.claim(TRAINER)
    assert publish(database, record, result(database)) is Published.BY_US
    first = stored()["result"]
    assert not attempt("pod-2").claim(TRAINER)
    assert publish(database, record, result(database, 0.9)) is Published.BEFORE
    assert stored()["result"] == first
    assert files(database) == 1
    record.fail(1, "late")
    assert "failure" not in stored()
    assert first["metrics"] == [{"name": "test_loss", "value": 0.25}]
    assert isinstance(first["publishedAt"], datetime)


def test_an_answer_that_was_lost_is_no_second_result(attempt, stored, database) -> None:
    record, mine = attempt("pod-1"), result(database)
    record.claim(TRAINER)
    assert publish(database, record, mine) is Published.BY_US
    assert publish(database, record, mine) is Published.BY_US
    assert files(database) == 1


def test_text_of_a_user_is_data_to_mongodb(attempt, stored) -> None:
    record = attempt("pod-1")
    record.claim({"image": "$attempt", "versions": {}})
    record.fail(64, "$name is {'$literal': 1} $(SECRET)")
    assert stored()["trainer"]["image"] == "$attempt"
    assert stored()["failure"]["message"] == "$name is {'$literal': 1} $(SECRET)"
    assert stored()["failure"]["exitCode"] == 64
    assert stored()["failure"]["attempt"] == "pod-1"
    assert isinstance(stored()["failure"]["at"], datetime)


def test_a_failure_carries_its_reason_where_it_has_one(attempt, stored) -> None:
    record = attempt("pod-1")
    record.claim(TRAINER)
    record.fail(64, "Training diverged.", "Diverged")
    assert stored()["failure"]["reason"] == "Diverged"
    record.fail(75, "Stopped.")
    assert "reason" not in stored()["failure"]


def test_a_new_attempt_starts_with_no_progress(attempt, stored) -> None:
    record = attempt("pod-1")
    record.claim(TRAINER)
    record.progress("Training", {"percent": 50, "remainingSeconds": None})
    record.describe({"train": 3}, {"key": "k"})
    assert stored()["progress"] == {"percent": 50}
    assert stored()["samples"] == {"train": 3}
    attempt("pod-2").claim(TRAINER)
    assert stored()["progress"] == {}
    assert stored()["phase"] == "Extracting"


def test_progress_does_not_wait_for_a_mongodb_that_is_away() -> None:
    # Patient by its own settings; nobody listens on the port.
    away = MongoClient(f"mongodb://127.0.0.1:{free_port()}", serverSelectionTimeoutMS=600_000)["x"]
    errors: list[Exception] = []

    def report() -> None:
        with pytest.raises(StorageError, match=r"^Could not store the progress \(") as caught:
            SessionRecord(away, "uid", "pod-1").progress("Training", {"percent": 5})
        errors.append(caught.value)

    reporting = threading.Thread(target=report, daemon=True)
    reporting.start()
    reporting.join(30)
    assert errors, "still waiting after 30 s"


def test_uploaded_files_carry_their_digest(database, session, tmp_path: Path) -> None:
    data = bytes(range(256)) * 9000
    (tmp_path / "model.keras").write_bytes(data)
    (tmp_path / "empty.csv").touch()
    first, second = artifacts.upload(database, session, [tmp_path / "model.keras", tmp_path / "empty.csv"])
    assert first == Artifact("model.keras", first.id, len(data), hashlib.sha256(data).hexdigest())
    assert second.bytes == 0
    stream = gridfs.GridFSBucket(database, "artifacts").open_download_stream(ObjectId(first.id))
    assert stream.read() == data
    assert stream.filename == "digits/model.keras"
    assert stream.metadata == {
        "session": session.uid,
        "namespace": "team-a",
        "name": "model.keras",
        "sha256": first.sha256,
    }


def test_a_failed_upload_leaves_nothing(database, session, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1" * 3_000_000)
    with pytest.raises(FileNotFoundError):
        artifacts.upload(database, session, [tmp_path / "a", tmp_path / "gone"])
    assert files(database) == 0
    assert database["artifacts.chunks"].count_documents({}) == 0
