"""Which images the rows of training, validation and test features belong to, and what these look like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from itertools import compress

import numpy as np
from PIL import Image

from .datasets import Dataset
from .datasets.order import validation_mask
from .feature_sets import FeatureSet
from .feature_store import FeatureStore
from .loading import Part
from .thumbnails import Picture, picture_in

MOST_SIDE = 300
"""Pixels of the longer side of an image that is only shown; a smaller one stays as it is."""


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


def places_of(train: Part, held_back: Decimal, part: str, rows: Sequence[int]) -> Sequence[int]:
    """Give the places of some rows of a part in the order of their split."""
    if part == "test":
        return rows
    held = validation_mask(train.labels, held_back)
    places = np.flatnonzero(held if part == "validation" else ~held)
    return [int(places[row]) for row in rows]


def images_at(dataset: Dataset, part: str, places: Sequence[int]) -> Sequence[Picture]:
    """Decode images of the data set and reduce them, so that one is in memory at its full size; raises DataError."""
    split = dataset.test if part == "test" else dataset.train
    return [_reduced(split.image(place)) for place in places]


def _reduced(image: Picture) -> Picture:
    picture = Image.fromarray(image)
    picture.thumbnail((MOST_SIDE, MOST_SIDE))
    return np.asarray(picture)


def thumbnails_at(store: FeatureStore, found: FeatureSet, places: Sequence[int]) -> Sequence[Picture | None]:
    """Read what a set keeps of its images; None for one that has no thumbnail. One shard's are in memory at a time."""
    pictures: dict[int, Picture | None] = {}
    for index in sorted({place // found.shard_images for place in places}):
        low, high = found.bounds(index)
        data = store.thumbnails(found, index)
        if data is not None:
            pictures |= {place: picture_in(data, place - low) for place in places if low <= place < high}
    return [pictures.get(place) for place in places]
