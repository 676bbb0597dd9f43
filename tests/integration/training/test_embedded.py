"""The embedded mongod: on a socket only, keeps its data, says why it does not start."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import gridfs
import pytest

from trainingsession_trainer.embedded import embedded_mongod
from trainingsession_trainer.errors import DataError, SpecError, StorageError
from trainingsession_trainer.local import DATABASE, download
from trainingsession_trainer.mongodb import connect
from trainingsession_trainer.records import Artifact, Result, SessionRecord, create_record


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with two finished sessions of one name, a file whose digest is wrong, and one never published."""
    with embedded_mongod(tmp_path) as uri:
        database = connect(uri, DATABASE)
        bucket = gridfs.GridFSBucket(database, "artifacts")

        def stored(name: str, content: bytes, sha256: str | None = None) -> Artifact:
            sha256 = sha256 or hashlib.sha256(content).hexdigest()
            file_id = bucket.upload_from_stream(f"digits/{name}", content, metadata={"sha256": sha256})
            return Artifact(name, str(file_id), len(content), sha256)

        for content in (b"old", b"new"):
            create_record(database, content.hex(), f"team-{content.decode()}", "digits")
            record = SessionRecord(database, content.hex(), "attempt")
            record.claim({})
            record.publish(Result(0.5, {}, (stored("model.keras", content), stored("bad", b"flipped", "0" * 64))))
        stored("model.keras", b"killed before it was published")
        stored("model.onnx", b"killed before it was published")
    return tmp_path


def test_the_artifact_of_the_newest_finished_session_is_downloaded_and_checked(data: Path, tmp_path: Path) -> None:
    download("digits/model.keras", None, data, tmp_path / "out.keras")
    assert (tmp_path / "out.keras").read_bytes() == b"new"


def test_an_artifact_that_has_lost_a_chunk_is_damaged(data: Path, tmp_path: Path) -> None:
    with embedded_mongod(data) as uri:
        connect(uri, DATABASE)["artifacts.chunks"].delete_many({})
    with pytest.raises(DataError, match=r"^digits/model\.keras is damaged in the database \(.*\); train again\.$"):
        download("digits/model.keras", None, data, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_an_output_that_cannot_be_written_is_a_sentence(data: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"nowhere/out\.part cannot be written \(No such file or directory\); choose"):
        download("digits/model.keras", None, data, tmp_path / "nowhere" / "out")


def test_a_damaged_artifact_is_not_left_behind(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="digits/bad is damaged"):
        download("digits/bad", None, data, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_an_unknown_artifact_lists_the_known_ones(data: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"there are: digits/bad, digits/model\.keras"):
        download("nothing/here", None, data, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_a_file_that_was_never_published_is_no_artifact(data: Path, tmp_path: Path) -> None:
    with pytest.raises(
        SpecError, match=r"no artifact digits/model\.onnx; there are: digits/bad, digits/model\.keras\."
    ):
        download("digits/model.onnx", None, data, tmp_path / "out")


def test_an_artifact_whose_file_is_gone_is_said(data: Path, tmp_path: Path) -> None:
    with embedded_mongod(data) as uri:
        connect(uri, DATABASE)["artifacts.files"].delete_many({})
    with pytest.raises(DataError, match=r"^digits/model\.keras is gone from the database; train again\.$"):
        download("digits/model.keras", None, data, tmp_path / "out")


def test_a_folder_without_sessions_is_said(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="holds no sessions"):
        download("digits/model.keras", None, tmp_path / "none", None)


def test_two_at_once_on_one_folder_are_refused(tmp_path: Path) -> None:
    with (
        embedded_mongod(tmp_path),
        pytest.raises(StorageError, match=r"is in use by process \d+"),
        embedded_mongod(tmp_path),
    ):
        pass


def test_a_folder_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "mongodb").mkdir()
    (tmp_path / "mongodb" / "storage.bson").write_text("garbage", "ascii")
    with pytest.raises(StorageError, match="did not start; see"), embedded_mongod(tmp_path):
        pass


def test_it_ends_with_its_block_even_on_an_error(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from trainingsession_trainer.embedded import embedded_mongod\n"
        "with embedded_mongod(Path(sys.argv[1])):\n"
        "    print((Path(sys.argv[1]) / 'mongodb/mongod.lock').read_text().strip())\n"
        "    raise SystemExit(3)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False)
    assert ended.returncode == 3
    with pytest.raises(ProcessLookupError):
        os.kill(int(ended.stdout), 0)
