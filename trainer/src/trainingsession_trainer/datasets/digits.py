"""The 1,797 handwritten digits of 8x8 pixels; digits.txt beside the file says where they come from."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .splits import ArrayImages, Dataset, make_split

CLASS_NAMES = tuple(str(digit) for digit in range(10))
_FILE = Path(__file__).with_name("digits.npz")


def load() -> Dataset:
    """Load the data set: 1,442 images to train on and 355 to test, in the classes' proportions."""
    splits = {}
    for name in ("train", "test"):
        images, labels = _arrays(name)
        digests = [hashlib.sha256(image.tobytes()).digest() for image in images]
        splits[name] = make_split(name, CLASS_NAMES, labels, digests, ArrayImages(images))
    return Dataset(CLASS_NAMES, splits["train"], splits["test"])


def test_images() -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Give the test images as a model takes them, uint8 [355, 8, 8, 3], and their labels int32 [355]."""
    images, labels = _arrays("test")
    return np.repeat(images[..., None], 3, -1), labels


def _arrays(name: str) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    with np.load(_FILE, allow_pickle=False) as file:
        return file[f"{name}_images"], file[f"{name}_labels"].astype(np.int32)
