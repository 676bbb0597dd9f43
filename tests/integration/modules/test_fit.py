"""A Keras model that a module returned: trained with labels as its loss wants them, or refused in words."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from trainingsession_trainer.module_api import Part, Task
from trainingsession_trainer.modules import fit, handover
from trainingsession_trainer.modules.handover import ModuleError


@pytest.fixture
def task(tmp_path) -> Task:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 96).astype(np.int32)
    inputs = (rng.normal(size=(96, 6)) * 0.3 + np.eye(3, 6)[labels]).astype(np.float16)
    return Task(
        train=Part(inputs[:64], labels[:64]), validation=Part(inputs[64:80], labels[64:80]),
        test=Part(inputs[80:], None), class_names=("a", "b", "c"), parameters={}, epochs=15, batch_size=10, seed=3,
        base_model={}, workdir=tmp_path, _tell=lambda event: None,
    )  # fmt: skip


ORDER = handover.Order(
    entry_point="own:run", code="/", packages="/", input="features", class_names=("a", "b", "c"), parameters={},
    base_model={}, epochs=15, batch_size=10, restore_best=True, seed=3, hidden=(),
)  # fmt: skip


def model(outputs: int = 3, loss: object = None, rate: float = 0.05) -> keras.Model:
    keras.utils.set_random_seed(1)
    made = keras.Sequential([keras.Input((6,)), keras.layers.Dense(outputs, activation="softmax")])
    if loss is not None:
        made.compile(keras.optimizers.Adam(rate), loss=loss, metrics=["accuracy"])
    return made


def own_loss(truth, given):
    return keras.ops.mean(keras.ops.square(truth - given), axis=-1)


@pytest.mark.parametrize(
    "loss", ["sparse_categorical_crossentropy", keras.losses.CategoricalFocalCrossentropy(), own_loss]
)
def test_labels_are_what_the_loss_wants(task: Task, tmp_path: Path, loss) -> None:
    made, events = model(loss=loss), []
    fit.fit(made, task, ORDER, events.append)
    assert [event["epoch"] for event in events] == list(range(1, 16))
    assert events[-1]["figures"]["val_accuracy"] > 0.8
    predictions = fit.predict(made, task.test, 3, tmp_path / "predictions.npy")
    assert handover.why_no_probabilities(predictions, 16, 3) == ""


def test_the_best_epochs_weights_are_kept_and_the_same_seed_gives_the_same(task: Task) -> None:
    def trained():
        made, events = model(loss="sparse_categorical_crossentropy", rate=3.0), []
        fit.fit(made, task, ORDER, events.append)
        return made, [event["figures"]["val_loss"] for event in events]

    (first, losses), (second, again) = trained(), trained()
    assert losses == again
    lowest = int(np.argmin(losses))
    assert lowest < 14, "the learning rate is one that does not settle"
    kept = first.evaluate(task.validation.inputs.astype(np.float32), task.validation.labels, verbose=0)[0]
    assert kept == pytest.approx(losses[lowest], rel=1e-3)
    np.testing.assert_array_equal(first.get_weights()[0], second.get_weights()[0])


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (model, "returned a Keras model that is not compiled"),
        (lambda: model(4, "mse"), "gives 4 values for an image; it must give 3, a probability for each class"),
        (
            lambda: model(loss=lambda truth, given: keras.ops.sum(given) * float("nan")),
            "the loss became nan in epoch 1",
        ),
    ],
    ids=["not compiled", "other classes", "diverges"],
)
def test_a_model_that_does_not_keep_to_the_contract_is_refused(task: Task, made, words: str) -> None:
    with pytest.raises(ModuleError) as caught:
        fit.fit(made(), task, ORDER, lambda event: None)
    assert words in str(caught.value)


def test_a_model_without_a_description_leaves_its_weights(tmp_path: Path) -> None:
    class Own(keras.Model):
        def __init__(self, secret) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(3, activation="softmax")
            self.secret = secret

        def call(self, inputs):
            return self.dense(inputs)

    made = Own(secret=object())
    made(np.zeros((1, 6), np.float32))
    assert "its weights are" in fit.save(made, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [handover.WEIGHTS]
