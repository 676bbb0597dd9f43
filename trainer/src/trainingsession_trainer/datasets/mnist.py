"""MNIST (LeCun, Cortes, Burges) and Fashion-MNIST (Zalando): 70,000 grey images of 28x28 pixels each.

Keras keeps MNIST as one npz file and Fashion-MNIST as the four gzip files of its authors, in the IDX format:
a number that says the type and how many dimensions, the dimensions, the bytes; all numbers are big endian.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from trainingsession_trainer.errors import DataError
from trainingsession_trainer.reporting import Reporter
from trainingsession_trainer.spec import FileSource

from .arrays import dataset_of
from .fetch import DATASET_MOUNT, fetch
from .files import Disk, Readable, Stop, copy_bytes, is_full
from .npz import open_npz
from .splits import Dataset

HOME = "https://storage.googleapis.com/tensorflow/tf-keras-datasets"
MNIST = FileSource(f"{HOME}/mnist.npz", None, "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1")
DIGITS = tuple(str(digit) for digit in range(10))
FASHION_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
FASHION = {
    "x_train": ("train-images-idx3-ubyte.gz", "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
    "y_train": ("train-labels-idx1-ubyte.gz", "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
    "x_test": ("t10k-images-idx3-ubyte.gz", "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
    "y_test": ("t10k-labels-idx1-ubyte.gz", "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
}
"""File and SHA-256 of each array."""
_MOST_BYTES = 1 << 30


def load_mnist(source: FileSource, work: Path, reporter: Reporter, stop: Stop, disk: Disk) -> Dataset:
    """Download and open MNIST; raises DataError, Stopped."""
    file = fetch(source, "spec.dataset", DATASET_MOUNT, work / "download", reporter, stop, disk)
    found = open_npz(file, "MNIST", work, stop, disk, DIGITS)
    file.unlink()
    return found


def load_fashion(sources: dict[str, FileSource], work: Path, reporter: Reporter, stop: Stop, disk: Disk) -> Dataset:
    """Download and open Fashion-MNIST from the file of each array; raises DataError, Stopped."""
    arrays = {}
    for name, source in sources.items():
        file = fetch(source, "spec.dataset", DATASET_MOUNT, work / "download", reporter, stop, disk)
        arrays[name] = read_idx(file, work / name, f"{FASHION[name][0]} of Fashion-MNIST", stop, disk)
        file.unlink()
    return dataset_of(arrays, FASHION_NAMES, stop)


def read_idx(packed: Path, target: Path, title: str, stop: Stop, disk: Disk) -> NDArray[np.uint8]:
    """Unpack a gzip file of bytes in the IDX format and map it from disk; raises DataError naming `title`, Stopped."""
    try:
        with gzip.open(packed) as content, target.open("wb") as file:
            shape = _unpack_idx(content, file, stop, disk)
    except (OSError, EOFError, zlib.error, struct.error, ValueError) as error:
        if is_full(error):
            raise DataError(f"The disk is full at {title}; {disk.remedy}.") from error
        raise DataError(f"{title} is damaged ({error}); download it again.") from error
    found: NDArray[np.uint8] = np.memmap(target, np.uint8, "r").reshape(shape)
    return found


def _unpack_idx(content: Readable, file: IO[bytes], stop: Stop, disk: Disk) -> tuple[int, ...]:
    """Write the bytes behind the header and give their shape; raises ValueError."""
    zeros, kind, dimensions = struct.unpack(">HBB", content.read(4))
    if (zeros, kind) != (0, 8) or dimensions not in (1, 3):
        raise ValueError("it does not begin as an IDX file of bytes")
    shape = struct.unpack(f">{dimensions}I", content.read(4 * dimensions))
    size = math.prod(shape)
    if not 0 < size <= min(_MOST_BYTES, disk.room()):
        raise ValueError(f"it says that it has {size:,} bytes")
    if copy_bytes(content, file, size, stop, "the images were unpacked") != size or content.read(1):
        raise ValueError("it has another size than it says")
    return shape
