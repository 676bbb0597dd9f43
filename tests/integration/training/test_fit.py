"""Training on small features: every loss and optimizer, reproducible epochs, divergence, stops."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from trainingsession_trainer.epochs import out_of_memory
from trainingsession_trainer.errors import DivergedError, HostMemoryError, SpecError, Stopped
from trainingsession_trainer.evaluation import evaluate, metrics_of, wilson_interval
from trainingsession_trainer.head import build_head, standardize_from
from trainingsession_trainer.objective import build_loss, build_optimizer, check_training
from trainingsession_trainer.spec import LOSSES, METRICS, OPTIMIZERS, Loss, Optimizer
from trainingsession_trainer.training import fit_head

FAST = {"name": "adam", "config": {"learning_rate": 0.02}}


@pytest.fixture
def train(make_features, make_spec, new_checkpoints, reporter):
    """Trains a head on small features and returns it with its history and evaluation."""

    def run(*, stop=lambda: False, validation: int = 60, head: dict | None = None, **training):
        spec = make_spec(training=training, head=head or {})
        parts = make_features(240), make_features(validation, seed=1), make_features(150, seed=2)
        keras.utils.set_random_seed(spec.training.seed)
        model = build_head(spec.head, (2, 2, 9), 3, standardize_from(parts[0]))
        history = fit_head(
            model,
            spec.training,
            *parts[:2],
            class_names=("a", "b", "c"),
            checkpoints=new_checkpoints(),
            reporter=reporter,
            stop=stop,
        )
        return model, history, evaluate(model, spec.training, parts[2])

    return run


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_learns(train, make_features, name: str) -> None:
    head, history, evaluation = train(loss={"name": name}, optimizer=FAST, epochs=6)
    assert history.epochs[-1].figures["loss"] < history.epochs[0].figures["loss"]
    assert evaluation.accuracy > 0.8, "an image's own class is what the loss is about"
    test = make_features(150, seed=2)
    numbers = name in ("sparse_categorical_crossentropy", "categorical_generalized_cross_entropy")
    labels = test.labels if numbers else keras.utils.to_categorical(test.labels, 3)
    by_keras = head.evaluate(test.features.astype(np.float32), labels, verbose=0, return_dict=True)
    assert evaluation.loss == pytest.approx(by_keras["loss"], rel=1e-4)
    assert evaluation.accuracy == pytest.approx(by_keras["accuracy"], abs=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_trains(train, name: str) -> None:
    head, history, _ = train(optimizer={"name": name}, epochs=1, seed=4)
    assert head.optimizer.__class__.__name__.lower() == name
    assert np.isfinite(history.epochs[0].figures["loss"])


def by_hand(name: str, labels, probabilities) -> float:
    """The metrics as their textbooks have them."""
    classes = probabilities.shape[1]
    truth = np.eye(classes)[labels]
    said, rank = np.eye(classes)[probabilities.argmax(axis=1)], np.argsort(-probabilities, axis=1)
    hits, sure = (truth * said).sum(axis=0), probabilities > 0.5
    if name.startswith("top_"):
        return float((rank[:, : int(name[4])] == labels[:, None]).any(axis=1).mean())
    if name == "auc":
        # The part of pairs of an image of the class and another that are in the right order (Hanley and McNeil 1982).
        pairs = [
            np.subtract.outer(column[labels == c], column[labels != c]) for c, column in enumerate(probabilities.T)
        ]
        return float(np.mean([(pair > 0).mean() + (pair == 0).mean() / 2 for pair in pairs]))
    return float({
        "categorical_crossentropy": -np.log(probabilities[np.arange(len(labels)), labels]).mean(),
        "f1_score": (2 * hits / (said.sum(axis=0) + truth.sum(axis=0))).mean(),
        "mean_squared_error": ((truth - probabilities) ** 2).mean(),
        "precision": (truth * sure).sum() / sure.sum(),
        "recall": (truth * sure).sum() / truth.sum(),
    }[name])  # fmt: skip


@pytest.mark.parametrize("loss", ["categorical_crossentropy", "sparse_categorical_crossentropy"])
def test_every_metric_is_what_its_textbook_says(train, make_features, loss: str) -> None:
    found: dict[str, float] = {}
    for names in (METRICS[:4], METRICS[4:]):
        head, history, evaluation = train(metrics=list(names), loss={"name": loss}, epochs=2)
        assert set(history.epochs[0].figures) == {
            f"{part}{name}" for part in ("", "val_") for name in ("loss", "accuracy", *names)
        }
        published = metrics_of(evaluation, history)
        assert {f"{part}_{name}" for part in ("test", "validation") for name in names} <= set(published)
        found |= evaluation.metrics
    test = make_features(150, seed=2)
    probabilities = np.asarray(head(test.features.astype(np.float32)), np.float64)
    for name in METRICS:
        # Keras counts an AUC at 200 thresholds.
        assert found[name] == pytest.approx(
            by_hand(name, test.labels, probabilities), abs=2e-3 if name == "auc" else 1e-5
        )


def test_the_learning_rate_ends_where_its_schedule_does(train) -> None:
    head, history, _ = train(
        epochs=4, learningRate={"schedule": "cosine", "warmupEpochs": 1}, optimizer=FAST, restoreBest=False
    )
    # Twenty-four steps after those of the warm-up, the last of which is number 23.
    assert float(head.optimizer.learning_rate) == pytest.approx(0.02 * (1 + np.cos(np.pi * 23 / 24)) / 2, rel=1e-5)
    rates = [epoch.learning_rate for epoch in history.epochs]
    wanted = [0.02, *(0.02 * (1 + np.cos(np.pi * (8 * epoch - 1) / 24)) / 2 for epoch in (1, 2, 3))]
    assert rates == pytest.approx(wanted, rel=1e-5), "of each epoch's last step"


def test_a_class_without_weight_is_not_learned(train) -> None:
    _, history, evaluation = train(epochs=8, optimizer=FAST, classWeights={"weights": {"b": 0}})
    assert evaluation.confusion[1, 1] < 0.2 * evaluation.confusion[1].sum()
    assert evaluation.accuracy > 0.5
    assert history.epochs[-1].figures["loss"] < history.epochs[-1].figures["val_loss"], "validation counts every class"


def test_early_stopping_without_a_single_validation_image_is_refused(train) -> None:
    with pytest.raises(SpecError, match=r"^spec\.training\.earlyStopping .*none is held back; raise spec\.dataset"):
        train(validation=0, earlyStopping={})


def test_the_same_seed_gives_the_same_weights_and_another_does_not(train) -> None:
    weights = [train(epochs=3, seed=seed)[0].get_weights() for seed in (7, 7, 8)]
    assert all(np.array_equal(one, two) for one, two in zip(weights[0], weights[1]))
    assert not all(np.array_equal(one, two) for one, two in zip(weights[0], weights[2]))


def test_the_weights_of_the_best_epoch_are_kept(train, make_features) -> None:
    # A rate at which the loss goes up and down, so that the best epoch is not the last.
    settings = {"optimizer": {"name": "rmsprop", "config": {"learning_rate": 0.3}}, "epochs": 8, "seed": 3}
    best, history, _ = train(**settings)
    losses = [epoch.figures["val_loss"] for epoch in history.epochs]
    assert history.kept == int(np.argmin(losses)) + 1
    validation = make_features(60, seed=1)
    truth = keras.utils.to_categorical(validation.labels, 3)
    figures = best.evaluate(validation.features.astype(np.float32), truth, verbose=0, return_dict=True)
    assert figures["loss"] == pytest.approx(history.kept_epoch.figures["val_loss"], rel=1e-4)
    assert figures["accuracy"] == pytest.approx(history.kept_epoch.figures["val_accuracy"])
    assert history.kept < 8
    head, last, _ = train(**settings, restoreBest=False)
    assert last.kept == 8
    assert len(head.get_weights()) == 4


def test_without_validation_images_the_last_epoch_counts(train) -> None:
    _, history, evaluation = train(epochs=2, validation=0)
    assert history.kept == 2
    assert set(history.kept_epoch.figures) == {"loss", "accuracy"}
    assert "validation_loss" not in metrics_of(evaluation, history)


def test_divergence_ends_with_advice(train) -> None:
    with pytest.raises(
        DivergedError, match=r"^Training diverged: the loss became (nan|inf) in epoch \d.* lower spec\.training"
    ):
        train(
            loss={"name": "mean_squared_error"}, optimizer={"name": "sgd", "config": {"learning_rate": 1e38}}, epochs=50
        )


def test_a_batch_that_does_not_fit_into_memory_ends_with_advice(train) -> None:
    # 400 TB for a batch of 32, which no check of shapes objects to, and more than an address space has: a kernel that a
    # kubelet told to overcommit would promise less than that, and the whole machine would pay for it.
    layers = [{"type": "ZeroPadding2D", "config": {"padding": 300_000}}, {"type": "GlobalAveragePooling2D"}]
    with pytest.raises(
        HostMemoryError, match=r"^spec\.training\.batchSize is 32, for which memory is too small; lower it"
    ):
        train(head={"layers": layers}, epochs=1)


def test_on_a_gpu_the_reason_is_its_memory() -> None:
    error = out_of_memory(64, on_gpu=True)
    assert (error.exit_code, error.reason) == (64, "OutOfGpuMemory")
    assert "spec.training.batchSize is 64, for which the GPU's memory is too small; lower it" in str(error)


def test_a_stop_is_noticed_within_an_epoch(train) -> None:
    asked = iter([False, True, True, True])
    with pytest.raises(Stopped, match="Stopped in epoch 1 of 500"):
        train(stop=lambda: next(asked), epochs=500, batchSize=8)


OPTIMIZER = "spec.training.optimizer.config"
LOSS = "spec.training.loss.config"


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"learning_rat": 1}, ".learning_rat is not an argument of Adam; did you mean learning_rate."),
        ({"learning_rate": "fast"}, ".learning_rate is 'fast'; it must be a number."),
        ({"learning_rate": 0}, ".learning_rate is 0; it must be above 0."),
        ({"learning_rate": {"class_name": "X"}}, ".learning_rate is {'class_name': 'X'}; use a plain value."),
        ({"amsgrad": 1}, ".amsgrad is 1; it must be true or false."),
        ({"beta_1": None}, ".beta_1 is null; it must be a number."),
        ({"gradient_accumulation_steps": 1e30}, ".gradient_accumulation_steps is 1e+30; it must be a whole number"),
        ({"ema_momentum": 5, "use_ema": True}, " does not fit adam ("),
    ],
)  # fmt: skip
def test_a_bad_optimizer_argument_is_refused(config: dict, sentence: str) -> None:
    with pytest.raises(SpecError) as caught:
        build_optimizer(Optimizer("adam", config))
    assert str(caught.value).startswith(OPTIMIZER + sentence)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"label_smoothin": 1}, ".label_smoothin is not an argument of CategoricalCrossentropy; did you"),
        ({"from_logits": True}, ".from_logits is not an argument of CategoricalCrossentropy; "),
        ({"label_smoothing": "a"}, ".label_smoothing is 'a'; it must be a number."),
    ],
)  # fmt: skip
def test_a_bad_loss_argument_is_refused(config: dict, sentence: str) -> None:
    with pytest.raises(SpecError) as caught:
        build_loss(Loss("categorical_crossentropy", config))
    assert str(caught.value).startswith(LOSS + sentence)


def test_averaged_weights_and_the_best_epochs_exclude_each_other(make_spec) -> None:
    averaged = {"optimizer": {"name": "adam", "config": {"use_ema": True}}}
    with pytest.raises(SpecError, match=r"^spec\.training\.optimizer\.config\.use_ema .* set one of them to false\.$"):
        check_training(make_spec(training=averaged).training)
    check_training(make_spec(training={**averaged, "restoreBest": False}).training)


def test_the_evaluation_counts_every_image_once(train, make_features) -> None:
    head, _, evaluation = train(epochs=2)
    test = make_features(150, seed=2)
    predicted = np.asarray(head(test.features.astype(np.float32))).argmax(axis=1)
    assert evaluation.accuracy == float((predicted == test.labels).mean())
    assert evaluation.confusion.sum() == 150
    assert evaluation.confusion.sum(axis=1).tolist() == np.bincount(test.labels, minlength=3).tolist()


def test_the_interval_is_wilsons() -> None:
    # Newcombe (1998), Statistics in Medicine 17, table I: 81 of 263 and 0 of 20.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
