"""One session from its spec to its published result; read from top to bottom, this is what a trainer does."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import keras
import tensorflow as tf
from pymongo.database import Database

from . import artifacts
from .accelerators import check_accelerators
from .config import Session, parse_identity, parse_session
from .errors import AcceleratorError, DataError, SpecError, Stopped, TrainerError
from .evaluation import metrics_of
from .feature_catalog import Use
from .features import FeaturesSummary, PreparedFeatures, SessionFeatures, Validate
from .findings import Subject, room_for_probabilities, write_findings
from .fine_tuning import check_fine_tuning
from .head import build_head
from .head_source import HeadSource, open_source
from .mongodb import Document
from .objective import check_training
from .papers import IMAGE_VARIABLE, write_papers
from .records import Published, Result, SessionRecord
from .repeats import train_heads
from .reporting import Reporter
from .schedule import check_classes
from .task import Task


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
) -> None:
    """Run one attempt of the session in `document`; raises TrainerError after leaving its sentence in the record.

    Whether GPUs that are held must be usable is said by the environment where `gpus_required` is not given;
    `memory_limit` is the pod's, in bytes.
    """
    identity = parse_identity(document)
    record = SessionRecord(database, identity.uid, attempt, stop)
    if not record.claim(_trainer_facts()):
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
        ):
            features = SessionFeatures(session, database, use, Path(folder), reporter, stop, memory_limit)
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
    validate = head_check(session, source)
    if spec.training.fine_tune is not None:
        check_fine_tuning(spec.training, features.base(), features.budget)
    if task is Task.EXTRACT:
        stored = features.stored(validate)
        record.describe({}, _facts(features.summary(stored)))
        record.extracted(stored.keys)
        reporter.info("All features are stored; a Job without a GPU trains the head")
        return
    if task is Task.TRAIN:
        prepared = features.prepare(validate, stored_only=True, known=record.extracted_sets())
    else:
        prepared = features.prepare(validate)
    _check_parts(prepared)
    samples = {
        "train": len(prepared.train),
        "validation": len(prepared.validation),
        "test": len(prepared.test),
    }
    record.describe(samples, _facts(prepared.summary))

    reporter.phase("Training")
    exports = spec.artifacts.wanted
    if spec.training.fine_tune is not None:
        # Nothing else would hold the base model as it is now.
        exports = tuple({"keras": None, **dict.fromkeys(exports)})
    probabilities = room_for_probabilities(folder, exports, samples["test"], len(prepared.class_names))
    trained = train_heads(
        session, prepared, database, record, reporter, stop, probabilities, features=features, source=source
    )
    head, history, evaluation = trained.head, trained.history, trained.evaluation
    low, high = evaluation.interval
    reporter.info(
        f"Accuracy {evaluation.accuracy:.4f} on {samples['test']:,} test images (95 % interval {low:.4f} to "
        f"{high:.4f}; {evaluation.baseline:.4f} for always naming the commonest class)"
    )

    record.measured(evaluation.accuracy)
    reporter.phase("Publishing")
    paths = artifacts.write_artifacts(
        folder,
        head=head,
        base=prepared.base(),
        class_names=prepared.class_names,
        history=history,
        evaluation=evaluation,
        exports=exports,
        say=reporter.info,
        repeats=trained.repeats,
    )
    if spec.training.fine_tune is not None:
        # Without the base model as it is now, which only model.keras has, the head's weights are good for nothing.
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
) -> None:
    """Compute features beside the session's first pod until no shard is left to take; writes no record.

    What the session must end with is for its first pod to say; a helper that cannot help ends well and frees its GPU.
    """
    try:
        session = parse_session(document)
        reporter.info(f"Helping to extract for session {session.namespace}/{session.name}: {describe(session)}")
        check_accelerators(session.spec.resources, reporter)
        with TemporaryDirectory(prefix="session-", dir=work) as folder, Use(database, session.uid, attempt) as use:
            SessionFeatures(session, database, use, Path(folder), reporter, stop).help(head_check(session))
    except (SpecError, DataError, AcceleratorError) as error:
        reporter.info(f"This pod cannot help: {error}")
    else:
        reporter.info("No shard is left to compute; done")


def describe(session: Session) -> str:
    """Say in one line what the session is about."""
    dataset, base, training = session.spec.dataset, session.spec.base_model, session.spec.training
    weights = base.weights if base.weights_from is None else base.weights_from.uri
    return (
        f"{(dataset.subset * 100).normalize():f} % of {dataset.title}, {base.name} with weights {weights}, "
        f"{training.optimizer.name}, {training.epochs} epochs of batches of {training.batch_size}"
    )


def bug_sentence(error: Exception) -> str:
    """Name a bug in one sentence."""
    words = " ".join(str(error).split())[:1000]
    return f"The trainer failed unexpectedly ({type(error).__name__}: {words}); see the log for the traceback."


def head_check(session: Session, source: HeadSource | None = None) -> Validate:
    """Build the head once for its errors, as soon as the features' shape is known and before any image is read."""

    def check(feature_shape: tuple[int, ...], class_names: Sequence[str]) -> None:
        check_classes(session.spec.training.class_weights, class_names)
        head = session.spec.head
        if source is not None:
            head = source.head_for(head, feature_shape, len(class_names))
        build_head(head, feature_shape, len(class_names))

    return check


def _facts(summary: FeaturesSummary) -> dict[str, Any]:
    return {
        "key": summary.key,
        "shards": summary.shards,
        "reused": summary.reused,
        "computed": summary.computed,
        "secondsSaved": round(summary.seconds_saved),
        "gpuSecondsSaved": round(summary.gpu_seconds_saved),
    }


def _check_parts(prepared: PreparedFeatures) -> None:
    if len(prepared.train) == 0:
        raise DataError("No image is left for training; lower spec.dataset.validationSplit or raise subset.")
    if len(prepared.test) == 0:
        raise DataError("No image is left for the test; raise spec.dataset.testSubset or add test images.")


def _trainer_facts() -> dict[str, Any]:
    versions = {
        "trainer": version("trainingsession-trainer"),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "python": platform.python_version(),
    }
    return {"image": os.environ.get(IMAGE_VARIABLE, ""), "versions": versions}
