"""What the session tells while it runs: lines for people on the console, progress for the operator in the record."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol, TextIO

from .errors import StorageError

RECORD_SECONDS = 3.0
FAILED_RECORD_SECONDS = 30.0
CONSOLE_SECONDS = 10.0
TAIL_LINES = 2000
PHASES = ("Extracting", "Training", "Publishing")


class ProgressSink(Protocol):
    """Where progress goes besides the console; the record in real life."""

    def progress(self, phase: str, progress: Mapping[str, Any]) -> None:
        """Store the phase and its progress; raises StorageError, and Stopped when the attempt is replaced."""


class Tracker(Protocol):
    """Who is told of figures and files besides; must return at once and raise nothing."""

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:
        """Take an epoch's figures."""

    def result(self, figures: Mapping[str, float]) -> None:
        """Take the session's last figures."""

    def files(self, paths: Iterable[Path]) -> None:
        """Take the published artifacts; they are there until the session is over."""


class Reporter:
    """The one voice of a session. Lines are whole and plain, so that `kubectl logs -f` can be read and searched."""

    def __init__(
        self,
        out: TextIO,
        sink: ProgressSink | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._out = out
        self._sink = sink
        self._clock = clock
        self._now = now
        self._phase = ""
        self._next_record = float("-inf")
        self._last_line: dict[str, float] = {}
        self._sink_failed = False
        self._done: dict[str, int] = {}
        self._epochs: Mapping[str, Any] = {}
        self._repeat, self._repeats = 0, 1
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._tracker: Tracker | None = None

    def attach(self, sink: ProgressSink) -> None:
        """Write progress to `sink` from now on."""
        self._sink = sink

    def track(self, tracker: Tracker) -> None:
        """Tell figures and files to `tracker` too from now on."""
        self._tracker = tracker

    def info(self, text: str) -> None:
        """Write one line. Control characters of user-supplied text are shown, not sent to the terminal."""
        clean = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
        line = f"{self._now():%Y-%m-%dT%H:%M:%SZ} {clean}"
        self._tail.append(line + "\n")
        self._write(line)

    def tail(self) -> str:
        """Give the last lines, at most TAIL_LINES."""
        return "".join(self._tail)

    def phase(self, name: str) -> None:
        """Enter a phase; its progress starts at nothing."""
        if name not in PHASES:
            raise ValueError(f"unknown phase {name}")
        self._phase = name
        # Publishing follows the last epoch at once; how far the epochs came stays true.
        self._record(self._epochs if name == "Publishing" else {"percent": 0}, force=True)

    def extraction(
        self,
        split: str,
        done: int,
        total: int,
        reused: int = 0,
        rate: float | None = None,
        *,
        overall: tuple[int, int] | None = None,
    ) -> None:
        """Tell how far a split's features are, in images; may be called as often as wished.

        `done` counts what is in the store by now, `reused` of them computed by an earlier session; `rate` is in
        images per second of computation; `overall` is (done, total) over all splits, where it is known.
        """
        remaining = (total - done) / rate if rate else None
        finished = done >= total and self._done.get(split) != done
        self._done[split] = done
        if finished or (done < total and self._line_is_due(split)):
            words = [f"Features of {split} images: {done:,} of {total:,}"]
            if reused:
                words.append(f"{reused:,} reused")
            if rate:
                words.append(f"{rate:.0f} images/s")
            if remaining and done < total:
                words.append(f"{duration(remaining)} remaining")
            self.info(", ".join(words))
        all_done, all_total = overall or (done, total)
        seconds = (all_total - all_done) / rate if rate else None
        self._record({"percent": percent(all_done, all_total), "remainingSeconds": seconds, "imagesPerSecond": rate})

    def repeat(self, done: int, total: int) -> None:
        """Say how many of `total` trainings are done; the epochs that follow count over all of them."""
        self._repeat, self._repeats = done, total

    def epoch(
        self,
        epoch: int,
        epochs: int,
        figures: Mapping[str, float],
        seconds: float,
        images: int,
        *,
        learning_rate: float | None = None,
    ) -> None:
        """Tell an epoch's figures; epochs count from 1, `images` were trained on in `seconds`.

        `learning_rate` is for log and tracker: the status rounds figures to 4 decimals.
        """
        overall, total = self._repeat * epochs + epoch, self._repeats * epochs
        remaining = seconds * (total - overall)
        width = len(str(epochs))
        words = [f"Epoch {epoch:>{width}}/{epochs}"]
        words += _figures(figures)
        if learning_rate is not None:
            # Without an exponent, for Katib.
            words.append(f"learning_rate={Decimal(f'{learning_rate:.3g}'):f}")
        words.append(f"{seconds:.1f} s")
        if remaining >= 1:
            words.append(f"{duration(remaining)} remaining")
        self.info("  ".join(words))
        self._epochs = {
            "epoch": overall,
            "epochs": total,
            "percent": percent(overall, total),
            "remainingSeconds": remaining,
            "loss": figures.get("loss"),
            "imagesPerSecond": images / seconds if seconds > 0 else None,
            "metrics": [{"name": name, "value": value} for name, value in figures.items()],
        }
        if self._tracker is not None:
            told = {} if learning_rate is None else {"learning_rate": learning_rate}
            self._tracker.epoch(overall, {**figures, **told})
        self._record(self._epochs, force=overall == total)

    def result(self, figures: Mapping[str, float]) -> None:
        """Tell the session's last figures, as Katib's metrics collector reads them."""
        self.info("  ".join(["Result", *_figures(figures)]))
        if self._tracker is not None:
            self._tracker.result(figures)

    def published(self, paths: Iterable[Path]) -> None:
        """Tell that these files are published."""
        if self._tracker is not None:
            self._tracker.files(paths)

    def _write(self, line: str) -> None:
        self._out.write(line + "\n")
        self._out.flush()

    def _line_is_due(self, kind: str) -> bool:
        now = self._clock()
        if now - self._last_line.get(kind, float("-inf")) < CONSOLE_SECONDS:
            return False
        self._last_line[kind] = now
        return True

    def _record(self, progress: Mapping[str, Any], *, force: bool = False) -> None:
        if self._sink is None or (not force and self._clock() < self._next_record):
            return
        pause = RECORD_SECONDS
        try:
            self._sink.progress(self._phase, progress)
        except StorageError as error:
            # Progress is a courtesy: what counts is published at the end, and that waits for the storage.
            if not self._sink_failed:
                self.info(f"Progress is not visible for now: {error}")
            self._sink_failed = True
            pause = FAILED_RECORD_SECONDS
        else:
            self._sink_failed = False
        # Counted from the end of the attempt, which may have waited for a storage that is away.
        self._next_record = self._clock() + pause


def _figures(figures: Mapping[str, float]) -> list[str]:
    """Write figures as Katib's StdOut collector finds them by its default filter, which long knew no exponents."""
    return [f"{name}={value:.4f}" for name, value in figures.items()]


def percent(done: int, total: int) -> int:
    """Whole percent, 100 only when all is done."""
    return 100 if done >= total else int(100 * done / total)


def duration(seconds: float) -> str:
    """Seconds as people say them: 8 s, 3 min 20 s, 2 h 05 min."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
