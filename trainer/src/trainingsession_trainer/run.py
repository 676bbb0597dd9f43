"""One session from its spec to its published result; read from top to bottom, this is what a trainer does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from pymongo.database import Database

from . import artifacts
from .accelerators import check_accelerators
from .config import parse_identity, parse_session
from .datasets import Disk
from .errors import AcceleratorError, DataError, SpecError, Stopped, TrainerError
from .evaluation import metrics_of
from .feature_catalog import Use
from .features import SessionFeatures
from .findings import Subject, room_for_probabilities, write_findings
from .fine_tuning import check_fine_tuning
from .head import build_head
from .head_source import HeadSource, open_source
from .mongodb import Document
from .objective import check_training
from .own_python import run_own_python
from .papers import write_papers
from .prepared import Validate
from .records import Published, Result, SessionRecord
from .repeats import train_heads
from .reporting import Reporter
from .schedule import check_classes
from .sentences import bug_sentence, check_parts, describe, facts_of, trainer_facts
from .spec import Session
from .task import Task
from .tracking import tracked


def run_attempt(
    document: object,
    database: Database[Document],
    attempt: str,
    *,
    work: Path,
    reporter: Reporter,
    stop: Callable[[], bool],
    task: Task = Task.ALL,
    gpus_required: bool | None = None,
    memory_limit: int | None = None,
    disk_limit: int | None = None,
    hidden: tuple[Path, ...] = (),
) -> None:
    """Run one attempt of the session in `document`; raises TrainerError after leaving its sentence in the record.

    Whether GPUs that are held must be usable is said by the environment where `gpus_required` is not given;
    `memory_limit` and `disk_limit` are the pod's, in bytes; a module's process does not see the `hidden` folders.
    """
    identity = parse_identity(document)
    record = SessionRecord(database, identity.uid, attempt, stop)
    if not record.claim(trainer_facts()):
        reporter.info(f"Session {identity.namespace}/{identity.name} has its result already; nothing to do.")
        return
    reporter.attach(record)
    try:
        session = parse_session(document)
        check_training(session.spec.training)
        if task is Task.TRAIN:
            reporter.info("Training from stored features on processors, without a GPU")
        else:
            check_accelerators(session.spec.resources, reporter, required=gpus_required)
        with (
            TemporaryDirectory(prefix="session-", dir=work) as folder,
            Use(database, session.uid, attempt) as use,
            tracked(session, document, reporter, record),
        ):
            disk = Disk(work, disk_limit)
            features = SessionFeatures(session, database, use, Path(folder), reporter, stop, memory_limit, disk)
            if session.spec.module is not None:
                run_own_python(session, features, database, record, Path(folder), reporter, stop, task, hidden, disk)
            else:
                run_session(session, features, database, record, Path(folder), reporter, stop, task)
    except TrainerError as error:
        record.fail(error.exit_code, str(error), error.reason)
        raise
    except Exception as error:
        record.fail(1, bug_sentence(error))
        raise


def run_session(
    session: Session,
    features: SessionFeatures,
    database: Database[Document],
    record: SessionRecord,
    folder: Path,
    reporter: Reporter,
    stop: Callable[[], bool],
    task: Task,
) -> None:
    """Extract, train, evaluate, publish; raises TrainerError."""
    spec = session.spec
    reporter.info(f"Session {session.namespace}/{session.name}: {describe(session)}")
    reporter.phase("Extracting")
    source = None
    if spec.head.from_session is not None:
        source = open_source(spec.head.from_session, session.namespace, database, record, folder, stop)
    validate = head_check(session, features.budget, source)
    if spec.training.fine_tune is not None:
        check_fine_tuning(spec.training, features.base(), features.budget)
    if task is Task.EXTRACT:
        stored = features.stored(validate)
        record.describe({}, facts_of(features.summary(stored)), features.check(stored))
        record.extracted(stored.keys)
        reporter.info("All features are stored; a Job without a GPU trains the head")
        return
    if task is Task.TRAIN:
        prepared = features.prepare(validate, stored_only=True, known=record.extracted_sets())
    else:
        prepared = features.prepare(validate)
    check_parts(prepared)
    samples = {
        "train": len(prepared.train),
        "validation": len(prepared.validation),
        "test": len(prepared.test),
    }
    record.describe(samples, facts_of(prepared.summary), prepared.warnings)

    reporter.phase("Training")
    exports = spec.exports
    probabilities = room_for_probabilities(folder, exports, samples["test"], len(prepared.class_names))
    trained = train_heads(session, prepared, features, database, record, reporter, stop, source, probabilities)
    head, history, evaluation = trained.head, trained.history, trained.evaluation
    reporter.info(evaluation.sentence())
    reporter.result({"test_accuracy": evaluation.accuracy} | metrics_of(evaluation, history))

    record.measured(evaluation.accuracy)
    reporter.phase("Publishing")
    paths = artifacts.write_artifacts(
        folder,
        head=head,
        base=prepared.base,
        class_names=prepared.class_names,
        history=history,
        evaluation=evaluation,
        exports=exports,
        say=reporter.info,
        repeats=trained.repeats,
    )
    if spec.training.fine_tune is not None:
        # Without the base model as it is now, which only the complete models have, the head's weights are no use.
        paths = [path for path in paths if path.name != "head.weights.h5"]
    subject = Subject(f"{session.namespace}/{session.name}", prepared, trained, probabilities)
    paths += write_findings(folder, subject, exports, reporter.info, stop)
    paths += write_papers(folder, subject, session, database, reporter, paths)
    if stop():
        raise Stopped("Stopped before the result was published; the next attempt finds the features.")
    uploaded = artifacts.upload(database, session, paths, stop)
    result = Result(
        evaluation.accuracy,
        metrics_of(evaluation, history),
        uploaded,
        evaluation.short(),
        history.kept_epoch.figures.get("val_accuracy"),
        trained.repeats,
    )
    if artifacts.publish(database, record, result) is Published.BY_US:
        reporter.published(paths)
        reporter.info(f"Published the accuracy and {len(uploaded)} artifacts; done")
    else:
        reporter.info("An earlier attempt has published the result already; this one's is dropped")
    trained.checkpoints.remove()


def help_extracting(
    document: object,
    database: Database[Document],
    attempt: str,
    *,
    work: Path,
    reporter: Reporter,
    stop: Callable[[], bool],
    disk_limit: int | None = None,
) -> None:
    """Compute features beside the session's first pod until no shard is left to take; writes no record.

    What the session must end with is for its first pod to say; a helper that cannot help ends well and frees its GPU.
    """
    try:
        session = parse_session(document)
        if session.spec.module is not None and session.spec.module.input == "images":
            reporter.info("The module works on images, so there is nothing to share; done")
            return
        reporter.info(f"Helping to extract for session {session.namespace}/{session.name}: {describe(session)}")
        check_accelerators(session.spec.resources, reporter)
        with TemporaryDirectory(prefix="session-", dir=work) as folder, Use(database, session.uid, attempt) as use:
            disk = Disk(work, disk_limit)
            features = SessionFeatures(session, database, use, Path(folder), reporter, stop, None, disk)
            features.help(head_check(session, features.budget))
    except (SpecError, DataError, AcceleratorError) as error:
        reporter.info(f"This pod cannot help: {error}")
    else:
        reporter.info("No shard is left to compute; done")


def head_check(session: Session, memory: int, source: HeadSource | None = None) -> Validate:
    """Build the head once for its errors, as soon as the features' shape is known and before any image is read.

    `memory` bytes are what its output layer may have.
    """

    def check(feature_shape: tuple[int, ...], class_names: Sequence[str]) -> None:
        check_classes(session.spec.training.class_weights, class_names)
        head = session.spec.head
        if source is not None:
            head = source.head_for(head, feature_shape, len(class_names))
        build_head(head, feature_shape, len(class_names), memory=memory)

    return check
