"""What a session says about itself on paper: how to make it again, a card of the model, the end of its log."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .exports.model_card import model_card
from .exports.reproducibility import describe_run
from .mongodb import patiently
from .repeats import seeds
from .sentences import IMAGE_VARIABLE

if TYPE_CHECKING:
    from pymongo.database import Database

    from .findings import Subject
    from .mongodb import Document
    from .reporting import Reporter
    from .spec import Session

RECORD = "reproducibility.json"


def write_papers(
    folder: Path,
    subject: Subject,
    session: Session,
    database: Database[Document],
    reporter: Reporter,
    others: Sequence[Path],
) -> list[Path]:
    """Write reproducibility.json, model_card.md, which names the `others`, and log.txt; raises StorageError."""
    prepared, training = subject.prepared, session.spec.training
    samples = {name: len(getattr(prepared, name)) for name in ("train", "validation", "test")}
    ran = list(seeds(training.seed, training.repeats))
    record = write_record(folder, session, database, prepared.sets, samples, ran)
    counts = np.bincount(prepared.train.labels, minlength=len(subject.names)).tolist()
    card = model_card(subject.title, record, subject.names, counts, subject.trained, [path.name for path in others])
    (folder / "model_card.md").write_text(card, "utf-8")
    return [folder / RECORD, folder / "model_card.md", write_log(folder, reporter)]


def write_record(
    folder: Path,
    session: Session,
    database: Database[Document],
    sets: Mapping[str, str],
    samples: Mapping[str, int],
    ran: list[int],
) -> dict[str, Any]:
    """Write reproducibility.json and give its content; `sets` are the keys of the features by split, `ran` the seeds.

    Raises StorageError.
    """
    record = describe_run(
        session.given,
        os.environ.get(IMAGE_VARIABLE, ""),
        {split: {"key": key, "madeOf": _description(database, key)} for split, key in sets.items()},
        samples,
        ran,
    )
    record["imageShape"] = _image_shape(database, sets)
    text = json.dumps(record, ensure_ascii=False, indent=1, default=str)
    (folder / RECORD).write_text(text + "\n", "utf-8")
    return record


def write_log(folder: Path, reporter: Reporter) -> Path:
    """Write log.txt, whose last line says that the artifacts are written: what comes after is the upload."""
    reporter.info("The artifacts are written")
    path = folder / "log.txt"
    path.write_text(reporter.tail(), "utf-8")
    return path


def _description(database: Database[Document], key: str) -> Mapping[str, Any]:
    found = _set(database, key)
    return dict(found.get("description") or {})


def _image_shape(database: Database[Document], sets: Mapping[str, str]) -> Any:
    found = [_set(database, key).get("imageShape") for key in sets.values()]
    return found[0] if found else None


def _set(database: Database[Document], key: str) -> Mapping[str, Any]:
    fields = {"description": 1, "imageShape": 1}
    return patiently(lambda: database["feature_sets"].find_one({"_id": key}, fields), "read the features' origin") or {}
