"""A session whose head and training are a user's own Python, from top to bottom; `run` does so for all others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pymongo.database import Database

from .datasets import Disk
from .features import SessionFeatures
from .mongodb import Document
from .records import SessionRecord
from .reporting import Reporter
from .sentences import check_parts, describe, facts_of
from .spec import Session
from .task import Task


def run_own_python(
    session: Session,
    features: SessionFeatures,
    database: Database[Document],
    record: SessionRecord,
    folder: Path,
    reporter: Reporter,
    stop: Callable[[], bool],
    task: Task,
    hidden: tuple[Path, ...],
    disk: Disk,
) -> None:
    """Extract, run the user's module, evaluate, publish; raises TrainerError."""
    from .modules import inputs
    from .modules import session as own
    from .modules.running import Running

    module = session.spec.module
    assert module is not None  # noqa: S101 - the caller has looked
    reporter.info(f"Session {session.namespace}/{session.name}: {describe(session)}, head by {module.entry_point}")
    reporter.phase("Extracting")
    running = Running(session, module, folder, reporter, stop, hidden, disk)
    own.fetch(running)
    base = None
    if module.input == "images":
        if task is Task.EXTRACT:
            record.extracted({})
            return
        handed = inputs.hand_images(running)
        record.describe(handed.samples, {})
    elif task is Task.EXTRACT:
        stored = features.stored(lambda shape, classes: None)
        record.describe({}, facts_of(features.summary(stored)), features.check(stored))
        record.extracted(stored.keys)
        return
    else:
        stored_only = task is Task.TRAIN
        known = record.extracted_sets() if stored_only else {}
        prepared = features.prepare(lambda shape, classes: None, stored_only=stored_only, known=known)
        check_parts(prepared)
        handed = inputs.hand_features(running, prepared)
        record.describe(handed.samples, facts_of(prepared.summary), prepared.warnings)
        build = prepared.base
        base = lambda: build().pixels_model()  # noqa: E731
        # What was read into memory is in the module's files now, and the module needs the room.
        del prepared
    reporter.phase("Training")
    predictions = own.train(running, handed)
    own.publish(running, handed, predictions, base, database, record)
