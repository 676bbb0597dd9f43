"""Data sets: known by name, arrays, or class folders; images in an order of their own, read one at a time."""

from __future__ import annotations

from pathlib import Path

from trainingsession_trainer.reporting import Reporter
from trainingsession_trainer.spec import Dataset as DatasetSpec

from . import folder, named, npz
from .credentials import NONE, read_credentials
from .fetch import DATASET_MOUNT, fetch
from .files import Disk, Stop
from .known_files import KnownFile, KnownFiles, Memory
from .splits import Dataset, Split

__all__ = ["Dataset", "Disk", "KnownFile", "Split", "open_dataset"]


def open_dataset(
    dataset: DatasetSpec,
    work: Path,
    reporter: Reporter,
    stop: Stop,
    disk: Disk | None = None,
    memory: Memory | None = None,
) -> Dataset:
    """Fetch and unpack the data set into `work` where it needs that; decodes no image.

    `memory` knows the files of folders on claims that were read before.

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
        # Without a claim the path is one of this machine, which means nothing to others.
        there = memory if source.claim_name and found.is_dir() else None
        known = KnownFiles(f"{source.claim_name} {source.uri}", there)
        opened = folder.open_folder(found, source.uri, work, reporter, stop, disk, known)
    # What was unpacked is not needed twice.
    target.unlink(missing_ok=True)
    return opened
