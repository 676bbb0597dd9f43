"""Learning rates, weights of classes and the end of training, worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trainingsession_trainer.config import parse_spec
from trainingsession_trainer.errors import SpecError
from trainingsession_trainer.schedule import check_classes, check_schedule, class_weights, ends_early, rate_factor
from trainingsession_trainer.snapshot import Epoch
from trainingsession_trainer.spec import ClassWeights, EarlyStopping, LearningRate, Training

COSINE = LearningRate("cosine", warmup_epochs=2, minimum_factor=0.1)


@pytest.mark.parametrize(
    ("rate", "epoch", "step", "factor"),
    [
        (LearningRate(), 9, 3, 1.0),
        (LearningRate("step", factor=0.1, step_epochs=3), 2, 4, 1.0),
        (LearningRate("step", factor=0.1, step_epochs=3), 3, 0, 0.1),
        (LearningRate("step", factor=0.1, step_epochs=3), 6, 0, 0.01),
        (LearningRate("step", factor=0.5, step_epochs=1, warmup_epochs=1), 2, 0, 0.5),
        (LearningRate("exponential", factor=0.81), 1, 0, 0.81),
        (LearningRate("exponential", factor=0.81), 0, 2, math.sqrt(0.81)),
        # Ten steps of warm-up in equal parts, the last of which is the whole rate.
        (COSINE, 0, 0, 0.1),
        (COSINE, 1, 4, 1.0),
        (COSINE, 2, 0, 1.0),
        (COSINE, 6, 0, 0.55),
        (LearningRate("cosine"), 9, 4, (1 + math.cos(math.pi * 0.98)) / 2),
    ],
)
def test_the_rate_follows_its_schedule(rate, epoch, step, factor):
    steps = 4 if rate.factor == 0.81 else 5
    assert rate_factor(rate, 10, epoch, step, steps) == pytest.approx(factor, rel=1e-12)


def epochs(*losses, accuracies=None):
    figures = [
        {"val_loss": value, "val_accuracy": accuracies[i] if accuracies else 0.0} for i, value in enumerate(losses)
    ]
    return [Epoch(index + 1, 1.0, each) for index, each in enumerate(figures)]


@pytest.mark.parametrize(
    ("stopping", "seen", "ends"),
    [
        (None, epochs(1, 2, 3), False),
        (EarlyStopping(patience=2), [], False),
        (EarlyStopping(patience=2), epochs(3, 2, 2), False),
        (EarlyStopping(patience=2), epochs(3, 2, 2, 2), True),
        (EarlyStopping(patience=2), epochs(3, 2, 2.5, 1.9), False),
        # Small steps do not count, until together they make a large one.
        (EarlyStopping(patience=2, min_delta=0.5), epochs(3, 2.7, 2.6), True),
        (EarlyStopping(patience=2, min_delta=0.5), epochs(3, 2.7, 2.4), False),
        (EarlyStopping(monitor="accuracy", patience=2), epochs(3, 2, 1, accuracies=[0.5, 0.5, 0.4]), True),
        (EarlyStopping(monitor="accuracy", patience=2), epochs(1, 2, 3, accuracies=[0.5, 0.5, 0.6]), False),
    ],
)
def test_training_ends_when_it_has_waited_long_enough(stopping, seen, ends):
    assert ends_early(stopping, seen) is ends


def test_balanced_classes_count_alike_and_images_one_on_average():
    labels = np.array([0] * 6 + [1] * 2 + [3] * 4, np.int32)
    weights = class_weights(ClassWeights(balanced=True), labels, ["a", "b", "none of it", "d"])
    assert weights.tolist() == pytest.approx([12 / 18, 2.0, 1.0, 1.0])
    assert weights[labels].mean() == pytest.approx(1.0)


def test_classes_that_are_not_named_count_one():
    weights = class_weights(ClassWeights(weights={"b": 2.5, "a": 0}), np.zeros(1, np.int32), ["a", "b", "c"])
    assert weights.tolist() == [0.0, 2.5, 1.0]


def test_a_weight_of_an_unknown_class_is_refused():
    with pytest.raises(SpecError) as caught:
        check_classes(ClassWeights(weights={"horse": 2}), ["cat", "dog"])
    assert str(caught.value) == (
        "spec.training.classWeights.weights names 'horse', which is no class of the data set; its classes are cat, dog."
    )
    check_classes(ClassWeights(weights={"dog": 2}), ["cat", "dog"])
    check_classes(None, [])


RATE, WEIGHTS = "spec.training.learningRate", "spec.training.classWeights"


@pytest.mark.parametrize(
    ("training", "sentence"),
    [
        (Training(learning_rate=LearningRate("step", factor=0.1)), f"{RATE}.stepEpochs is missing; schedule step need"),
        (Training(learning_rate=LearningRate("exponential")), f"{RATE}.factor is missing; schedule exponential needs"),
        (
            Training(learning_rate=LearningRate("cosine", factor=0.5)),
            f"{RATE}.factor is 0.5; schedule cosine has no use for it, remove it.",
        ),
        (
            Training(epochs=5, learning_rate=LearningRate("cosine", warmup_epochs=5)),
            f"{RATE}.warmupEpochs is 5; it must be less than spec.training.epochs, which is 5.",
        ),
        (Training(class_weights=ClassWeights()), f"{WEIGHTS} has neither of balanced: true and weights; set"),
        (
            Training(class_weights=ClassWeights(balanced=True, weights={"a": 1})),
            f"{WEIGHTS} has both of balanced: true and weights; set exactly one.",
        ),
        (
            Training(class_weights=ClassWeights(weights={"a": -1})),
            f"{WEIGHTS}.weights has -1 for 'a'; it must be a number from 0 to 1,000,000.",
        ),
    ],
)  # fmt: skip
def test_fields_that_do_not_go_together_are_refused(training, sentence):
    with pytest.raises(SpecError) as caught:
        check_schedule(training)
    assert str(caught.value).startswith(sentence)


def test_early_stopping_needs_validation_images():
    spec = {
        "dataset": {"name": "digits", "validationSplit": 0},
        "baseModel": {"name": "MobileNet"},
        "training": {"earlyStopping": {}},
    }
    with pytest.raises(
        SpecError, match=r"^spec\.training\.earlyStopping .*validationSplit is 0; raise it or remove early"
    ):
        parse_spec(spec)
