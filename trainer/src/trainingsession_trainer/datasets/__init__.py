"""Data sets: known by name, arrays, or class folders; images in an order of their own, read one at a time."""

from __future__ import annotations

from pathlib import Path

from trainingsession_trainer.config import Dataset as DatasetSpec
from trainingsession_trainer.reporting import Reporter

from . import folder, named, npz
from .credentials import NONE, read_credentials
from .fetch import DATASET_MOUNT, fetch
from .files import Disk, Stop
from .splits import Dataset, Split

__all__ = ["Dataset", "Disk", "Split", "open_dataset"]


def open_dataset(dataset: DatasetSpec, work: Path, reporter: Reporter, stop: Stop, disk: Disk | None = None) -> Dataset:
    """Fetch and unpack the data set into `work` where it needs that; decodes no image.

    Raises SpecError or DataError naming the field or the file, the reason and the remedy; Stopped when `stop` says so.
    """
    disk = disk or Disk(work)
    source = dataset.source
    if source is None:
        return named.open_named(str(dataset.name), work, reporter, stop, disk)
    target = work / "download"
    credentials = read_credentials(dataset.secret_name, source.uri) if dataset.secret_name else NONE
    found = fetch(source, "spec.dataset", DATASET_MOUNT, target, reporter, stop, disk, credentials)
    if dataset.is_npz:
        opened = npz.open_npz(found, source.uri, work, stop, disk)
    else:
        opened = folder.open_folder(found, source.uri, work, reporter, stop, disk)
    # What was unpacked is not needed twice.
    target.unlink(missing_ok=True)
    return opened
