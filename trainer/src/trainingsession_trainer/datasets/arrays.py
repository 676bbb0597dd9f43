"""Arrays of images on disk: read one image at a time, checked before any is read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainingsession_trainer.errors import DataError

from .files import Stop, check_stop
from .images import MOST_PIXELS
from .splits import ArrayImages, Dataset, make_split

Array = NDArray[Any]


def open_array(path: Path, name: str) -> Array:
    """Map a .npy file into memory; raises DataError naming the array."""
    try:
        found: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError, SyntaxError, TypeError, OverflowError, MemoryError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{name} cannot be read ({reason}); save plain arrays with numpy.savez.") from error
    return found


def images_of(array: Array, name: str) -> NDArray[np.uint8]:
    """Check that an array holds images and give it as uint8 [n, h, w] or [n, h, w, 3]; raises DataError naming it."""
    if array.dtype != np.uint8:
        raise DataError(f"{name} has the type {array.dtype}; save pixels from 0 to 255 as uint8.")
    if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[3] not in (1, 3)) or 0 in array.shape:
        raise DataError(
            f"{name} has the shape {list(array.shape)}; save images as [n, height, width] or with 1 or 3 more."
        )
    if array.shape[1] * array.shape[2] > MOST_PIXELS:
        raise DataError(f"{name} has images of more than {MOST_PIXELS:,} pixels; make them smaller.")
    return array[..., 0] if array.ndim == 4 and array.shape[3] == 1 else array


def labels_of(array: Array, name: str, images: int, images_name: str) -> NDArray[np.int32]:
    """Check that an array holds class numbers and give it as int32 [n]; raises DataError naming it."""
    flat = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if flat.ndim != 1 or flat.dtype.kind not in "iu":
        raise DataError(
            f"{name} has the type {array.dtype} and the shape {list(array.shape)}; save class numbers as integers [n]."
        )
    if len(flat) != images:
        raise DataError(f"{name} has {len(flat):,} labels, and {images_name} has {images:,} images; save one for each.")
    low, high = int(flat.min()), int(flat.max())
    if low < 0 or high >= np.iinfo(np.int32).max:
        raise DataError(f"{name} holds the label {low if low < 0 else high}; number the classes from 0.")
    return np.asarray(flat, np.int32)


def dataset_of(arrays: dict[str, Array], class_names: Sequence[str] | None, stop: Stop) -> Dataset:
    """Make a data set of the arrays x_train, y_train, x_test and y_test; raises DataError naming one, Stopped."""
    images = {split: images_of(arrays[f"x_{split}"], f"x_{split}") for split in ("train", "test")}
    labels = {
        split: labels_of(arrays[f"y_{split}"], f"y_{split}", len(found), f"x_{split}")
        for split, found in images.items()
    }
    there = {split: np.unique(found) for split, found in labels.items()}
    count = len(there["train"])
    if count < 2:
        raise DataError(f"y_train holds the class {there['train'][0]} alone; a classifier needs at least two.")
    for split, found in there.items():
        if not np.array_equal(found, np.arange(count)):
            odd = min(set(found.tolist()) ^ set(range(count)))
            other = "holds no image" if odd < count else "holds an image"
            raise DataError(
                f"y_{split} {other} of class {odd}; number the classes of both parts 0 to n-1, without gaps."
            )
    names = tuple(class_names) if class_names else tuple(str(number) for number in range(count))
    if len(names) != count or len(set(names)) != count:
        raise DataError(f"class_names has {len(set(names))} different names for {count} classes; give one for each.")
    splits = [
        make_split(split, names, labels[split], _digests(images[split], split, stop), ArrayImages(images[split]))
        for split in ("train", "test")
    ]
    return Dataset(names, *splits)


def _digests(images: NDArray[np.uint8], split: str, stop: Stop) -> list[bytes]:
    """Digest every image; its shape counts, because the same bytes in another are another image."""
    shape = str(images.shape[1:]).encode()
    digests = []
    for image in images:
        check_stop(stop, f"the {split} images were digested")
        digests.append(hashlib.sha256(shape + image.tobytes()).digest())
    return digests
