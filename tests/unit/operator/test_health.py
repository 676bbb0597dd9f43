"""When the operator should be restarted, and what the probes hear."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request

import pytest

from trainingsession_operator import health
from trainingsession_operator.health import WATCH_SECONDS, WORK_SECONDS, Watchdog, why_dead
from trainingsession_operator.metrics import Metrics
from trainingsession_operator.queue import Key, WorkQueue

KEY: Key = ("team-a", "digits")


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class BusyQueue(WorkQueue):
    """A queue with no workers that says how long it has been at KEY."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__(lambda key: None, 0)
        self.seconds = seconds

    def longest_work(self) -> tuple[float, Key | None]:
        return self.seconds, KEY if self.seconds else None


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watchdog(clock) -> Watchdog:
    return Watchdog(clock)


def test_a_status_that_never_comes_back_is_a_dead_watch(watchdog, clock):
    watchdog.wrote(KEY, "10")
    clock.now += WATCH_SECONDS
    assert why_dead(watchdog, BusyQueue()) == ""
    clock.now += 1
    assert why_dead(watchdog, BusyQueue()) == (
        "the watch of sessions is dead: a status of team-a/digits was written 121 s ago and never seen"
    )


@pytest.mark.parametrize("seen", ["10", "11", "9999"])
def test_an_event_of_that_version_or_a_later_one_ends_the_waiting(watchdog, clock, seen):
    watchdog.wrote(KEY, "10")
    watchdog.saw(KEY, seen)
    clock.now += 10 * WATCH_SECONDS
    assert watchdog.silence() == (0.0, None)


def test_an_older_event_does_not(watchdog, clock):
    watchdog.wrote(KEY, "10")
    watchdog.saw(KEY, "9")
    clock.now += 5
    assert watchdog.silence() == (5.0, KEY)


def test_writing_again_does_not_hide_a_watch_that_is_silent(watchdog, clock):
    watchdog.wrote(KEY, "10")
    clock.now += 60
    watchdog.wrote(KEY, "11")
    clock.now += 61
    assert watchdog.silence() == (121.0, KEY)


def test_a_session_that_is_gone_is_not_waited_for(watchdog, clock):
    watchdog.wrote(KEY, "10")
    watchdog.forget(KEY)
    clock.now += 10 * WATCH_SECONDS
    assert watchdog.silence() == (0.0, None)


def test_an_event_that_overtakes_the_answer_to_the_write_is_not_waited_for_again(watchdog, clock):
    watchdog.saw(KEY, "10")
    watchdog.wrote(KEY, "10")
    clock.now += 10 * WATCH_SECONDS
    assert watchdog.silence() == (0.0, None)


def test_nor_is_a_session_whose_deletion_overtakes_it(watchdog, clock):
    watchdog.saw(KEY, "11")
    watchdog.forget(KEY)
    watchdog.wrote(KEY, "10")
    clock.now += 10 * WATCH_SECONDS
    assert watchdog.silence() == (0.0, None)


def test_another_namespaces_watch_is_another_one(watchdog, clock):
    watchdog.saw(("team-b", "digits"), "11")
    watchdog.wrote(KEY, "10")
    clock.now += 5
    assert watchdog.silence() == (5.0, KEY)


@pytest.mark.parametrize(("seen", "ours"), [("9", False), ("10", True), ("11", False)])
def test_the_echo_of_our_own_write_is_known(watchdog, seen, ours):
    assert not watchdog.saw(KEY, "8")
    watchdog.wrote(KEY, "10")
    assert watchdog.saw(KEY, seen) == ours


def test_a_worker_that_hangs_is_named(watchdog):
    assert why_dead(watchdog, BusyQueue(WORK_SECONDS)) == ""
    assert why_dead(watchdog, BusyQueue(WORK_SECONDS + 1)) == "a worker has been at session team-a/digits for 181 s"


def test_a_thread_that_has_ended_is_named(watchdog):
    thread = threading.Thread(target=lambda: None, name="records")
    thread.start()
    thread.join()
    assert why_dead(watchdog, BusyQueue(0), [thread]) == "the thread records has ended; the log says why"
    assert why_dead(watchdog, BusyQueue(0), [threading.main_thread()]) == ""


def test_events_that_the_watch_lost_are_a_reason_to_begin_anew(watchdog):
    assert why_dead(watchdog, BusyQueue(), (), lambda: "the watch lost events") == "the watch lost events"


def test_readiness_says_why_not_and_metrics_are_told_all_the_same():
    reasons = {"now": "MongoDB cannot be used: no primary"}
    metrics = Metrics()
    metrics.mongodb(up=False)
    server = health.serve(0, lambda: reasons["now"], metrics)
    address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{address}/readyz", timeout=10)
        assert (refused.value.code, refused.value.read()) == (503, b"MongoDB cannot be used: no primary\n")
        reasons["now"] = ""
        with urllib.request.urlopen(f"{address}/readyz", timeout=10) as answer:
            assert (answer.status, answer.read()) == (200, b"ready\n")
        with urllib.request.urlopen(f"{address}/metrics", timeout=10) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=")
            assert b"\nmongodb_up 0.0\n" in answer.read()
        with pytest.raises(urllib.error.HTTPError) as unknown:
            urllib.request.urlopen(f"{address}/other", timeout=10)
        assert unknown.value.code == 404
    finally:
        server.shutdown()
        server.server_close()
