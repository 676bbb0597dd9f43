"""What a module's predictions are worth, and the files that are kept of it."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainingsession_trainer.artifacts import metrics_text
from trainingsession_trainer.errors import SpecError
from trainingsession_trainer.evaluation import Evaluation, Tally
from trainingsession_trainer.exports.predictions import write_predictions

from . import handover, process
from .running import Handed, Running

_ROWS = 4096


def validation_accuracy(running: Running, handed: Handed) -> float | None:
    """Measure what the module gave for the validation images; None where it gave nothing or there are none."""
    labels = handed.validation_labels
    if not len(labels) or not (running.files / handover.PREDICTIONS["validation"]).exists():
        return None
    given = read_predictions(running, handed, "validation")
    return float((given.argmax(axis=1) == labels).mean())


def read_predictions(running: Running, handed: Handed, part: str = "test") -> npt.NDArray[np.float32]:
    """Read what the module gave for a part's images; the file may hold anything."""
    images = len(handed.test_labels if part == "test" else handed.validation_labels)
    file, wanted = running.files / handover.PREDICTIONS[part], (images, len(handed.class_names))
    subject = f"spec.module: {running.module.entry_point}"
    try:
        if file.is_symlink() or file.stat().st_size > math.prod(wanted) * 4 + 4096:
            raise SpecError(f"{subject} left a file of predictions that is none; return the predictions instead.")
        found = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise SpecError(f"{subject} left no predictions that can be read ({error}); return them.") from error
    if not isinstance(found, np.ndarray) or found.dtype != np.float32:
        raise SpecError(f"{subject} left a file of predictions that is none; return the predictions instead.")
    if message := handover.why_no_probabilities(found, *wanted, part):
        raise SpecError(f"{subject} {message}.")
    return found


def write_files(
    running: Running,
    handed: Handed,
    predictions: npt.NDArray[np.float32],
    evaluation: Evaluation,
    figures: Mapping[str, float],
) -> Iterator[Path]:
    """Write the artifacts and give them in the order in which they are listed."""
    for name in (handover.ARCHITECTURE, handover.WEIGHTS):
        path = running.files / name
        if path.is_file() and not path.is_symlink():
            yield path
    names = running.folder / "class_names.json"
    names.write_text(json.dumps(list(handed.class_names), ensure_ascii=False, indent=1) + "\n", "utf-8")
    yield names
    if running.epochs:
        yield _write_log(running.folder / "training_log.csv", running.epochs)
    metrics = running.folder / "metrics.json"
    metrics.write_text(metrics_text(handed.class_names, evaluation, figures), "utf-8")
    yield metrics
    kept = running.folder / "predictions.npz"
    write_predictions(kept, predictions, handed.test_labels, handed.test_digests, handed.class_names)
    yield kept


def _write_log(path: Path, epochs: Sequence[process.Epoch]) -> Path:
    columns = list(dict.fromkeys(name for epoch in epochs for name in epoch.figures))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["epoch", *columns])
        for epoch in epochs:
            writer.writerow([epoch.number, *(repr(epoch.figures[c]) if c in epoch.figures else "" for c in columns)])
    return path


def measure(predictions: npt.NDArray[np.float32], handed: Handed) -> Evaluation:
    """Evaluate probabilities [n, classes]; the loss is the cross-entropy, whatever the module minimised."""
    labels, total = handed.test_labels, len(predictions)
    tally, loss = Tally(predictions.shape[1]), 0.0
    for low in range(0, total, _ROWS):
        found, truth = predictions[low : low + _ROWS], labels[low : low + _ROWS]
        tally.add(found, truth)
        loss -= float(np.log(np.clip(found[np.arange(len(truth)), truth].astype(np.float64), 1e-7, 1.0)).sum())
    return tally.evaluation(loss / total, handed.commonest)
