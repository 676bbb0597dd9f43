"""What was predicted for every test image, so that two sessions can be compared image by image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

LARGEST_FLOAT32 = 32 << 20
"""Bytes above which probabilities are kept as float16."""


def open_probabilities(path: Path, images: int, classes: int) -> npt.NDArray[Any]:
    """Make room for probabilities [images, classes] in a file, so that they need no memory of their own."""
    dtype = np.float32 if 4 * images * classes <= LARGEST_FLOAT32 else np.float16
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(images, classes))


def write_predictions(
    path: Path,
    probabilities: npt.NDArray[Any],
    labels: npt.NDArray[np.int32],
    digests: Sequence[bytes],
    class_names: Sequence[str],
) -> None:
    """Write an npz: probabilities [n, classes], predicted and labels int32 [n], digests uint8 [n, 32], class_names."""
    predicted = np.empty(len(labels), np.int32)
    step = max(1, (1 << 20) // max(1, probabilities.shape[1]))
    for low in range(0, len(labels), step):
        predicted[low : low + step] = probabilities[low : low + step].argmax(axis=1)
    images = np.frombuffer(b"".join(digests), np.uint8).reshape(len(digests), -1)
    np.savez(
        path,
        probabilities=probabilities,
        predicted=predicted,
        labels=labels,
        digests=images,
        class_names=np.array(list(class_names), np.str_),
    )
