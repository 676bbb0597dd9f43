"""Rows of features find their images again, on whichever side of the validation split they are."""

from __future__ import annotations

import hashlib
import tracemalloc
from decimal import Decimal
from types import SimpleNamespace

import numpy as np
import pytest

from trainingsession_trainer.datasets import digits
from trainingsession_trainer.datasets.order import prefix
from trainingsession_trainer.feature_sets import FeatureSet
from trainingsession_trainer.loading import Part
from trainingsession_trainer.part_images import digests_by_part, images_at, places_of


@pytest.mark.parametrize("held_back", ["0", "0.2", "0.5"])
def test_an_image_of_a_row_has_the_rows_digest(held_back) -> None:
    dataset, parts = digits.load(), []
    for split in (dataset.train, dataset.test):
        count = prefix(len(split), Decimal("0.3"))
        found = FeatureSet("key", split.name, len(split), 64, (1,))
        parts.append(Part(found, split.labels[:count], split.digests[:count]))
    by_part = digests_by_part(*parts, Decimal(held_back))
    assert len(by_part["train"]) + len(by_part["validation"]) == len(parts[0].labels)
    assert len(by_part["validation"]) == pytest.approx(float(held_back) * len(parts[0].labels), abs=10)
    for part, wanted in by_part.items():
        rows = list(range(0, len(wanted), 7))
        pictures = images_at(dataset, part, places_of(parts[0], Decimal(held_back), part, rows))
        assert [hashlib.sha256(picture[..., 0].tobytes()).digest() for picture in pictures] == [
            wanted[row] for row in rows
        ]


def test_large_images_are_reduced_one_after_the_other() -> None:
    test = SimpleNamespace(image=lambda place: np.full((1000, 2000, 3), place, np.uint8))
    tracemalloc.start()
    pictures = images_at(SimpleNamespace(test=test), "test", range(20))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert {picture.shape for picture in pictures} == {(150, 300, 3)}
    assert [int(picture[0, 0, 0]) for picture in pictures] == list(range(20))
    assert most < 5 * 6_000_000
