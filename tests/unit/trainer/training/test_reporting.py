"""Lines for people and progress for the operator: plain, throttled, and never in the way of the training."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pytest

from trainingsession_trainer.errors import Stopped, StorageError
from trainingsession_trainer.reporting import TAIL_LINES, Reporter, duration, percent

NOON = datetime(2030, 1, 2, 12, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Sink:
    """Remembers; fails as long as `error` is set."""

    def __init__(self) -> None:
        self.written: list[tuple[str, dict[str, object]]] = []
        self.error: Exception | None = None

    def progress(self, phase, progress) -> None:
        if self.error:
            raise self.error
        self.written.append((phase, dict(progress)))


@pytest.fixture
def parts():
    out, sink, clock = io.StringIO(), Sink(), Clock()
    return Reporter(out, sink, clock=clock, now=lambda: NOON), out, sink, clock


def test_a_line_has_a_time_and_no_control_characters(parts) -> None:
    reporter, out, _, _ = parts
    reporter.info("class \x1b[31mred\r\nnext é")
    assert out.getvalue() == "2030-01-02T12:00:00Z class \\x1b[31mred\\r\\nnext é\n"


def test_the_tail_of_the_log_is_what_was_written_last(parts) -> None:
    reporter, out, _, _ = parts
    reporter.info("first")
    assert reporter.tail() == out.getvalue()
    for number in range(TAIL_LINES):
        reporter.info(f"line {number}")
    assert reporter.tail() == "".join(out.getvalue().splitlines(keepends=True)[1:])


def test_epochs_of_several_trainings_are_counted_together(parts) -> None:
    reporter, out, sink, _ = parts
    reporter.repeat(2, 3)
    reporter.epoch(20, 20, {"loss": 0.5}, 4.0, 1200)
    _, progress = sink.written[-1]
    assert (progress["epoch"], progress["epochs"], progress["percent"]) == (60, 60, 100)
    reporter.repeat(1, 3)
    reporter.epoch(10, 20, {"loss": 0.5}, 4.0, 1200)
    assert "Epoch 10/20" in out.getvalue()
    assert out.getvalue().splitlines()[-1].endswith("2 min 00 s remaining")


def test_an_epoch_line_says_figures_and_what_remains(parts) -> None:
    reporter, out, sink, _ = parts
    reporter.phase("Training")
    reporter.epoch(7, 20, {"loss": 0.5, "accuracy": 0.75, "val_loss": 0.6, "val_accuracy": 0.7}, 4.0, 1200)
    assert out.getvalue() == (
        "2030-01-02T12:00:00Z Epoch  7/20  loss=0.5000  accuracy=0.7500  val_loss=0.6000  val_accuracy=0.7000"
        "  4.0 s  52 s remaining\n"
    )
    assert sink.written == [("Training", {"percent": 0})]


def test_a_learning_rate_that_changes_is_in_the_line_and_not_in_the_status(parts) -> None:
    reporter, out, sink, _ = parts
    reporter.phase("Training")
    reporter.epoch(20, 20, {"loss": 0.5}, 4.0, 1200, learning_rate=1.23456e-5)
    assert out.getvalue() == "2030-01-02T12:00:00Z Epoch 20/20  loss=0.5000  learning_rate=0.0000123  4.0 s\n"
    assert sink.written[-1][1]["metrics"] == [{"name": "loss", "value": 0.5}]


def test_the_record_is_written_every_few_seconds_and_at_the_end(parts) -> None:
    reporter, _, sink, clock = parts
    reporter.phase("Training")
    for epoch in range(1, 9):
        clock.seconds += 1
        reporter.epoch(epoch, 8, {"loss": 1.0 / epoch}, 1.0, 100)
    assert [progress.get("epoch") for _, progress in sink.written] == [None, 3, 6, 8]
    assert sink.written[-1][1] == {
        "epoch": 8,
        "epochs": 8,
        "percent": 100,
        "remainingSeconds": 0.0,
        "loss": 0.125,
        "imagesPerSecond": 100.0,
        "metrics": [{"name": "loss", "value": 0.125}],
    }


def test_extraction_lines_come_every_ten_seconds_and_at_the_end(parts) -> None:
    reporter, out, sink, clock = parts
    reporter.phase("Extracting")
    for done in (*range(0, 1001, 100), 1000):  # the end is told twice and said once
        clock.seconds += 4
        reporter.extraction("train", done, 1000, 50, 25.0, overall=(done, 1250))
    lines = [line.split("Z ", 1)[1] for line in out.getvalue().splitlines()]
    assert lines == [
        "Features of train images: 0 of 1,000, 50 reused, 25 images/s, 40 s remaining",
        "Features of train images: 300 of 1,000, 50 reused, 25 images/s, 28 s remaining",
        "Features of train images: 600 of 1,000, 50 reused, 25 images/s, 16 s remaining",
        "Features of train images: 900 of 1,000, 50 reused, 25 images/s, 4 s remaining",
        "Features of train images: 1,000 of 1,000, 50 reused, 25 images/s",
    ]
    assert sink.written[-1] == ("Extracting", {"percent": 80, "remainingSeconds": 10.0, "imagesPerSecond": 25.0})


def test_a_storage_that_is_away_does_not_end_the_training_and_is_told_once(parts) -> None:
    reporter, out, sink, clock = parts
    sink.error = StorageError("Could not store the progress.")
    reporter.phase("Training")
    clock.seconds += 40
    reporter.epoch(1, 3, {"loss": 1.0}, 1.0, 10)
    sink.error = None
    clock.seconds += 40
    reporter.epoch(2, 3, {"loss": 1.0}, 1.0, 10)
    assert out.getvalue().count("Progress is not visible for now: Could not store the progress.") == 1
    assert [progress.get("epoch") for _, progress in sink.written] == [2]


def test_after_a_failure_the_storage_is_left_alone_for_a_while(parts) -> None:
    reporter, _, sink, clock = parts
    sink.error = StorageError("Could not store the progress.")
    reporter.phase("Training")
    sink.error = None
    for epoch in range(1, 10):
        clock.seconds += 4
        reporter.epoch(epoch, 10, {"loss": 1.0}, 1.0, 10)
    assert [progress.get("epoch") for _, progress in sink.written] == [8, 9]


def test_a_replaced_attempt_ends(parts) -> None:
    reporter, _, sink, _ = parts
    sink.error = Stopped("Replaced.")
    with pytest.raises(Stopped):
        reporter.phase("Training")


def test_percent_reaches_the_end_only_at_the_end() -> None:
    assert [percent(0, 3), percent(1, 3), percent(999, 1000), percent(3, 3), percent(0, 0)] == [0, 33, 99, 100, 100]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59.4, "59 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (-1, "0 s")]
)
def test_durations_are_what_people_say(seconds: float, words: str) -> None:
    assert duration(seconds) == words
