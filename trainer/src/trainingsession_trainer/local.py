"""Sessions without a cluster: the same trainer, an embedded MongoDB, and the table that kubectl would show."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pymongo.database import Database

from .embedded import embedded_mongod
from .errors import SpecError, Stopped, StorageError, TrainerError
from .exports import MODEL_FILES
from .local_store import COLUMNS, LocalSession, best, delete, open_record, read_result, read_sessions, row, rows
from .mongodb import Document, connect, read_setting
from .published import artifacts_of, fetch, some_artifacts
from .reporting import Reporter
from .spec import Session
from .tables import table
from .tensorflow_import import load_tensorflow
from .terminal import reporter_for

DATABASE = "trainings_local"


def run_file(path: Path, mongodb: str | None, data: Path, stop: Callable[[], bool]) -> None:
    """Run the sessions in a YAML file one after the other and print their table; raises TrainerError.

    One that fails does not keep the others from running; its error is raised at the end.
    """
    sessions = read_sessions(path)
    failures: list[TrainerError] = []
    hidden = (data, Path(mongodb)) if mongodb and "://" not in mongodb else (data,)
    with open_database(mongodb, data, Reporter(sys.stdout)) as database:
        # Before any is run: a name that means another experiment is a mistake in the file.
        finished = [open_record(database, entry) for entry in sessions]
        try:
            for entry, done in zip(sessions, finished):
                # One for each session, which keeps the end of its own log.
                with reporter_for(sys.stdout) as reporter:
                    if done:
                        reporter.info(f"Session {entry.session.name} has its result already; nothing to do.")
                        continue
                    failure = _run(entry, database, reporter, stop, hidden)
                    if failure is not None and len(sessions) > 1:
                        reporter.info(f"Session {entry.session.name} failed: {failure}")
                    failures += [failure] if failure else []
        except (Stopped, StorageError) as error:
            failures.insert(0, error)
        _say("\n" + table([COLUMNS, *(row(database, entry.session) for entry in sessions)]))
        if failures:
            if isinstance(failures[0], Stopped):
                _say("\nThe same command again goes on from here.")
            raise failures[0]
        place = f"--data {data}" if mongodb is None else "--mongodb …"  # a URI may hold a password: not repeated
        _print_artifacts([entry.session for entry in sessions], database, place)


def _run(
    local: LocalSession,
    database: Database[Document],
    reporter: Reporter,
    stop: Callable[[], bool],
    hidden: tuple[Path, ...],
) -> TrainerError | None:
    """Run one session to its end; gives the error of one that can never work, raises what stops all others too.

    A module's process does not see the `hidden` folders.
    """
    if "keras" not in sys.modules:
        reporter.info("Loading TensorFlow")
        load_tensorflow()
    import keras

    from .run import run_attempt

    # Layers are counted per process; a session's files must not depend on those before it.
    keras.backend.clear_session()
    try:
        with tempfile.TemporaryDirectory(prefix="trainingsession-") as work:
            run_attempt(
                local.document,
                database,
                str(uuid.uuid4()),
                work=Path(work),
                reporter=reporter,
                stop=stop,
                gpus_required=False,
                hidden=hidden,
            )
    except (Stopped, StorageError):
        raise
    except TrainerError as error:
        return error
    return None


def plan_file(path: Path, mongodb: str | None, data: Path, stop: Callable[[], bool]) -> None:
    """Say what the sessions in a YAML file would do, without doing or storing anything; raises TrainerError."""
    sessions = read_sessions(path)
    reporter = Reporter(sys.stderr)
    with contextlib.ExitStack() as stack:
        database = None
        if mongodb is not None or (data / "mongodb").is_dir():
            database = stack.enter_context(open_database(mongodb, data, reporter))
        load_tensorflow()
        from .dry_run import dry_run

        for entry in sessions:
            result = read_result(database, entry.session) if database is not None else {}
            with tempfile.TemporaryDirectory(prefix="trainingsession-") as work:
                lines = dry_run(entry.session, database, Path(work), reporter, stop)
            if result:
                lines.append(f"  It has its result already, accuracy {result['accuracy']:.4f}: nothing would be done")
            _say("\n".join(lines))
    _say("Nothing was trained or stored.")


def list_sessions(mongodb: str | None, data: Path, sort_by: str) -> None:
    """Print the table of all sessions of a store; raises TrainerError."""
    with _existing_database(mongodb, data) as database:
        _say(table([COLUMNS, *rows(database, {}, sort_by)]))


def delete_session(name: str, mongodb: str | None, data: Path) -> None:
    """Forget a session with its artifacts; raises TrainerError."""
    with _existing_database(mongodb, data) as database:
        files = delete(database, name)
    _say(f"Session {name} and {files} files are deleted; the features stay for other sessions.")


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
    """Write "<session>/<file>" of the newest finished session of that name, checked; raises DataError, SpecError."""
    session, _, name = artifact.rpartition("/")
    target = output or Path(name)
    with _existing_database(mongodb, data) as database:
        found = artifacts_of(database, session).get(name)
        if found is None:
            known = ", ".join(some_artifacts(database)) or "none"
            raise SpecError(f"There is no artifact {artifact}; there are: {known}.")
        fetch(database, found, artifact, target)
    _say(f"{target}  {found.bytes:,} bytes  sha256 {found.sha256}")


@contextlib.contextmanager
def _existing_database(mongodb: str | None, data: Path) -> Iterator[Database[Document]]:
    check_data(mongodb, data)
    with open_database(mongodb, data) as database:
        yield database


def check_data(mongodb: str | None, data: Path) -> None:
    """Refuse a folder without an embedded MongoDB where one is to be read; raises SpecError."""
    if mongodb is None and not (data / "mongodb").is_dir():
        raise SpecError(f"{data} holds no sessions; name their folder with --data.")


def _connected(uri: str, name: str) -> Iterator[Database[Document]]:
    database = connect(uri, name)
    try:
        yield database
    finally:
        database.client.close()


def _print_artifacts(sessions: Sequence[Session], database: Database[Document], place: str) -> None:
    """List the files of the only session, or name the best of several."""
    results = [read_result(database, session) for session in sessions]
    chosen = best(results)
    if len(sessions) == 1:
        listed = [("ARTIFACT", "BYTES", "ID", "SHA256")]
        for item in results[0]["artifacts"]:
            listed += [(item["name"], f"{item['bytes']:,}", item["id"], item["sha256"][:12] + "…")]
        _say(f"\n{table(listed)}")
    files = {item["name"] for item in results[chosen]["artifacts"]}
    model = next((name for name in MODEL_FILES.values() if name in files), None)
    if model is None:
        return
    program = f"{os.path.relpath(sys.executable)} -m trainingsession_trainer"
    which = "the model" if len(sessions) == 1 else "the best model by validation"
    _say(f"\nTo get {which} (raw pixels in, probabilities out; class_names.json names them):")
    _say(f"  {program} download {sessions[chosen].name}/{model} {place}")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
