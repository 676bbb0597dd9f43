"""Data sets: known by name, arrays, or class folders; images in an order of their own, read one at a time."""

from __future__ import annotations

from pathlib import Path

from trainingsession_trainer.reporting import Reporter
from trainingsession_trainer.spec import Dataset as DatasetSpec

from . import folder, named, npz
from .fetch import DATASET_MOUNT, credentials_of, fetch
from .files import Disk, Stop
from .images import SUFFIXES
from .known_files import KnownFile, KnownFiles, Memory
from .object_folder import download_folder
from .object_store import is_folder
from .splits import Dataset, Split

__all__ = ["Dataset", "Disk", "KnownFile", "Split", "open_dataset", "place_of"]


def place_of(dataset: DatasetSpec) -> str | None:
    """Name the folder whose files' digests may be kept; one without a claim means nothing to others."""
    return f"{dataset.claim_name} {dataset.uri}" if dataset.claim_name else None


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
    if is_folder(source.uri):
        credentials = credentials_of(source, "spec.dataset")
        images = work / "images"
        stored = download_folder(source.uri, "spec.dataset", images, SUFFIXES, reporter, stop, disk, credentials)
        return folder.arrange(stored, source.uri, reporter)
    found = fetch(source, "spec.dataset", DATASET_MOUNT, target, reporter, stop, disk)
    if dataset.is_npz:
        opened = npz.open_npz(found, source.uri, work, stop, disk)
    else:
        place = place_of(dataset) if found.is_dir() else None
        known = KnownFiles(place, memory) if place else None
        opened = folder.open_folder(found, source.uri, work, reporter, stop, disk, known)
    # What was unpacked is not needed twice.
    target.unlink(missing_ok=True)
    return opened
