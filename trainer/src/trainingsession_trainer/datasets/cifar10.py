"""CIFAR-10 by Alex Krizhevsky: 60,000 images of 32x32 pixels, downloaded in its binary version.

The archive for Python holds pickles, which are never read; the binary version is plain records of one label byte and
3,072 bytes of pixels, red plane first: https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from trainingsession_trainer.config import FileSource
from trainingsession_trainer.errors import DataError
from trainingsession_trainer.reporting import Reporter

from .archives import Stored, unpack
from .fetch import DATASET_MOUNT, fetch
from .files import Stop
from .splits import Dataset, Image, Images, Shape, Split, make_split

SOURCE = FileSource(
    uri="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
)
CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
RECORD = 1 + 3 * 32 * 32
TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST_FILES = ("test_batch.bin",)


class _Records(Images):
    """Records of label and planes, [n, 3073], read from disk when they are asked for."""

    def __init__(self, records: list[NDArray[np.uint8]]) -> None:
        self._records = records
        self._ends = np.cumsum([len(part) for part in records])

    def read(self, index: int) -> Image:
        part = int(np.searchsorted(self._ends, index, side="right"))
        record = self._records[part][index - (self._ends[part - 1] if part else 0)]
        return np.ascontiguousarray(record[1:].reshape(3, 32, 32).transpose(1, 2, 0))

    def shape(self, index: int) -> Shape:
        return (32, 32, 3)


def load(work: Path, reporter: Reporter, stop: Stop, source: FileSource = SOURCE) -> Dataset:
    """Download and open the data set; raises DataError, Stopped."""
    archive = fetch(source, "spec.dataset", DATASET_MOUNT, work / "download", reporter, stop)
    stored = {item.name.name: item for item in unpack(archive, work / "cifar10", frozenset({".bin"}), stop)}
    return Dataset(CLASS_NAMES, _split("train", stored, TRAIN_FILES), _split("test", stored, TEST_FILES))


def _split(name: str, stored: dict[str, Stored], files: tuple[str, ...]) -> Split:
    records = [_open(stored, file) for file in files]
    labels = np.concatenate([part[:, 0] for part in records]).astype(np.int32)
    digests = [hashlib.sha256(record[1:].tobytes()).digest() for part in records for record in part]
    return make_split(name, CLASS_NAMES, labels, digests, _Records(records))


def _open(stored: dict[str, Stored], file: str) -> NDArray[np.uint8]:
    item = stored.get(file)
    size = item.path.stat().st_size if item else 0
    if item is None or size == 0 or size % RECORD:
        raise DataError(f"{PurePosixPath(file)} of CIFAR-10 is missing or damaged; download it again.")
    records: NDArray[np.uint8] = np.memmap(item.path, np.uint8, "r").reshape(-1, RECORD)
    if int(records[:, 0].max()) >= len(CLASS_NAMES):
        raise DataError(f"{file} of CIFAR-10 holds a label above 9; download it again.")
    return records
