"""The same head with several seeds: each as if trained alone, the first one published, none trained twice."""

from __future__ import annotations

import io
import re
import uuid
from types import SimpleNamespace
from typing import Any

import pytest

from trainingsession_trainer.errors import Stopped
from trainingsession_trainer.records import SessionRecord, create_record
from trainingsession_trainer.repeats import Trained, seeds, summary, train_heads
from trainingsession_trainer.reporting import Reporter
from trainingsession_trainer.spec import Session


class Sink:
    """Takes the progress that the record would get."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def progress(self, phase, progress) -> None:
        self.told.append(progress)


@pytest.fixture
def prepared(make_features):
    parts = {"train": make_features(200), "validation": make_features(60, seed=1), "test": make_features(100, seed=2)}
    summary = SimpleNamespace(key="a-feature-set")
    return SimpleNamespace(class_names=("a", "b", "c"), feature_shape=(2, 2, 9), summary=summary, **parts)


@pytest.fixture
def attempt(database, make_spec, prepared):
    """Run one attempt of a session; gives what was trained, its log and its progress."""

    def run(uid: str, *, stop=lambda: False, **training) -> tuple[Trained | None, str, list[Any]]:
        spec = make_spec(training={"epochs": 3, "optimizer": {"name": "adam"}, **training})
        session = Session("team-a", "digits", uid, spec)
        create_record(database, uid, "team-a", "digits")
        record, log, sink = SessionRecord(database, uid, uuid.uuid4().hex), io.StringIO(), Sink()
        record.claim({})
        reporter = Reporter(log, sink, clock=iter(range(10_000)).__next__)
        reporter.phase("Training")
        try:
            # Nothing is fine-tuned, so that nobody asks for the images.
            trained = train_heads(session, prepared, None, database, record, reporter, stop)
        except Stopped:
            trained = None
        return trained, log.getvalue(), sink.told

    return run


def test_every_seed_gives_what_a_session_of_its_own_gives_and_the_first_is_published(attempt) -> None:
    many, log, progress = attempt("many", seed=7, repeats=3)
    alone = [attempt(f"alone-{seed}", seed=seed)[0] for seed in (7, 8, 9)]
    accuracies = [one.evaluation.accuracy for one in alone]
    assert many.repeats == summary(accuracies)
    assert many.evaluation.accuracy == accuracies[0]
    assert all((one == two).all() for one, two in zip(many.head.get_weights(), alone[0].head.get_weights()))
    assert alone[0].repeats is None
    assert "published is that of seed 7" in log
    epochs = [(told["epoch"], told["epochs"]) for told in progress if "epoch" in told]
    assert epochs[-1] == (9, 9)
    assert epochs == sorted(epochs)


def test_an_attempt_goes_on_within_the_head_that_was_stopped(attempt, database) -> None:
    whole, log, _ = attempt("whole", repeats=3)
    calls = len(re.findall(r"Epoch \d/3", log))
    assert calls == 9
    asked = iter(range(1_000_000))
    # 7 batches of training and 1 of validation an epoch: stopped in the second epoch of the second head.
    first, log, _ = attempt("stopped", repeats=3, stop=lambda: next(asked) > 36)
    assert first is None
    record = database["sessions"].find_one({"_id": "stopped"})
    assert len(record["repeats"]["accuracies"]) == 1
    assert record["checkpoint"]["epoch"] == 1
    second, log, _ = attempt("stopped", repeats=3)
    assert "An earlier attempt has trained 1 of 3 heads" in log
    assert len(re.findall(r"Epoch \d/3", log)) == 9 - 3 - 1
    assert second.repeats == whole.repeats
    # What is left over is the last head's checkpoint, until the result is published.
    assert "is not used" not in log


def test_accuracies_of_other_settings_do_not_count(attempt) -> None:
    attempt("changed", repeats=2)
    _, log, _ = attempt("changed", repeats=2, epochs=2)
    assert "An earlier attempt has trained" not in log


def test_seeds_follow_the_first_and_stay_what_a_seed_can_be() -> None:
    assert seeds(5, 3) == [5, 6, 7]
    assert seeds(2**32 - 1, 2) == [2**32 - 1, 0]
