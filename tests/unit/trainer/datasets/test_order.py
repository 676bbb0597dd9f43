from __future__ import annotations

import hashlib
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainingsession_trainer.datasets.order import order, order_digest, prefix, validation_mask
from trainingsession_trainer.datasets.splits import ArrayImages, make_split

sizes_of_classes = st.lists(st.integers(1, 60), min_size=1, max_size=6)
splits = st.integers(0, 90).map(lambda percent: Decimal(percent) / 100)


def images_of(sizes):
    labels = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    return labels, [hashlib.sha256(str(index).encode()).digest() for index in range(len(labels))]


def most_deviation(sizes):
    """The largest distance of a class from its share, over all prefixes and by class."""
    labels, digests = images_of(sizes)
    ordered = labels[order(labels, digests)]
    counts = np.cumsum(ordered[:, None] == np.arange(len(sizes)), axis=0)
    shares = np.outer(np.arange(1, len(labels) + 1), np.array(sizes) / len(labels))
    return np.abs(counts - shares).max(axis=0)


@given(st.lists(st.integers(1, 200), min_size=1, max_size=12))
def test_every_prefix_holds_each_class_to_within_one_image_of_its_share(sizes):
    assert np.all(most_deviation(sizes) < 1)


def test_many_small_classes_beside_a_large_one_keep_their_shares_too():
    assert np.all(most_deviation([1] * 100 + [500]) < 1)


@given(sizes_of_classes, st.randoms(use_true_random=False))
def test_the_order_does_not_depend_on_the_order_in_which_images_are_given(sizes, random):
    labels, digests = images_of(sizes)
    mixed = list(range(len(labels)))
    random.shuffle(mixed)
    mixed_labels, mixed_digests = labels[mixed], [digests[i] for i in mixed]

    first = [(labels[i], digests[i]) for i in order(labels, digests)]
    second = [(mixed_labels[i], mixed_digests[i]) for i in order(mixed_labels, mixed_digests)]

    assert first == second


@given(sizes_of_classes, splits, st.data())
def test_an_image_stays_on_its_side_of_the_validation_split_as_the_subset_grows(sizes, split, data):
    labels, digests = images_of(sizes)
    ordered = labels[order(labels, digests)]
    n = data.draw(st.integers(0, len(labels)))
    assert np.array_equal(validation_mask(ordered[:n], split), validation_mask(ordered, split)[:n])


@given(sizes_of_classes, splits)
def test_every_class_gives_its_share_to_the_validation_rounded_down(sizes, split):
    labels, digests = images_of(sizes)
    ordered = labels[order(labels, digests)]
    held = np.bincount(ordered[validation_mask(ordered, split)], minlength=len(sizes))
    assert held.tolist() == [int(size * split) for size in sizes]


@given(sizes_of_classes, st.integers(1, 1000).map(lambda n: Decimal(n) / 1000))
def test_a_larger_subset_contains_every_smaller_one(sizes, subset):
    n = sum(sizes)
    assert 1 <= prefix(n, subset) <= prefix(n, min(Decimal(1), subset * 2)) <= n


@pytest.mark.parametrize(
    ("n", "subset", "images"),
    [
        (1442, "0.05", 73),  # 72.1
        (1440, "0.05", 72),  # exactly 72
        (10, "0.3", 3),  # 0.1 + 0.2 is more than 0.3 in binary, which would round up to 4
        (1000, "0.001", 1),
        (1000, "0.0001", 1),
        (50000, "0.2", 10000),
        (7, "1", 7),
    ],
)
def test_a_subset_is_rounded_up_in_decimal_arithmetic(n, subset, images):
    assert prefix(n, Decimal(subset)) == images


def test_sums_of_decimals_are_no_more_than_they_say():
    assert prefix(10, Decimal("0.1") + Decimal("0.2")) == 3
    assert prefix(10, Decimal(0.1 + 0.2)) == 4  # what binary arithmetic would have done


def test_the_same_content_in_two_classes_is_ordered_for_each():
    labels = np.array([0, 1, 0, 1], np.int32)
    digests = [b"a" * 32, b"a" * 32, b"b" * 32, b"b" * 32]
    assert sorted(order(labels, digests).tolist()) == [0, 1, 2, 3]
    assert labels[order(labels, digests)].tolist() == [0, 1, 0, 1]


def test_the_digest_changes_with_class_names_labels_and_images():
    labels = np.array([0, 1], np.int32)
    digests = [b"a" * 32, b"b" * 32]
    found = {
        order_digest(("cat", "dog"), labels, digests),
        order_digest(("cat", "dogs"), labels, digests),
        order_digest(("ca", "tdog"), labels, digests),
        order_digest(("cat", "dog"), labels[::-1], digests),
        order_digest(("cat", "dog"), labels, digests[::-1]),
        order_digest(("cat", "dog"), labels[:1], digests[:1]),
    }
    assert len(found) == 6
    assert order_digest(("cat", "dog"), labels.astype(np.int64), tuple(digests)) in found


def test_the_digest_is_the_same_in_every_version():
    # Golden: when this changes, every stored feature is computed again.
    assert (
        order_digest(("cat", "dog"), np.array([0, 1], np.int32), [b"a" * 32, b"b" * 32])
        == "0a0482d7e556d0465399281dc64dde4fc1e2c2000cc71c78b04ea047e3d0f7b4"
    )


def test_a_split_gives_each_image_with_its_own_label_and_digest():
    array = np.arange(12, dtype=np.uint8).reshape(12, 1, 1)
    labels = (np.arange(12) % 3).astype(np.int32)
    digests = [hashlib.sha256(image.tobytes()).digest() for image in array]

    split = make_split("train", ("a", "b", "c"), labels, digests, ArrayImages(array))

    assert len(split) == 12
    for index in range(12):
        value = int(split.image(index)[0, 0, 0])
        assert split.image(index).shape == (1, 1, 3)
        assert split.labels[index] == value % 3
        assert split.digests[index] == digests[value]
