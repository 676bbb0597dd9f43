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
from .errors import DataError, Stopped, TrainerError
from .evaluation import evaluate, metrics_of
from .features import PreparedFeatures, prepare_features
from .head import build_head, standardize_from
from .mongodb import Document
from .objective import check_training
from .records import Published, Result, SessionRecord
from .reporting import Reporter
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
) -> None:
    """Run one attempt of the session in `document`; raises TrainerError after leaving its sentence in the record."""
    identity = parse_identity(document)
    record = SessionRecord(database, identity.uid, attempt, stop)
    if not record.claim(_trainer_facts()):
        reporter.info(f"Session {identity.namespace}/{identity.name} has its result already; nothing to do.")
        return
    reporter.attach(record)
    try:
        session = parse_session(document)
        with TemporaryDirectory(prefix="session-", dir=work) as folder:
            train_and_publish(session, database, record, folder=Path(folder), reporter=reporter, stop=stop)
    except TrainerError as error:
        record.fail(error.exit_code, str(error), error.reason)
        raise
    except Exception as error:
        record.fail(1, bug_sentence(error))
        raise


def train_and_publish(
    session: Session,
    database: Database[Document],
    record: SessionRecord,
    *,
    folder: Path,
    reporter: Reporter,
    stop: Callable[[], bool],
) -> None:
    """Prepare, extract, train, evaluate, publish; raises TrainerError."""
    spec = session.spec
    reporter.info(f"Session {session.namespace}/{session.name}: {describe(session)}")
    check_training(spec.training)
    check_accelerators(spec.resources, reporter)

    reporter.phase("Extracting")
    prepared = prepare_features(
        session,
        database,
        folder,
        reporter,
        stop,
        validate=lambda shape, classes: _check_head(session, shape, classes),
    )
    _check_parts(prepared)
    samples = {
        "train": len(prepared.train),
        "validation": len(prepared.validation),
        "test": len(prepared.test),
    }
    summary = prepared.summary
    facts = {"key": summary.key, "shards": summary.shards, "reused": summary.reused, "computed": summary.computed}
    record.describe(samples, facts)

    reporter.phase("Training")
    # Keras draws initial weights from the global seed; from here on every random number has one owner.
    keras.utils.set_random_seed(spec.training.seed)
    standardization = standardize_from(prepared.train) if spec.head.standardize else None
    head = build_head(spec.head, prepared.feature_shape, len(prepared.class_names), standardization)
    reporter.info(
        f"Training the head ({head.count_params():,} weights) on {samples['train']:,} images, "
        f"{samples['validation']:,} held back for validation"
    )
    checkpoints = Checkpoints(database, record, bind(session, summary.key), reporter, stop)
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

    reporter.phase("Publishing")
    paths = artifacts.write_artifacts(
        folder,
        head=head,
        base=prepared.base,
        class_names=prepared.class_names,
        history=history,
        evaluation=evaluation,
    )
    if stop():
        raise Stopped("Stopped before the result was published; the next attempt finds the features.")
    uploaded = artifacts.upload(database, session, paths, stop)
    result = Result(evaluation.accuracy, metrics_of(evaluation, history), uploaded)
    if artifacts.publish(database, record, result) is Published.BY_US:
        reporter.info(f"Published the accuracy and {len(uploaded)} artifacts; done")
    else:
        reporter.info("An earlier attempt has published the result already; this one's is dropped")
    checkpoints.remove()


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


def _check_head(session: Session, feature_shape: tuple[int, ...], class_count: int) -> None:
    """Build the head once for its errors, before any image is read."""
    build_head(session.spec.head, feature_shape, class_count)


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
