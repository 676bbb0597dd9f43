"""Figures that say how far an accuracy can be trusted, against what is counted by hand."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from trainingsession_operator import record_view
from trainingsession_trainer.batches import LabelledFeatures
from trainingsession_trainer.evaluation import Calibration, Evaluation, evaluate
from trainingsession_trainer.spec import Training

#                     taken for: a  b  c
CONFUSION = np.array([[8, 2, 0], [1, 4, 0], [0, 0, 0]])


def given(confusion: np.ndarray = CONFUSION) -> Evaluation:
    return Evaluation(0.8, 0.5, (0.5, 0.9), confusion, 0.5, 0.1)


def test_precision_recall_and_f1_of_each_class() -> None:
    a, b, c = given().classes
    assert (a.precision, a.recall, a.images) == (pytest.approx(8 / 9), pytest.approx(0.8), 10)
    assert (b.precision, b.recall, b.images) == (pytest.approx(4 / 6), pytest.approx(0.8), 5)
    assert a.f1 == pytest.approx(2 * (8 / 9 * 0.8) / (8 / 9 + 0.8))
    assert (c.precision, c.recall, c.f1, c.images) == (0, 0, 0, 0)


def test_the_operator_knows_the_figures_by_the_same_names() -> None:
    assert tuple(given().short()) == record_view.EVALUATION


def test_the_macro_mean_is_over_classes_that_occur() -> None:
    a, b, _ = given().classes
    assert given().macro_f1 == pytest.approx((a.f1 + b.f1) / 2)
    # A class that no test image has but some were taken for is a mistake that counts.
    wrong = CONFUSION.copy()
    wrong[0, 2] = 1
    assert given(wrong).macro_f1 < given().macro_f1 * 0.7


def test_the_calibration_error_is_the_weighted_distance_of_confidence_and_accuracy() -> None:
    calibration = Calibration()
    # Two bins: 3 images at 0.9 of which 2 are right, 1 at 0.5 that is wrong; added in two steps.
    calibration.add(np.array([0.9, 0.9]), np.array([True, True]))
    calibration.add(np.array([0.9, 0.5]), np.array([False, False]))
    assert calibration.error() == pytest.approx(3 / 4 * abs(0.9 - 2 / 3) + 1 / 4 * 0.5)


def test_a_probability_at_the_edge_of_a_bin_belongs_to_the_lower_one() -> None:
    calibration = Calibration()
    calibration.add(np.array([1.0, 0.0, 3 / 15]), np.array([True, False, True]))
    assert calibration.error() == pytest.approx((0 + 0 + 0.8) / 3)


def test_probabilities_are_kept_in_the_order_of_the_images_and_the_baseline_is_that_of_training(make_features) -> None:
    keras.utils.set_random_seed(1)
    head = keras.Sequential([keras.Input((9,)), keras.layers.Dense(3, activation="softmax")])
    part = make_features(50, (9,))
    test = LabelledFeatures(part.features, np.where(np.arange(50) < 30, 0, 1).astype(np.int32))
    kept = np.zeros((50, 3), np.float32)
    found = evaluate(head, Training(batch_size=7), test, train_labels=np.array([1, 1, 2], np.int32), probabilities=kept)
    np.testing.assert_allclose(kept, head.predict(part.features.astype(np.float32), verbose=0), rtol=1e-5)
    assert found.baseline == 0.4
    assert evaluate(head, Training(), test).baseline == 0.6
    assert found.accuracy == (kept.argmax(axis=1) == test.labels).mean()
