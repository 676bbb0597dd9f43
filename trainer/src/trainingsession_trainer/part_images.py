"""Which images the rows of training, validation and test features belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from itertools import compress

import numpy as np
import numpy.typing as npt

from .datasets import Dataset
from .datasets.order import validation_mask
from .loading import Part

Picture = npt.NDArray[np.uint8]
"""[h, w, 3], RGB."""


def digests_by_part(train: Part, test: Part, held_back: Decimal) -> Mapping[str, Sequence[bytes]]:
    """Give the images' digests of train, validation and test, in the order of their features.

    `held_back` is the part of the training split that validates.
    """
    held = validation_mask(train.labels, held_back)
    return {
        "train": list(compress(train.digests, ~held)),
        "validation": list(compress(train.digests, held)),
        "test": test.digests,
    }


def pictures_of(dataset: Dataset, train: Part, held_back: Decimal, part: str, rows: Sequence[int]) -> Sequence[Picture]:
    """Decode the images of some rows of a part; raises DataError."""
    if part == "test":
        return [dataset.test.image(row) for row in rows]
    held = validation_mask(train.labels, held_back)
    places = np.flatnonzero(held if part == "validation" else ~held)
    return [dataset.train.image(int(places[row])) for row in rows]
