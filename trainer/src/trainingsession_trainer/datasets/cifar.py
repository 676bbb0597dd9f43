"""CIFAR-10 and CIFAR-100 by Alex Krizhevsky: 60,000 images of 32x32 pixels each, downloaded in their binary version.

The archives for Python hold pickles, which are never read; the binary versions are plain records of label bytes and
3,072 bytes of pixels, red plane first: https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainingsession_trainer.errors import DataError
from trainingsession_trainer.reporting import Reporter
from trainingsession_trainer.spec import FileSource

from .archives import Stored, unpack
from .fetch import DATASET_MOUNT, fetch
from .files import Disk, Stop
from .splits import Dataset, Image, Images, Shape, Split, make_split

PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class Cifar:
    """One of the two: where it is, and how its records are read."""

    title: str
    file: str
    sha256: str
    class_names: tuple[str, ...]
    label_bytes: int
    """The last of them is the class; CIFAR-100's first is the superclass."""
    train_files: tuple[str, ...]
    test_files: tuple[str, ...]

    @property
    def source(self) -> FileSource:
        """Its home."""
        return FileSource(f"https://www.cs.toronto.edu/~kriz/{self.file}", None, self.sha256)

    @property
    def record(self) -> int:
        """Bytes of a record."""
        return self.label_bytes + PIXELS


CIFAR10 = Cifar(
    title="CIFAR-10",
    file="cifar-10-binary.tar.gz",
    sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    label_bytes=1,
    train_files=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    test_files=("test_batch.bin",),
)
CIFAR100 = Cifar(
    title="CIFAR-100",
    file="cifar-100-binary.tar.gz",
    sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    class_names=(
        "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
        "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
        "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish",
        "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion",
        "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange",
        "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine",
        "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk",
        "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank",
        "telephone", "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale",
        "willow_tree", "wolf", "woman", "worm",
    ),
    label_bytes=2,
    train_files=("train.bin",),
    test_files=("test.bin",),
)  # fmt: skip


class _Records(Images):
    """Records of labels and planes, read from disk when they are asked for."""

    def __init__(self, records: list[NDArray[np.uint8]]) -> None:
        self._records = records
        self._ends = np.cumsum([len(part) for part in records])

    def read(self, index: int) -> Image:
        part = int(np.searchsorted(self._ends, index, side="right"))
        record = self._records[part][index - (self._ends[part - 1] if part else 0)]
        return np.ascontiguousarray(record[-PIXELS:].reshape(3, 32, 32).transpose(1, 2, 0))

    def shape(self, index: int) -> Shape:
        return (32, 32, 3)


def load(which: Cifar, source: FileSource, work: Path, reporter: Reporter, stop: Stop, disk: Disk) -> Dataset:
    """Download and open the data set; raises DataError, Stopped."""
    archive = fetch(source, "spec.dataset", DATASET_MOUNT, work / "download", reporter, stop, disk)
    stored = {item.name.name: item for item in unpack(archive, work / "cifar", frozenset({".bin"}), stop, disk)}
    archive.unlink()
    train, test = (_split(which, name, stored) for name in ("train", "test"))
    return Dataset(which.class_names, train, test)


def _split(which: Cifar, name: str, stored: dict[str, Stored]) -> Split:
    files = which.train_files if name == "train" else which.test_files
    records = [_open(which, stored, file) for file in files]
    labels = np.concatenate([part[:, which.label_bytes - 1] for part in records]).astype(np.int32)
    digests = [hashlib.sha256(record[-PIXELS:].tobytes()).digest() for part in records for record in part]
    return make_split(name, which.class_names, labels, digests, _Records(records))


def _open(which: Cifar, stored: dict[str, Stored], file: str) -> NDArray[np.uint8]:
    item = stored.get(file)
    size = item.path.stat().st_size if item else 0
    if item is None or size == 0 or size % which.record:
        raise DataError(f"{file} of {which.title} is missing or damaged; download it again.")
    records: NDArray[np.uint8] = np.memmap(item.path, np.uint8, "r").reshape(-1, which.record)
    most = len(which.class_names) - 1
    if int(records[:, which.label_bytes - 1].max()) > most:
        raise DataError(f"{file} of {which.title} holds a label above {most}; download it again.")
    return records
