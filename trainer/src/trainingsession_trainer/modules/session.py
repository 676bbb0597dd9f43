"""A session whose head and training are a user's own Python: from features or images to the published result."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trainingsession_trainer import artifacts, papers
from trainingsession_trainer.errors import SpecError, Stopped
from trainingsession_trainer.evaluation import test_figures
from trainingsession_trainer.records import Published, Result, SessionRecord

from . import handover, process, requirements
from .git import fetch_code
from .outcome import measure, read_predictions, validation_accuracy, write_files
from .running import Handed, Running

if TYPE_CHECKING:
    from pymongo.database import Database

    from trainingsession_trainer.mongodb import Document

GIT_SECRET = Path("/etc/trainingsession/module-secret")
# TensorFlow's notes on its processor, which no setting silences.
_NOTES = re.compile(r"WARNING: All log messages before absl::InitializeLog|I0000 \S+ +\d+ port\.cc")


def fetch(running: Running) -> None:
    """Have the module's code and packages in place, before any image is read; raises SpecError, DataError, Stopped."""
    for folder in (running.files, running.workdir, running.code, running.packages):
        folder.mkdir()
    git = running.module.git
    if git is None:
        running.reporter.info("The module is part of the image")
        return
    credentials = _git_credentials() if git.secret_name is not None else None
    fetch_code(git.url, git.revision, git.path, running.code, credentials, running.reporter, running.stop)
    requirements.install(running.code, running.packages, running.reporter, running.stop)


def _git_credentials() -> tuple[str, str]:
    name, password = GIT_SECRET / "username", GIT_SECRET / "password"
    if not (name.is_file() and password.is_file()):
        raise SpecError("The Secret of spec.module.git.secretName must have the keys username and password; add them.")
    return name.read_text("utf-8").strip(), password.read_text("utf-8").strip()


def train(running: Running, handed: Handed) -> npt.NDArray[np.float32]:
    """Run the module; gives the probabilities of the test images [n, classes]; raises SpecError, Stopped."""
    module, training = running.module, running.session.spec.training
    base = running.session.spec.base_model
    order = handover.Order(
        entry_point=module.entry_point,
        code=str(running.code),
        packages=str(running.packages),
        input=module.input,
        class_names=handed.class_names,
        parameters=module.parameters,
        base_model={"name": base.name, "arguments": base.arguments, "inputSize": base.input_size},
        epochs=training.epochs,
        batch_size=training.batch_size,
        restore_best=training.restore_best,
        seed=training.seed,
        # The module's process stands in another folder, where a relative path would lead elsewhere.
        hidden=tuple(str(path.resolve()) for path in running.hidden),
    )
    handover.write_order(running.files, order)
    running.reporter.info(f"Running {module.entry_point} in a process without credentials")
    began = time.monotonic()

    def epoch(told: process.Epoch) -> None:
        nonlocal began
        now = time.monotonic()
        seconds, began = now - began, now
        running.epochs.append(told)
        running.reporter.epoch(
            told.number, max(training.epochs, told.number), told.figures, seconds, handed.samples["train"]
        )

    _run(running, epoch)
    return read_predictions(running, handed)


def publish(
    running: Running,
    handed: Handed,
    predictions: npt.NDArray[np.float32],
    base: Callable[[], Any] | None,
    database: Database[Document],
    record: SessionRecord,
) -> None:
    """Evaluate, write the artifacts, publish; `base` builds the base model's network of raw pixels."""
    evaluation = measure(predictions, handed)
    figures, reporter = test_figures(evaluation), running.reporter
    reporter.info(evaluation.sentence())
    validated = validation_accuracy(running, handed)
    if validated is not None:
        figures["validation_accuracy"] = validated
    if running.epochs:
        told = running.epochs[-1].figures
        figures |= {f"module_{name}": value for name, value in told.items()}
    reporter.result({"test_accuracy": evaluation.accuracy} | figures)
    record.measured(evaluation.accuracy)
    reporter.phase("Publishing")
    paths = list(write_files(running, handed, predictions, evaluation, figures))
    paths += _complete_model(running, base)
    session = running.session
    seeds = [session.spec.training.seed]
    papers.write_record(running.folder, session, database, handed.sets, handed.samples, seeds)
    paths += [running.folder / papers.RECORD, papers.write_log(running.folder, reporter)]
    if running.stop():
        raise Stopped("Stopped before the result was published; the next attempt runs the module again.")
    uploaded = artifacts.upload(database, session, paths, running.stop)
    result = Result(evaluation.accuracy, figures, uploaded, evaluation.short(), validated)
    if artifacts.publish(database, record, result) is Published.BY_US:
        reporter.published(paths)
        reporter.info(f"Published the accuracy and {len(uploaded)} artifacts; done")
    else:
        reporter.info("An earlier attempt has published the result already; this one's is dropped")


def _run(running: Running, epoch: Callable[[process.Epoch], None], *, join: bool = False) -> None:
    listener = process.Listener(
        epoch=epoch,
        line=lambda line: running.reporter.info(f"module | {line}") if line and not _NOTES.match(line) else None,
        note=running.reporter.info,
    )
    process.run(running.files, running.workdir, running.module.entry_point, listener, running.stop, join=join)


def _complete_model(running: Running, base: Callable[[], Any] | None) -> list[Path]:
    """Have a process like the module's join base model and head: a file that user code wrote is never loaded here."""
    head, model = running.files / handover.HEAD, running.files / handover.MODEL
    if not head.is_file() or head.is_symlink():
        return []
    if base is None:
        head.replace(model)
        return [model]
    base().save(running.files / handover.BASE)
    try:
        _run(running, lambda epoch: None, join=True)
    except SpecError as error:
        running.reporter.info(f"model.keras is left out, because base model and head cannot be joined: {error}")
        return []
    return [model] if model.is_file() and not model.is_symlink() else []
