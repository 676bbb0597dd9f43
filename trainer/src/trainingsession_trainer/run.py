"""One session from its spec to its published result; read from top to bottom, this is what a trainer does."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import keras
import tensorflow as tf
from pymongo.database import Database

from . import artifacts
from .accelerators import check_accelerators
from .checkpoints import Checkpoints
from .config import Session, parse_identity, parse_session
from .errors import AcceleratorError, DataError, SpecError, Stopped, TrainerError
from .evaluation import evaluate, metrics_of
from .feature_catalog import Use
from .features import FeaturesSummary, PreparedFeatures, SessionFeatures, Validate
from .head import build_head, standardize_from
from .mongodb import Document
from .objective import check_training
from .records import Published, Result, SessionRecord
from .reporting import Reporter
from .task import Task
from .tracking import tracked
from .training import bind, fit_head

IMAGE_VARIABLE = "TRAININGSESSION_IMAGE"


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
    hidden: tuple[Path, ...] = (),
) -> None:
    """Run one attempt of the session in `document`; raises TrainerError after leaving its sentence in the record.

    Whether GPUs that are held must be usable is said by the environment where `gpus_required` is not given;
    `memory_limit` is the pod's, in bytes; a module's process does not see the `hidden` folders.
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
            tracked(session, document, reporter),
        ):
            features = SessionFeatures(session, database, use, Path(folder), reporter, stop, memory_limit)
            if session.spec.module is not None:
                run_own_python(session, features, database, record, Path(folder), reporter, stop, task, hidden)
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
    validate = head_check(session)
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
    # Keras draws initial weights from the global seed; from here on every random number has one owner.
    keras.utils.set_random_seed(spec.training.seed)
    standardization = standardize_from(prepared.train) if spec.head.standardize else None
    head = build_head(spec.head, prepared.feature_shape, len(prepared.class_names), standardization)
    reporter.info(
        f"Training the head ({head.count_params():,} weights) on {samples['train']:,} images, "
        f"{samples['validation']:,} held back for validation"
    )
    checkpoints = Checkpoints(database, record, bind(session, prepared.summary.key), reporter, stop)
    history = fit_head(
        head,
        spec.training,
        prepared.train,
        prepared.validation,
        checkpoints=checkpoints,
        reporter=reporter,
        stop=stop,
    )
    if spec.training.restore_best and samples["validation"]:
        reporter.info(f"Kept the weights of epoch {history.kept}, which has the lowest validation loss")

    evaluation = evaluate(head, spec.training, prepared.test)
    low, high = evaluation.interval
    reporter.info(
        f"Accuracy {evaluation.accuracy:.4f} on {samples['test']:,} test images (95 % interval {low:.4f} to {high:.4f})"
    )
    reporter.result({"test_accuracy": evaluation.accuracy} | metrics_of(evaluation, history))

    record.measured(evaluation.accuracy)
    reporter.phase("Publishing")
    paths = artifacts.write_artifacts(
        folder,
        head=head,
        base=prepared.base(),
        class_names=prepared.class_names,
        history=history,
        evaluation=evaluation,
    )
    if stop():
        raise Stopped("Stopped before the result was published; the next attempt finds the features.")
    uploaded = artifacts.upload(database, session, paths, stop)
    result = Result(evaluation.accuracy, metrics_of(evaluation, history), uploaded)
    if artifacts.publish(database, record, result) is Published.BY_US:
        reporter.published(paths)
        reporter.info(f"Published the accuracy and {len(uploaded)} artifacts; done")
    else:
        reporter.info("An earlier attempt has published the result already; this one's is dropped")
    checkpoints.remove()


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
) -> None:
    """Extract, run the user's module, evaluate, publish; raises TrainerError."""
    from .modules import inputs
    from .modules import session as own
    from .modules.running import Running

    module = session.spec.module
    assert module is not None  # noqa: S101 - the caller has looked
    reporter.info(f"Session {session.namespace}/{session.name}: {describe(session)}, head by {module.entry_point}")
    reporter.phase("Extracting")
    running = Running(session, module, folder, reporter, stop, hidden)
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
        record.describe({}, _facts(features.summary(stored)))
        record.extracted(stored.keys)
        return
    else:
        stored_only = task is Task.TRAIN
        known = record.extracted_sets() if stored_only else {}
        prepared = features.prepare(lambda shape, classes: None, stored_only=stored_only, known=known)
        _check_parts(prepared)
        handed = inputs.hand_features(running, prepared)
        record.describe(handed.samples, _facts(prepared.summary))
        build = prepared.base
        base = lambda: build().pixels_model()  # noqa: E731
        # What was read into memory is in the module's files now, and the module needs the room.
        del prepared
    reporter.phase("Training")
    predictions = own.train(running, handed)
    own.publish(running, handed, predictions, base, database, record)


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
        if session.spec.module is not None and session.spec.module.input == "images":
            reporter.info("The module works on images, so there is nothing to share; done")
            return
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


def head_check(session: Session) -> Validate:
    """Build the head once for its errors, as soon as the features' shape is known and before any image is read."""

    def check(feature_shape: tuple[int, ...], class_count: int) -> None:
        build_head(session.spec.head, feature_shape, class_count)

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
