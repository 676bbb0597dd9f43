"""The second phase: what is trained in it, that it can be stopped anywhere, and what it leaves."""

from __future__ import annotations

import hashlib
import io
import uuid
from itertools import count
from types import SimpleNamespace

import gridfs
import keras
import numpy as np
import pytest
from bson import ObjectId

from trainingsession_trainer import config
from trainingsession_trainer.base_models import open_base_model
from trainingsession_trainer.batches import LabelledFeatures
from trainingsession_trainer.datasets import open_dataset
from trainingsession_trainer.datasets.splits import ArrayImages, make_split
from trainingsession_trainer.epochs import Loop
from trainingsession_trainer.errors import DivergedError, HostMemoryError, SpecError, Stopped
from trainingsession_trainer.evaluation import evaluate
from trainingsession_trainer.fine_tuning import check_fine_tuning, fine_tune
from trainingsession_trainer.head import build_head
from trainingsession_trainer.image_examples import ImageExamples
from trainingsession_trainer.reporting import Reporter
from trainingsession_trainer.training import fit_head

WHOLE_BASE = {"name": "MobileNet", "arguments": {"alpha": 0.25}, "weights": "none", "inputSize": [32, 32]}
# A third of its layers, because most of the time goes into making graphs of them.
BASE = {**WHOLE_BASE, "layer": "conv_pw_4_relu"}
CLASSES = ("red", "green", "blue")
NEVER = 1_000_000
# Of 96 images: whether to stop is asked after each of the 3 batches, and after one of 24 for validation.
ASKED = 4
WHOLE: dict[str, SimpleNamespace] = {}


def spec_of(base=None, **training):
    layers = [{"type": "GlobalAveragePooling2D"}, {"type": "Dropout", "config": {"rate": 0.3}}]
    training = {"epochs": 2, "seed": 3, "optimizer": {"name": "adam", "config": {"learning_rate": 0.01}}, **training}
    return config.parse_spec(
        {"dataset": {"name": "digits"}, "baseModel": base or BASE, "head": {"layers": layers}, "training": training}
    )


def base_of(spec, work):
    return open_base_model(spec.base_model, work, Reporter(io.StringIO()), bool).for_images((24, 20, 3))


@pytest.fixture(scope="module")
def split():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 120).astype(np.int32)
    images = rng.integers(0, 130, (120, 24, 20, 3)).astype(np.uint8)
    images[np.arange(120), :, :, labels] += 60
    digests = [hashlib.sha256(image.tobytes()).digest() for image in images]
    return make_split("train", CLASSES, labels, digests, ArrayImages(images))


@pytest.fixture
def tune(split, tmp_path, new_checkpoints, reporter, database):
    """Trains in as many attempts as `stops` asks for; gives what each part has become."""

    def run(*stops, between=lambda: None, **training):
        spec, uid = (
            spec_of(**{"fineTune": {"layers": 6, "epochs": 3, "learningRate": 1e-3}, **training}),
            uuid.uuid4().hex,
        )
        for stop_at in (*stops, NEVER):
            base = base_of(spec, tmp_path)
            asked = count()
            stop = lambda asked=asked, stop_at=stop_at: next(asked) >= stop_at  # noqa: E731
            # What reads images asks in threads of its own, as often as it likes.
            train, validation = (ImageExamples(split, np.arange(*rows), base, bool) for rows in ((96,), (96, 120)))
            features = base.resized_model()
            parts = [
                LabelledFeatures(features.predict(next(iter(images.blocks())), verbose=0), images.labels)
                for images in (train, validation)
            ]
            keras.utils.set_random_seed(spec.training.seed)
            head = build_head(spec.head, base.feature_shape, 3)
            before = [variable.numpy() for variable in base.network.weights]
            settings = {"class_names": CLASSES, "reporter": reporter, "stop": stop}
            settings["checkpoints"] = checkpoints = new_checkpoints(uid)
            fit = lambda: fit_head(head, spec.training, *parts, **settings)  # noqa: B023, E731
            arguments = (head, base, spec.training, train, validation, fit)
            if stop_at != NEVER:
                with pytest.raises(Stopped):
                    fine_tune(*arguments, **settings)
                between()
            else:
                tuned = fine_tune(*arguments, **settings)
        return SimpleNamespace(tuned=tuned, base=base, head=head, before=before, validation=validation, spec=spec,
                               checkpoints=checkpoints)  # fmt: skip

    return run


def same(one, other) -> bool:
    figures = [[epoch.figures for epoch in each.tuned.history.epochs] for each in (one, other)]
    weights = [each.tuned.model.get_weights() for each in (one, other)]
    return figures[0] == figures[1] and all(np.array_equal(a, b) for a, b in zip(*weights, strict=True))


def test_the_last_layers_are_trained_and_nothing_else_of_the_base_model(tune) -> None:
    done = tune(restoreBest=False)
    network = done.base.network
    changed = {
        variable.path
        for variable, before in zip(network.weights, done.before)
        if not np.array_equal(variable.numpy(), before)
    }
    network.trainable = True
    last = [layer for layer in network.layers[-6:] if layer.weights]
    trained = {variable.path for layer in last for variable in layer.trainable_weights}
    assert changed <= trained
    assert {"conv_pw_4/kernel", "conv_pw_4_bn/gamma"} <= changed
    assert not any("moving" in path for path in trained)
    assert len(done.tuned.history.epochs) == 5
    # The same model in parts, as it is exported.
    features = done.base.resized_model()
    images = next(iter(done.validation.blocks()))
    assert np.allclose(done.head(features(images)), done.tuned.model(images), atol=1e-6)


def test_a_divergence_names_the_learning_rate_of_its_phase() -> None:
    head = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, activation="softmax")])
    training = spec_of(fineTune={"layers": 6}).training
    rates = {"optimizer.config.learning_rate": None, "fineTune.learningRate": head}
    for field, part in rates.items():
        loop = Loop(head, training, bool, head=part)
        with pytest.raises(DivergedError, match=rf"; lower spec\.training\.{field} \(now 0\.01\) or set clipnorm\.$"):
            loop._check(0, float("nan"))


@pytest.fixture
def undisturbed(tune):
    """The same training without any stop, made once."""
    if not WHOLE:
        WHOLE["it"] = tune()
    return WHOLE["it"]


def test_a_training_that_is_stopped_in_both_phases_ends_with_the_same_bits(tune, undisturbed) -> None:
    # In the head's second epoch, at the very beginning of fine-tuning, and in its second epoch.
    assert same(undisturbed, tune(ASKED + 2, ASKED, ASKED + 1))


def test_a_checkpoint_that_is_damaged_costs_only_time(tune, undisturbed, database) -> None:
    def damage() -> None:
        assert database["sessions"].find_one({"checkpoint.headEpochs": 2})
        database["checkpoints.chunks"].update_many({}, {"$set": {"data": b"no"}})

    assert same(undisturbed, tune(3 * ASKED + 1, between=damage))


def test_weights_that_fine_tuning_made_worse_are_not_kept(tune) -> None:
    done = tune(fineTune={"layers": 6, "epochs": 2, "learningRate": 5.0})
    assert done.tuned.history.kept <= 2
    assert all(
        np.array_equal(variable.numpy(), before) for variable, before in zip(done.base.network.weights, done.before)
    )
    kept = done.tuned.history.kept_epoch.figures
    found = evaluate(done.tuned.model, done.spec.training, done.validation)
    assert found.accuracy == pytest.approx(kept["val_accuracy"])
    assert found.loss == pytest.approx(kept["val_loss"], rel=1e-3)


def test_early_stopping_is_about_the_head_only(tune) -> None:
    done = tune(epochs=50, earlyStopping={"patience": 1, "minDelta": 1000})
    assert len(done.tuned.history.epochs) == 2 + 3


def test_images_come_in_the_order_of_the_features_each_once(split, tmp_path) -> None:
    base = base_of(spec_of(), tmp_path)
    rows = np.arange(0, 120, 2)
    examples = ImageExamples(split, rows, base, bool)
    numbers = LabelledFeatures(np.arange(60, dtype=np.float32)[:, None], examples.labels)
    resized = np.concatenate(list(examples.blocks()))
    assert resized.shape == (60, 32, 32, 3)
    for order in (None, (3, 7)):
        pairs = list(zip(examples.batches(16, order), numbers.batches(16, order), strict=True))
        assert [len(images) for (images, _), _ in pairs] == [16, 16, 16, 12]
        for (images, labels), (places, wanted) in pairs:
            assert np.array_equal(labels, wanted)
            assert np.array_equal(images, resized[places[:, 0].astype(int)])


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        (1, r"^spec\.training\.fineTune\.layers is 1; the last 1 layers have no weights: use at least 2\.$"),
        (999, r"^spec\.training\.fineTune\.layers is 999; the base model has \d+ layers\.$"),
    ],
)
def test_layers_that_are_not_there_or_learn_nothing_are_refused(layers, sentence, tmp_path) -> None:
    spec = spec_of(fineTune={"layers": layers})
    with pytest.raises(SpecError, match=sentence):
        check_fine_tuning(spec.training, base_of(spec, tmp_path), 1 << 30)


def test_batches_of_images_that_do_not_fit_into_memory_are_refused_before_any_work(tmp_path) -> None:
    spec = spec_of(WHOLE_BASE, fineTune={"layers": 6}, batchSize=4096)
    with pytest.raises(HostMemoryError, match=r"^spec\.training\.batchSize is 4096, .* of which \d+ fit into memory; "):
        check_fine_tuning(spec.training, base_of(spec, tmp_path), 1 << 28)
    check_fine_tuning(spec.training, base_of(spec, tmp_path), 1 << 31)
    with pytest.raises(
        HostMemoryError, match=r"^spec\.training\.fineTune\.layers is 6, which have [\d,]+ weights: train"
    ):
        check_fine_tuning(spec.training, base_of(spec, tmp_path), 1 << 22)


def test_a_session_leaves_the_whole_model_that_it_measured(make_pod, record_of, storage, tmp_path) -> None:
    spec = {
        "dataset": {"name": "digits", "subset": 0.2},
        "baseModel": BASE,
        "training": {"epochs": 2, "optimizer": {"name": "adam"}, "fineTune": {"layers": 6, "epochs": 2}},
        "resources": {"gpus": 0},
    }
    pod = make_pod(spec, "tuned")
    code, out, err = pod.run()
    assert code == 0, err
    assert "Fine-tuning the last 6 layers of MobileNet with the head" in out
    assert "Epoch 4/4" in out
    result = record_of(pod)["result"]
    files = {item["name"]: item["id"] for item in result["artifacts"]}
    assert "head.weights.h5" not in files, "it goes with a base model that nobody else has"
    path = tmp_path / "model.keras"
    path.write_bytes(
        gridfs.GridFSBucket(storage, "artifacts").open_download_stream(ObjectId(files["model.keras"])).read()
    )
    model = keras.models.load_model(path)
    test = open_dataset(config.parse_spec(spec).dataset, tmp_path, Reporter(io.StringIO()), bool).test
    tested = record_of(pod)["samples"]["test"]
    images = np.stack([test.image(index) for index in range(tested)]).astype(np.float32)
    said = model.predict(images, verbose=0).argmax(axis=1)
    assert float((said == test.labels[:tested]).mean()) == pytest.approx(result["accuracy"], abs=1e-9)
