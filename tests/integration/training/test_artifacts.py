"""The exported files: what they hold, and that the complete model needs nothing but Keras to give the accuracy."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from trainingsession_trainer.artifacts import metrics_text, write_artifacts
from trainingsession_trainer.batches import LabelledFeatures
from trainingsession_trainer.evaluation import Tally, evaluate
from trainingsession_trainer.head import build_head, standardize_from
from trainingsession_trainer.training import fit_head

CLASSES = ["cat", "dög", "bird"]
SCORE = """
import sys
import keras, numpy as np
model = keras.saving.load_model(sys.argv[1], safe_mode=True)
data = np.load(sys.argv[2], allow_pickle=False)
predicted = model.predict(data["images"], verbose=0, batch_size=64).argmax(axis=1)
print("score", float((predicted == data["labels"]).mean()), model.compiled)
"""


class TinyBase:
    """Stands for a base model: raw pixels to features by a fixed random convolution."""

    def __init__(self) -> None:
        keras.utils.set_random_seed(5)
        pixels = keras.Input((8, 8, 3), name="pixels")
        scaled = keras.layers.Rescaling(1 / 255)(pixels)
        self.model = keras.Model(pixels, keras.layers.Conv2D(12, 4, strides=2, activation="relu")(scaled))

    def pixels_model(self) -> keras.Model:
        return self.model


@pytest.fixture(scope="module")
def images() -> SimpleNamespace:
    """Noisy 8x8 images whose class is their colour."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 3, 500).astype(np.int32)
    pixels = rng.integers(0, 200, (500, 8, 8, 3)) + 20 * np.eye(3, dtype=int)[labels][:, None, None, :]
    return SimpleNamespace(pixels=pixels.clip(0, 255).astype(np.uint8), labels=labels)


def test_the_complete_model_scores_the_reported_accuracy_in_a_fresh_process(
    images, make_spec, new_checkpoints, reporter, tmp_path: Path
) -> None:
    base = TinyBase()
    features = base.model.predict(images.pixels.astype(np.float32), verbose=0).astype(np.float16)
    part = lambda rows: LabelledFeatures(features[rows], images.labels[rows])  # noqa: E731
    train, validation, test = part(slice(0, 250)), part(slice(250, 300)), part(slice(300, 500))
    spec = make_spec(training={"epochs": 12, "optimizer": {"name": "adam", "config": {"learning_rate": 0.01}}})
    head = build_head(spec.head, features.shape[1:], 3, standardize_from(train))
    history = fit_head(
        head,
        spec.training,
        train,
        validation,
        class_names=CLASSES,
        checkpoints=new_checkpoints(),
        reporter=reporter,
        stop=lambda: False,
    )
    evaluation = evaluate(head, spec.training, test)
    assert 0.6 < evaluation.accuracy < 1.0, "of no use as evidence when every model scores it"

    paths = write_artifacts(
        tmp_path,
        head=head,
        base=lambda: base,
        class_names=CLASSES,
        history=history,
        evaluation=evaluation,
        exports=("keras",),
        say=reporter.info,
    )

    assert [path.name for path in paths] == [
        "architecture.json",
        "head.weights.h5",
        "class_names.json",
        "model.keras",
        "training_log.csv",
        "metrics.json",
    ]
    np.savez(tmp_path / "test.npz", images=images.pixels[300:], labels=images.labels[300:])
    fresh = subprocess.run(
        [sys.executable, "-c", SCORE, tmp_path / "model.keras", tmp_path / "test.npz"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"score {evaluation.accuracy} False" in fresh.stdout

    rebuilt = keras.models.model_from_json((tmp_path / "architecture.json").read_text("utf-8"))
    rebuilt.load_weights(tmp_path / "head.weights.h5")
    assert evaluate(rebuilt, spec.training, test).accuracy == evaluation.accuracy

    assert json.loads((tmp_path / "class_names.json").read_text("utf-8")) == CLASSES
    metrics = json.loads((tmp_path / "metrics.json").read_text("utf-8"))
    assert metrics["accuracy"] == evaluation.accuracy
    assert sum(map(sum, metrics["confusion"])) == 200
    with (tmp_path / "training_log.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == list(range(1, 13))
    assert float(rows[3]["val_loss"]) == history.epochs[3].figures["val_loss"]
    assert {row["learning_rate"] for row in rows} == {"0.01"}
    without = write_artifacts(
        tmp_path,
        head=head,
        base=lambda: pytest.fail("no export needs the base model"),
        class_names=CLASSES,
        history=history,
        evaluation=evaluation,
        exports=("predictions", "pictures"),
        say=reporter.info,
    )
    assert without == [path for path in paths if path.name != "model.keras"]
    # The optimizer's state would make the file three times as large.
    weights = sum(weight.nbytes for weight in head.get_weights())
    assert (tmp_path / "head.weights.h5").stat().st_size < 2 * weights + 50_000


@pytest.mark.parametrize(("classes", "whole"), [(300, True), (2000, False)])
def test_the_confusion_of_many_classes_takes_no_more_than_there_are_images(classes, whole) -> None:
    labels = np.arange(400, dtype=np.int32) % classes
    named = np.where(np.arange(400) < 100, (labels + 1) % classes, labels)
    tally = Tally(classes)
    tally.add(np.eye(classes, dtype=np.float32)[named], labels)
    evaluation = tally.evaluation(0.5, 0)
    text = metrics_text([f"class {number}" for number in range(classes)], evaluation, {"loss": 0.5})
    document = json.loads(text)
    assert len(text) < 600_000
    assert [key in document for key in ("confusion", "confusion_cells")] == [whole, not whole]
    confusion = np.zeros((classes, classes), int)
    for row, column, images in document.get("confusion_cells", ()):
        confusion[row, column] = images
    np.testing.assert_array_equal(document.get("confusion", confusion), evaluation.confusion)
