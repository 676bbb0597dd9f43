"""The linear probe: finds labels that were swapped, learns more from more images, and needs bounded memory."""

from __future__ import annotations

import numpy as np
import pytest

from trainingsession_trainer.batches import LabelledFeatures
from trainingsession_trainer.exports import probe


def examples(count: int, channels: int = 40, classes: int = 4, seed: int = 0, noise: float = 1.0) -> LabelledFeatures:
    """Features [n, 2, 2, channels] around a centre per class."""
    centres = np.random.default_rng(99).normal(size=(classes, channels))
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count).astype(np.int32)
    features = centres[labels][:, None, None, :] + noise * random.normal(size=(count, 2, 2, channels))
    return LabelledFeatures(features.astype(np.float16), labels)


def test_swapped_labels_are_found_first() -> None:
    good = examples(500)
    labels, swapped = good.labels.copy(), [3, 77, 250, 499]
    labels[swapped] = (labels[swapped] + 1) % 4
    found = probe.doubtful(probe.pool(LabelledFeatures(good.features, labels)), 4, 10)
    assert sorted(row for row, _, _ in found[:4]) == swapped
    assert {row: named for row, named, _ in found[:4]} == {row: good.labels[row] for row in swapped}
    margins = [margin for _, _, margin in found]
    assert margins == sorted(margins, reverse=True)
    assert margins[-1] > 0


@pytest.mark.parametrize("classes", [5, 10, 100])
def test_swapped_labels_are_found_in_the_order_in_which_features_are_stored(classes) -> None:
    centres = 2 * np.random.default_rng(99).normal(size=(classes, 60))
    true = (np.arange(20 * classes) % classes).astype(np.int32)
    features = centres[true] + np.random.default_rng(0).normal(size=(len(true), 60))
    swapped = sorted(np.random.default_rng(1).choice(len(true), 10, replace=False).tolist())
    labels = true.copy()
    labels[swapped] = (labels[swapped] + 1) % classes
    pooled = probe.pool(LabelledFeatures(features.astype(np.float16)[:, None, None, :], labels))
    found = probe.doubtful(pooled, classes, 10)
    assert sorted(row for row, _, _ in found) == swapped
    assert {row: named for row, named, _ in found} == {row: true[row] for row in swapped}


def test_an_image_does_not_vouch_for_its_own_label() -> None:
    # Random labels with more channels than images: whoever sees an image knows its label by heart.
    random = np.random.default_rng(1)
    features = random.normal(size=(200, 1, 1, 400)).astype(np.float16)
    labels = random.integers(0, 4, 200).astype(np.int32)
    found = probe.doubtful(probe.pool(LabelledFeatures(features, labels)), 4, 200)
    assert len(found) > 120


def test_too_few_images_for_folds_have_no_doubts() -> None:
    assert probe.doubtful(probe.pool(examples(6)), 4, 10) == []


def test_more_images_teach_more() -> None:
    train, test = probe.pool(examples(2000, noise=6.0)), probe.pool(examples(500, seed=1, noise=6.0))
    found = probe.learning_curve(train, test, 4, (0.02, 0.25, 1.0))
    assert [images for images, _ in found] == [40, 500, 2000]
    rights = [right for _, right in found]
    assert rights == sorted(rights)
    assert rights[0] + 50 < rights[-1]


def test_a_part_of_the_curve_is_what_a_probe_of_that_part_gives() -> None:
    train, test = probe.pool(examples(400, noise=4.0)), probe.pool(examples(300, seed=1, noise=4.0))
    ((count, right),) = probe.learning_curve(train, test, 4, (0.5,))
    mean, deviation = probe.moments(train.features)
    alone = probe.Probe(40, 4)
    alone.add(probe.standardize(train.features[:count], mean, deviation), train.labels[:count])
    named = probe.scores(test.features, mean, deviation, alone.solve()).argmax(axis=1)
    assert right == (named == test.labels).sum()


def test_many_channels_are_mixed_into_fewer_and_still_tell_classes_apart() -> None:
    train = probe.pool(examples(600, channels=3000, noise=4.0))
    assert train.features.shape == (600, probe.MOST_CHANNELS)
    ((_, right),) = probe.learning_curve(train, probe.pool(examples(200, channels=3000, seed=1, noise=4.0)), 4, (1.0,))
    assert right > 190


class Endless:
    """Features that would not fit into memory; gives no more than it is asked for."""

    def __init__(self, count: int) -> None:
        self.labels = np.zeros(count, np.int32)
        self.given = 0

    def __len__(self) -> int:
        return len(self.labels)

    def blocks(self):
        for _ in range(len(self) // 1000):
            self.given += 1000
            yield np.ones((1000, 1, 1, 1024), np.float16)


def test_memory_is_bounded_and_no_more_is_read_than_is_used() -> None:
    features = Endless(1_000_000)
    pooled = probe.pool(features)
    assert pooled.features.nbytes <= probe.MOST_BYTES
    assert len(pooled.labels) == len(pooled.features)
    assert features.given < len(pooled.features) + 1000


@pytest.mark.parametrize("value", [0.0, 3.5])
def test_features_that_never_change_are_no_trouble(value) -> None:
    train = LabelledFeatures(np.full((50, 1, 1, 5), value, np.float16), np.arange(50, dtype=np.int32) % 2)
    assert probe.learning_curve(probe.pool(train), probe.pool(train), 2, (0.1, 1.0))[-1][0] == 50
