"""When watches that ended with an error are begun anew. That they are is seen beside a real API server, in faults."""

from __future__ import annotations

import logging
import signal

import pytest

from trainingsession_operator.errors import StartError
from trainingsession_operator.watches import CALM_SECONDS, NOT_DEFINED, keep_watching


class Watches:
    """Ends with an error at the given times, then in order; not kopf."""

    def __init__(self, *ends: float) -> None:
        self.ends, self.now, self.begun = list(ends), 0.0, 0

    def watch(self) -> None:
        self.begun += 1
        if self.ends:
            self.now = self.ends.pop(0)
            raise RuntimeError(f"ended at {self.now:.0f}")


class NotFoundError(Exception):
    """What kopf raises where a list or a watch is answered so; it does not export its class."""

    status = 404


@pytest.fixture(autouse=True)
def sigterm():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_an_error_now_and_then_is_told_and_all_begun_anew(caplog):
    watches = Watches(1, 1 + CALM_SECONDS, 500)
    with caplog.at_level(logging.WARNING):
        keep_watching(watches.watch, clock=lambda: watches.now)
    assert watches.begun == 4
    assert "listed and watched anew: ended at 500" in caplog.text


def test_an_error_again_within_a_minute_ends_the_process():
    watches = Watches(1, CALM_SECONDS)
    with pytest.raises(RuntimeError, match="ended at 60"):
        keep_watching(watches.watch, clock=lambda: watches.now)
    assert watches.begun == 2


def test_where_the_definition_is_gone_it_ends_with_a_sentence_instead_of_beginning_anew():
    watches = Watches(1)

    def check() -> None:
        raise StartError(NOT_DEFINED)

    with pytest.raises(StartError, match=r"the definition \S+ is not served; install the chart"):
        keep_watching(watches.watch, check, lambda: watches.now)
    assert watches.begun == 1


def test_a_definition_that_is_still_told_of_and_not_served_is_a_sentence_at_the_second_error():
    begun: list[int] = []

    def run() -> None:
        begun.append(1)
        raise NotFoundError

    with pytest.raises(StartError, match="is not served"):
        keep_watching(run)
    assert len(begun) == 2


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
