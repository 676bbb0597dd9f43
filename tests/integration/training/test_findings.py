"""What a training tells beside its figures, from a real head: read back by what its users read it with."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.util.event_pb2 import Event

from trainingsession_trainer.errors import Stopped
from trainingsession_trainer.evaluation import evaluate
from trainingsession_trainer.exports.model_card import model_card
from trainingsession_trainer.exports.reproducibility import describe_run
from trainingsession_trainer.findings import Subject, room_for_probabilities, write_findings
from trainingsession_trainer.head import build_head, standardize_from
from trainingsession_trainer.repeats import Trained, summary
from trainingsession_trainer.spec import EXPORTS
from trainingsession_trainer.training import fit_head

CLASSES = ("cat", "dög", "<b>bird</b>")


@pytest.fixture(scope="module")
def no_stop():
    return lambda: False


@pytest.fixture(scope="module")
def trained(make_features, make_spec, kept_checkpoints, kept_reporter, no_stop) -> SimpleNamespace:
    """A head that is trained once."""
    parts = {"train": make_features(300), "validation": make_features(60, seed=1), "test": make_features(100, seed=2)}
    spec = make_spec(training={"epochs": 2})
    keras.utils.set_random_seed(0)
    head = build_head(spec.head, (2, 2, 9), 3, standardize_from(parts["train"]))
    history = fit_head(
        head, spec.training, parts["train"], parts["validation"], class_names="abc",
        checkpoints=kept_checkpoints(), reporter=kept_reporter, stop=no_stop,
    )  # fmt: skip
    return SimpleNamespace(parts=parts, spec=spec, head=head, history=history)


@pytest.fixture
def subject(trained, tmp_path: Path) -> Subject:
    parts, head = trained.parts, trained.head
    probabilities = room_for_probabilities(tmp_path, EXPORTS, 100, 3)
    evaluation = evaluate(head, trained.spec.training, parts["test"], probabilities=probabilities)
    digests = {name: [bytes([number]) * 32 for number in range(256)][: len(part)] for name, part in parts.items()}
    digests["train"] = [number.to_bytes(32, "big") for number in range(300)]
    random = np.random.default_rng(0)
    pictures = lambda part, rows: [random.integers(0, 255, (20, 30, 3), np.uint8) for _ in rows]  # noqa: E731
    prepared = SimpleNamespace(class_names=CLASSES, digests=digests, pictures=pictures, **parts)
    return Subject("team-a/digits", prepared, Trained(head, trained.history, evaluation, None, None), probabilities)


def test_all_findings_are_written_and_only_those_asked_for(subject, no_stop, tmp_path) -> None:
    told: list[str] = []
    paths = write_findings(tmp_path, subject, EXPORTS, told.append, no_stop)
    assert told == []
    assert [path.name for path in paths if path.suffix == ".png"] == [
        "curves.png", "confusion.png", "worst_mistakes.png", "doubtful_labels.png", "learning_curve.png",
    ]  # fmt: skip
    assert all(path.stat().st_size > 0 for path in paths)
    assert write_findings(tmp_path, subject, ("keras", "onnx"), told.append, no_stop) == []


def test_predictions_are_those_of_the_head_with_the_images_digests(subject, no_stop, tmp_path) -> None:
    (path,) = write_findings(tmp_path, subject, ["predictions"], print, no_stop)
    test = subject.prepared.test
    with np.load(path, allow_pickle=False) as found:
        wanted = subject.trained.head.predict(test.features.astype(np.float32), verbose=0)
        np.testing.assert_allclose(found["probabilities"], wanted, rtol=1e-5)
        assert (found["predicted"] == wanted.argmax(axis=1)).all()
        assert (found["predicted"] == found["labels"]).mean() == subject.trained.evaluation.accuracy
        assert [row.tobytes() for row in found["digests"]] == subject.prepared.digests["test"]
        assert tuple(found["class_names"]) == CLASSES


def test_tensorboards_reader_finds_every_figure_of_every_epoch(subject, no_stop, tmp_path) -> None:
    (path,) = write_findings(tmp_path, subject, ["tensorBoard"], print, no_stop)
    events = [Event.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(path))]
    assert events[0].file_version == "brain.Event:2"
    found = {(event.step, value.tag): value.simple_value for event in events[1:] for value in event.summary.value}
    for epoch in subject.trained.history.epochs:
        assert found[epoch.number, "validation/loss"] == pytest.approx(epoch.figures["val_loss"])
        assert found[epoch.number, "train/accuracy"] == pytest.approx(epoch.figures["accuracy"])
        assert found[epoch.number, "learning_rate"] == pytest.approx(epoch.learning_rate)


def test_the_worst_mistakes_are_the_surest_ones(subject, no_stop, tmp_path) -> None:
    write_findings(tmp_path, subject, ["pictures"], print, no_stop)
    mistakes = json.loads((tmp_path / "worst_mistakes.json").read_text("utf-8"))
    labels, given = subject.prepared.test.labels, subject.probabilities
    wrong = [row for row in range(100) if given[row].argmax() != labels[row]]
    surest = sorted(wrong, key=lambda row: (-given[row].max(), row))[:25]
    assert [one["image"] for one in mistakes] == surest
    assert all(one["class"] == CLASSES[labels[one["image"]]] != one["takenFor"] for one in mistakes)


def test_without_images_at_hand_there_are_lists_and_no_pictures_of_images(subject, no_stop, tmp_path) -> None:
    subject.prepared.pictures = lambda part, rows: [None] * len(rows)
    names = {path.name for path in write_findings(tmp_path, subject, EXPORTS, print, no_stop)}
    assert {"worst_mistakes.json", "doubtful_labels.json"} < names
    assert not {"worst_mistakes.png", "doubtful_labels.png"} & names


def test_a_finding_that_cannot_be_made_costs_only_itself(subject, no_stop, tmp_path) -> None:
    def broken(part, rows):
        raise OSError("no such image")

    subject.prepared.pictures = broken
    told: list[str] = []
    names = {path.name for path in write_findings(tmp_path, subject, EXPORTS, told.append, no_stop)}
    assert {"predictions.npz", "learning_curve.png"} < names
    assert told[0] == ("The export pictures could not be made (OSError: no such image); the session goes on without")


def test_a_stop_is_heard_between_findings(subject, tmp_path) -> None:
    with pytest.raises(Stopped):
        write_findings(tmp_path, subject, EXPORTS, print, lambda: True)


TUNED = {"baseModel": {"name": "MobileNet"}, "training": {"fineTune": {"layers": 20}}}


def test_the_card_says_what_the_model_is_worth_and_no_name_in_it_is_markup(subject) -> None:
    spec = {"dataset": {"uri": "https://example.org/a|b.tar"}, "baseModel": {"name": "MobileNet"}}
    record = describe_run(spec, "", {}, {"train": 300, "validation": 60, "test": 100}, [0, 1])
    trained = subject.trained
    many = Trained(trained.head, trained.history, trained.evaluation, summary([0.5, 0.75]), trained.checkpoints)
    card = model_card("team-a/digits", record, CLASSES, [100, 100, 100], many, ["curves.png"])
    low, high = trained.evaluation.interval
    assert f"{trained.evaluation.accuracy:.4f} (95 % interval {low:.4f} to {high:.4f})" in card
    assert "| mean accuracy of 2 seeds | 0.6250, deviation 0.1768 |" in card
    assert "\\<b\\>bird" in card
    assert "a\\|b.tar" in card
    assert "![Loss and accuracy](curves.png)" in card
    assert "worst_mistakes" not in card
    assert "a head trained on features of a frozen MobileNet with weights imagenet." in card
    tuned = model_card("", {**record, "spec": TUNED}, CLASSES, [100, 100, 100], many, [])
    assert "the last 20 layers of the base model trained with it, on MobileNet with weights imagenet." in tuned
    assert "frozen" not in tuned
