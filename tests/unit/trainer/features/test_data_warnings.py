"""What is said of a session's images before it trains; the same from images and from stored features."""

from __future__ import annotations

import numpy as np

from trainingsession_operator.status import Reason
from trainingsession_trainer import data_warnings
from trainingsession_trainer.data_warnings import class_counts, warnings_of
from trainingsession_trainer.feature_sets import FeatureSet
from trainingsession_trainer.loading import Part

NOTHING = np.empty((0, 2), np.int32)


def part(images, split="train"):
    """A part of a set; `images` are (digest, label)."""
    labels = np.array([label for _, label in images], np.int32)
    found = FeatureSet("key", split, len(images), 4, (2,))
    return Part(found, labels, tuple(digest.encode() for digest, _ in images), split)


def said(train, test, near=NOTHING):
    return {warning.reason: warning.message for warning in warnings_of(part(train), part(test, "test"), near)}


def test_nothing_is_said_of_images_that_are_all_different():
    assert said([("a", 0), ("b", 1)], [("c", 0), ("d", 1)]) == {}
    assert said([("a", 0), ("a", 0)], [("c", 0)]) == {}, "twice on one side, in one class, flatters nobody"


def test_test_images_that_are_training_images_are_counted():
    found = said([("a", 0), ("b", 1)], [("a", 0), ("a", 0), ("c", 1)])
    assert found == {
        "DuplicatesInTest": "2 of 3 test images are also among the training images, byte for byte: the accuracy "
        "flatters; take out one of the two."
    }


def test_images_of_two_classes_are_counted_once_each_over_both_parts():
    found = said([("a", 0), ("a", 1), ("a", 0), ("b", 1)], [("b", 0), ("c", 0)])
    assert found["LabelsDisagree"].startswith("2 images are in more than one class, byte for byte")


def test_near_duplicates_count_only_among_the_images_in_use():
    pairs = np.array([[0, 0], [1, 2], [5, 1]], np.int32)
    train, test = [("a", 0), ("b", 1)], [("c", 0), ("d", 1)]
    assert said(train, test, pairs)["NearDuplicatesInTest"].startswith("1 of 2 test images is nearly a training image")
    assert said(train, test, None) == {}


def test_classes_are_counted_by_name_and_many_are_summed_up():
    assert class_counts(part([("a", 0), ("b", 1), ("c", 1)]), ("cat", "dog", "eel")) == "cat 1, dog 2, eel 0"
    many = part([(str(i), i % 25) for i in range(60)])
    text = class_counts(many, [f"c{i}" for i in range(25)])
    assert text.endswith("c19 2, and 5 more, from 2 to 3 in a class")


def test_every_reason_is_one_that_the_operator_documents():
    reasons = {data_warnings.DUPLICATES, data_warnings.NEAR_DUPLICATES, data_warnings.LABELS_DISAGREE}
    assert reasons <= {value for name, value in vars(Reason).items() if name.isupper()}
