"""Data sets: known by name or archives of class folders; images in an order of their own, read one at a time."""

from __future__ import annotations

from pathlib import Path

from trainingsession_trainer.config import Dataset as DatasetSpec
from trainingsession_trainer.reporting import Reporter

from . import cifar10, digits, folder
from .fetch import DATASET_MOUNT, fetch
from .files import Stop
from .splits import Dataset, Split

__all__ = ["Dataset", "Split", "open_dataset"]


def open_dataset(dataset: DatasetSpec, work: Path, reporter: Reporter, stop: Stop) -> Dataset:
    """Fetch and unpack the data set into `work` where it needs that; decodes no image.

    Raises SpecError or DataError naming the field or the file, the reason and the remedy; Stopped when `stop` says so.
    """
    source = dataset.source
    if source is not None:
        found = fetch(source, "spec.dataset", DATASET_MOUNT, work / "download", reporter, stop)
        return folder.open_folder(found, source.uri, work, reporter, stop)
    if dataset.name == "digits":
        return digits.load()
    return cifar10.load(work, reporter, stop)
