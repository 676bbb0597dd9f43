"""Sessions without a cluster: the same trainer, an embedded MongoDB, and the table that kubectl would show."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from gridfs import GridFSBucket, GridOut
from gridfs.errors import CorruptGridFile, NoFile
from pymongo.database import Database
from pymongo.errors import PyMongoError

from .config import KIND, Session, parse_session
from .embedded import embedded_mongod
from .errors import DataError, SpecError, Stopped, StorageError, TrainerError
from .mongodb import Document, connect, patiently, read_setting, storage_error
from .records import COLLECTION, create_record
from .reporting import Reporter
from .structure import clip
from .tensorflow_import import load_tensorflow
from .yaml12 import load_all

DATABASE = "trainings_local"
COLUMNS = ("NAME", "PHASE", "ACCURACY", "EPOCH", "DATASET", "SUBSET", "BASE", "OPTIMIZER", "AGE")
_PIECE_BYTES = 1 << 20


def run_file(path: Path, mongodb: str | None, data: Path, stop: Callable[[], bool]) -> None:
    """Run the session in a YAML file and print its table; raises TrainerError."""
    document = read_yaml(path)
    session = parse_session(document)
    reporter = Reporter(sys.stdout)
    started = time.monotonic()
    with open_database(mongodb, data, reporter) as database:
        create_record(database, session.uid, session.namespace, session.name)
        reporter.info("Loading TensorFlow")
        load_tensorflow()
        from .run import run_attempt

        try:
            with tempfile.TemporaryDirectory(prefix="trainingsession-") as work:
                run_attempt(
                    document,
                    database,
                    str(uuid.uuid4()),
                    work=Path(work),
                    reporter=reporter,
                    stop=stop,
                    gpus_required=False,
                )
        except TrainerError:
            _print_table(session, database, started)
            raise
        _print_table(session, database, started)
        _print_artifacts(session, database, mongodb, data)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read the one TrainingSession of a YAML file and give it the identity that a cluster would; raises SpecError."""
    try:
        documents = [entry for entry in load_all(path.read_text("utf-8")) if entry is not None]
    except OSError as error:
        raise SpecError(f"{path} cannot be read ({error.strerror}); name a file with a {KIND}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} is not YAML ({clip(' '.join(str(error).split()))}); correct it.") from error
    sessions = [entry for entry in documents if isinstance(entry, Mapping) and entry.get("kind") == KIND]
    if len(sessions) != 1:
        raise SpecError(f"{path} holds {len(sessions)} objects of kind {KIND}; it must hold exactly one.")
    metadata = sessions[0].get("metadata")
    if not isinstance(metadata, Mapping) or not isinstance(metadata.get("name"), str):
        raise SpecError(f"{path} has no metadata.name; give the session a name.")
    identity = {"namespace": "default", **metadata, "uid": str(uuid.uuid4())}
    return {**sessions[0], "metadata": identity}


@contextlib.contextmanager
def open_database(mongodb: str | None, data: Path, reporter: Reporter | None = None) -> Iterator[Database[Document]]:
    """Open a running MongoDB (URI, or a folder with the files uri and database) or start the embedded one."""
    if mongodb is None:
        if reporter:
            reporter.info(f"Starting the embedded MongoDB on {data}")
        with embedded_mongod(data) as uri:
            yield from _connected(uri, DATABASE)
    elif "://" in mongodb:
        yield from _connected(mongodb, DATABASE)
    else:
        folder = Path(mongodb)
        uri = read_setting(folder / "uri", "the MongoDB URI")
        yield from _connected(uri, read_setting(folder / "database", "the name of the MongoDB database"))


def download(artifact: str, mongodb: str | None, data: Path, output: Path | None) -> None:
    """Write the newest artifact called "<session>/<file>" and check its SHA-256; raises DataError, SpecError."""
    target = output or Path(artifact.rpartition("/")[2])
    check_data(mongodb, data)
    with open_database(mongodb, data) as database:
        bucket = GridFSBucket(database, "artifacts")
        try:
            wanted = fetch(lambda: bucket.open_download_stream_by_name(artifact), artifact, target)
        except NoFile as error:
            known = ", ".join(sorted({str(file.filename) for file in bucket.find({}, limit=50)})) or "none"
            raise SpecError(f"There is no artifact {artifact}; there are: {known}.") from error
    _say(f"{target}  {target.stat().st_size:,} bytes  sha256 {wanted}")


def check_data(mongodb: str | None, data: Path) -> None:
    """Refuse a folder without an embedded MongoDB where one is to be read; raises SpecError."""
    if mongodb is None and not (data / "mongodb").is_dir():
        raise SpecError(f"{data} holds no sessions; name their folder with --data.")


def fetch(open_stream: Callable[[], GridOut], artifact: str, target: Path) -> str:
    """Write an artifact to `target` and check it; gives its SHA-256.

    Raises NoFile, DataError, StorageError, SpecError.
    """
    partial = target.with_name(target.name + ".part")
    try:
        with open_stream() as stream, partial.open("wb") as file:
            digest = hashlib.sha256()
            while piece := stream.read(_PIECE_BYTES):
                digest.update(piece)
                file.write(piece)
            wanted = (stream.metadata or {}).get("sha256")
        if digest.hexdigest() != wanted:
            raise DataError(
                f"{artifact} is damaged in the database: its SHA-256 is not the published one; train again."
            )
        partial.replace(target)
    except CorruptGridFile as error:
        raise DataError(f"{artifact} is damaged in the database ({error}); train again.") from error
    except NoFile:
        raise
    except PyMongoError as error:
        raise storage_error(error, f"read {artifact}") from error
    except OSError as error:
        raise SpecError(f"{partial} cannot be written ({error.strerror}); choose another --output.") from error
    finally:
        partial.unlink(missing_ok=True)
    return str(wanted)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Align columns as kubectl does: three spaces between them, nothing after the last."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("   ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)
    return "\n".join(lines)


def age(seconds: float) -> str:
    """Write an age as kubectl does: 95s, 3m20s, 12m."""
    whole = int(seconds)
    if whole < 120:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 10:
        return f"{minutes}m{rest}s" if rest else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    return f"{minutes // 60}h{minutes % 60}m" if minutes % 60 else f"{minutes // 60}h"


def _connected(uri: str, name: str) -> Iterator[Database[Document]]:
    database = connect(uri, name)
    try:
        yield database
    finally:
        database.client.close()


def _record(session: Session, database: Database[Document]) -> Document:
    found = patiently(lambda: database[COLLECTION].find_one({"_id": session.uid}), "read the record")
    if found is None:
        raise StorageError(f"The record of session {session.uid} has vanished; the database was changed by another.")
    return found


def _print_table(session: Session, database: Database[Document], started: float) -> None:
    record, spec = _record(session, database), session.spec
    result, progress = record.get("result"), record.get("progress", {})
    row = (
        session.name,
        _phase(record),
        f"{result['accuracy']:.4f}" if result else "",
        f"{progress['epoch']}/{progress['epochs']}" if "epoch" in progress else "",
        spec.dataset.title,
        f"{spec.dataset.subset.normalize():f}",
        spec.base_model.name,
        spec.training.optimizer.name,
        age(time.monotonic() - started),
    )
    _say("\n" + table([COLUMNS, row]))


def _phase(record: Document) -> str:
    if "result" in record:
        return "Succeeded"
    stopped = record.get("failure", {}).get("exitCode") == Stopped.exit_code
    return str(record.get("phase", "Pending")) if stopped else "Failed"


def _print_artifacts(session: Session, database: Database[Document], mongodb: str | None, data: Path) -> None:
    artifacts = _record(session, database)["result"]["artifacts"]
    rows = [("ARTIFACT", "BYTES", "ID", "SHA256")]
    rows += [(item["name"], f"{item['bytes']:,}", item["id"], item["sha256"][:12] + "…") for item in artifacts]
    # A URI may hold a password, so it is not repeated.
    place = f"--data {data}" if mongodb is None else "--mongodb …"
    program = f"{os.path.relpath(sys.executable)} -m trainingsession_trainer"
    _say(f"\n{table(rows)}\n")
    _say("To get the model (raw pixels in, probabilities out; class_names.json names them):")
    _say(f"  {program} download {session.name}/model.keras {place}")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
