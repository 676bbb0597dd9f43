"""Standardisation of features: exact where float16 sums would not be, and harmless on dead channels."""

from __future__ import annotations

import numpy as np

from trainingsession_trainer.batches import LabelledFeatures
from trainingsession_trainer.head import DEVIATION_FLOOR, Standardization, default_layers, standardize_from


def measured(features: np.ndarray) -> Standardization:
    return standardize_from(LabelledFeatures(features, np.zeros(len(features), np.int32)))


class Shards:
    """Features in several arrays, as they come from a storage."""

    def __init__(self, *arrays: np.ndarray) -> None:
        self._arrays = arrays

    def blocks(self):
        return iter(self._arrays)


def test_mean_and_deviation_are_those_of_float64() -> None:
    features = (np.random.default_rng(0).normal(50.0, 3.0, (3000, 2, 2, 5))).astype(np.float16)
    found = measured(features)
    exact = features.astype(np.float64).reshape(-1, 5)
    np.testing.assert_allclose(found.mean, exact.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.deviation, exact.std(axis=0), rtol=1e-9)


def test_dead_and_nearly_dead_channels_are_floored() -> None:
    rng = np.random.default_rng(1)
    features = np.stack(
        [rng.normal(0, 2, 500), np.full(500, 7.0), rng.normal(0, 1e-4, 500), rng.normal(0, 2, 500)], axis=1
    )
    deviation = measured(features.astype(np.float32)).deviation
    live = np.sort(features[:, [0, 2, 3]].astype(np.float32).astype(np.float64).std(axis=0))
    floor = DEVIATION_FLOOR * live[1]
    np.testing.assert_allclose(deviation[[1, 2]], floor, rtol=1e-9)
    assert (deviation[[0, 3]] > 1.5).all()


def test_features_that_never_change_are_left_as_they_are() -> None:
    found = measured(np.full((4, 3), 2.0, np.float32))
    assert found.deviation.tolist() == [1.0, 1.0, 1.0]


def test_the_default_head_depends_on_the_positions() -> None:
    assert default_layers((2, 2, 8))[0].type == "Conv2D"
    for shape in ((1, 1, 8), (2, 1, 8), (8,)):
        assert [layer.type for layer in default_layers(shape)] == ["Dropout"]


def test_features_in_several_blocks_give_the_same_as_in_one() -> None:
    features = np.random.default_rng(2).normal(4.0, 3.0, (700, 3, 5)).astype(np.float16)
    found = standardize_from(Shards(features[:512], features[512:512], features[512:]))
    np.testing.assert_allclose(found.mean, measured(features).mean, rtol=1e-12)
    np.testing.assert_allclose(found.deviation, measured(features).deviation, rtol=1e-12)
