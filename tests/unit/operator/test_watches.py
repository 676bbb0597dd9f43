"""When watches that ended with an error are begun anew. That they are is seen beside a real API server, in faults."""

from __future__ import annotations

import logging
import signal

import pytest

from trainingsession_operator.watches import CALM_SECONDS, keep_watching


class Watches:
    """Ends with an error at the given times, then in order; not kopf."""

    def __init__(self, *ends: float) -> None:
        self.ends, self.now, self.begun = list(ends), 0.0, 0

    def watch(self) -> None:
        self.begun += 1
        if self.ends:
            self.now = self.ends.pop(0)
            raise RuntimeError(f"ended at {self.now:.0f}")


@pytest.fixture(autouse=True)
def sigterm():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_an_error_now_and_then_is_told_and_all_begun_anew(caplog):
    watches = Watches(1, 1 + CALM_SECONDS, 500)
    with caplog.at_level(logging.WARNING):
        keep_watching(watches.watch, lambda: watches.now)
    assert watches.begun == 4
    assert "listed and watched anew: ended at 500" in caplog.text


def test_an_error_again_within_a_minute_ends_the_process():
    watches = Watches(1, CALM_SECONDS)
    with pytest.raises(RuntimeError, match="ended at 60"):
        keep_watching(watches.watch, lambda: watches.now)
    assert watches.begun == 2


def test_a_signal_between_two_watches_ends_the_process():
    begun: list[int] = []

    def run() -> None:
        begun.append(1)
        if len(begun) == 1:
            # As asyncio leaves it; the first process of a container would not hear the signal.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            raise RuntimeError
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit):
        keep_watching(run)
    assert len(begun) == 2
