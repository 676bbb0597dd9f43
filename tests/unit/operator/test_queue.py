"""The work queue, with real threads: every wait is for an event, none for a time to pass."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator

import pytest

from trainingsession_operator.errors import ApiError, ConflictError, StorageUnavailableError
from trainingsession_operator.queue import (
    AWAY_PAUSE,
    CONFLICT_PAUSE,
    FIRST_PAUSE,
    LONGEST_PAUSE,
    Key,
    WorkQueue,
    _Failing,
)

SOON = 20.0
"""Seconds within which an event must come; a test that passes never waits for them."""
KEY: Key = ("team-a", "digits")
OTHER: Key = ("team-a", "flowers")

Start = Callable[[Callable[[Key], float | None], int], WorkQueue]


@pytest.fixture
def start() -> Iterator[Start]:
    queues = []

    def make(work: Callable[[Key], float | None], workers: int = 2) -> WorkQueue:
        queue = WorkQueue(work, workers)
        queues.append(queue)
        queue.start()
        return queue

    yield make
    for queue in queues:
        assert queue.stop(SOON)


class Gate:
    """Work that says when it has begun and ends when it is let."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.let = threading.Semaphore(0)
        self.worked: list[Key] = []

    def __call__(self, key: Key) -> float | None:
        self.worked.append(key)
        self.begun.release()
        assert self.let.acquire(timeout=SOON)
        return None


def test_a_key_that_is_added_while_it_is_worked_on_is_worked_on_once_more_by_nobody_else(start):
    gate = Gate()
    queue = start(gate, 2)
    queue.add(KEY)
    assert gate.begun.acquire(timeout=SOON)
    for _ in range(5):
        queue.add(KEY)
    queue.add(OTHER)
    assert gate.begun.acquire(timeout=SOON), "the second worker is free for another key"
    assert gate.worked == [KEY, OTHER]
    gate.let.release(2)
    assert gate.begun.acquire(timeout=SOON)
    gate.let.release()
    assert queue.stop(SOON)
    assert gate.worked == [KEY, OTHER, KEY]
    assert len(queue) == 0


def test_one_key_is_never_worked_on_by_two(start):
    lock, inside, done = threading.Lock(), set(), threading.Semaphore(0)

    def work(key: Key) -> None:
        with lock:
            assert key not in inside, "two workers at one key"
            inside.add(key)
        with lock:
            inside.remove(key)
        done.release()

    queue = start(work, 8)
    keys = [("team-a", str(n)) for n in range(5)]
    for _ in range(100):
        for key in keys:
            queue.add(key)
    for _ in keys:
        assert done.acquire(timeout=SOON)


def test_a_key_added_many_times_before_it_is_due_is_worked_on_once(start):
    gate = Gate()
    queue = WorkQueue(gate, 1)
    for _ in range(10):
        queue.add(KEY)
    queue.add(OTHER, 0.001)
    assert len(queue) == 2
    queue.start()
    gate.let.release(2)
    for _ in range(2):
        assert gate.begun.acquire(timeout=SOON)
    assert queue.stop(SOON)
    assert gate.worked == [KEY, OTHER]


def test_an_earlier_time_replaces_a_later_one_and_not_the_other_way(start):
    gate = Gate()
    queue = start(gate, 1)
    queue.add(KEY, 3600)
    queue.add(KEY)
    assert gate.begun.acquire(timeout=SOON)
    gate.let.release()
    queue.add(OTHER)
    assert gate.begun.acquire(timeout=SOON)
    queue.add(KEY)
    queue.add(KEY, 3600)
    gate.let.release(2)
    assert gate.begun.acquire(timeout=SOON)


def test_work_is_done_again_after_the_seconds_that_it_returns(start):
    done = threading.Semaphore(0)
    answers = iter([0.01, 0.01, None])

    def work(key: Key) -> float | None:
        done.release()
        return next(answers)

    queue = start(work, 2)
    queue.add(KEY)
    for _ in range(3):
        assert done.acquire(timeout=SOON)
    assert queue.stop(SOON)
    assert len(queue) == 0


def test_a_conflict_is_looked_at_again_without_a_word(start, caplog):
    done = threading.Event()
    failures = iter([ConflictError("changed", 409)])

    def work(key: Key) -> None:
        for error in failures:
            raise error
        done.set()

    with caplog.at_level(logging.WARNING):
        start(work, 1).add(KEY)
        assert done.wait(SOON)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("error", "said", "traceback"),
    [
        (StorageUnavailableError("it is away"), "session team-a/digits: it is away; trying again in 1 s", False),
        (KeyError("oops"), "session team-a/digits: unexpected failure; trying again in 1 s", True),
    ],
)  # fmt: skip
def test_a_failure_is_logged_and_tried_again(start, caplog, error, said, traceback):
    done = threading.Event()
    failures = iter([error])

    def work(key: Key) -> None:
        for found in failures:
            raise found
        done.set()

    with caplog.at_level(logging.WARNING):
        start(work, 1).add(KEY)
        assert done.wait(SOON)
    assert [record.getMessage() for record in caplog.records] == [said]
    assert bool(caplog.records[0].exc_info) == traceback


@pytest.mark.parametrize(
    ("error", "longest"),
    [
        (KeyError("a bug"), LONGEST_PAUSE),
        (ApiError("this session is refused", 403), LONGEST_PAUSE),
        (ApiError("no answer"), AWAY_PAUSE),
        (ApiError("busy", 429), AWAY_PAUSE),
        (ApiError("etcd is away", 503), AWAY_PAUSE),
        (StorageUnavailableError("away"), AWAY_PAUSE),
    ],
)
def test_pauses_grow_up_to_a_limit_and_begin_anew_after_success(error, longest):
    outcomes: list[Exception | None] = []

    def work(key: Key) -> float | None:
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome
        return None

    queue = WorkQueue(work, 1)
    outcomes += [error] * 12
    pauses = [queue._attempt(KEY) for _ in range(12)]
    assert pauses[:4] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE, 8 * FIRST_PAUSE]
    assert pauses[-1] == longest
    state = queue.state()
    assert state.failing == 1
    assert state.longest_failing_seconds > 0
    outcomes += [None, error]
    assert queue._attempt(KEY) is None
    assert queue.state().failing == 0
    assert queue._attempt(KEY) == FIRST_PAUSE


def test_conflicts_that_do_not_end_are_told_and_come_ever_less_often(caplog):
    def work(key: Key) -> None:
        raise ConflictError("changed", 409)

    queue = WorkQueue(work, 1)
    with caplog.at_level(logging.WARNING):
        pauses = [queue._attempt(KEY) for _ in range(5)]
    assert pauses == [CONFLICT_PAUSE * 2**n for n in range(5)]
    assert caplog.messages == ["session team-a/digits: changed; trying again in 1.6 s"]


def poisoned(outcome: dict[str, Exception | None], worked: threading.Semaphore) -> Callable[[Key], None]:
    """Work that fails for KEY as long as `outcome` says so."""

    def work(key: Key) -> None:
        if key == KEY:
            worked.release()
            if outcome["error"] is not None:
                raise outcome["error"]

    return work


def test_a_poisoned_key_rests_whatever_happens_around_it_and_the_others_are_worked_on(start):
    worked = threading.Semaphore(0)
    others = threading.Semaphore(0)
    failing = poisoned({"error": KeyError("oops")}, worked)

    def work(key: Key) -> None:
        others.release() if key == OTHER else failing(key)

    queue = start(work, 1)
    queue._failing[KEY] = _Failing(20, 0.0, 0.0)
    queue.add(KEY)
    assert worked.acquire(timeout=SOON)
    for _ in range(50):
        # Its own half-done work, its pods and its record go on telling of it.
        queue.add(KEY)
        queue.add(OTHER)
        assert others.acquire(timeout=SOON)
    assert not worked.acquire(blocking=False)
    assert queue.state().failing == 1
    assert len(queue) == 1


def test_a_poisoned_key_that_may_be_mended_is_worked_on_at_once(start):
    worked = threading.Semaphore(0)
    outcome: dict[str, Exception | None] = {"error": KeyError("oops")}
    queue = start(poisoned(outcome, worked), 1)
    queue._failing[KEY] = _Failing(20, 0.0, float("inf"))
    queue.add(KEY, mended=True)
    assert worked.acquire(timeout=SOON)
    outcome["error"] = None
    queue.add(KEY, mended=True)
    assert worked.acquire(timeout=SOON)
    assert queue.stop(SOON)
    assert queue.state().failing == 0


def test_what_may_mend_a_key_while_its_work_fails_is_not_overlooked(start):
    begun, let = threading.Semaphore(0), threading.Semaphore(0)

    def work(key: Key) -> None:
        begun.release()
        assert let.acquire(timeout=SOON)
        raise StorageUnavailableError("away")

    queue = start(work, 1)
    queue._failing[KEY] = _Failing(20, 0.0, 0.0)
    queue.add(KEY)
    assert begun.acquire(timeout=SOON)
    queue.add(KEY, mended=True)
    let.release()
    assert begun.acquire(timeout=SOON), "its pause would be minutes"
    let.release()


def test_times_that_were_replaced_do_not_pile_up():
    queue = WorkQueue(lambda key: None, 0)
    for n in range(10_000):
        queue.add((KEY[0], str(n % 10)), 1e6 - n)
    assert len(queue) == 10
    assert len(queue._heap) < 200


def test_stop_waits_for_running_work_and_begins_no_more(start):
    gate = Gate()
    queue = start(gate, 1)
    queue.add(KEY)
    assert gate.begun.acquire(timeout=SOON)
    queue.add(OTHER)
    assert not queue.stop(0.0), "work is still going on"
    gate.let.release(2)
    assert queue.stop(SOON)
    assert gate.worked == [KEY]


def test_the_longest_work_is_known(start):
    gate = Gate()
    queue = start(gate, 2)
    assert queue.longest_work() == (0.0, None)
    queue.add(KEY)
    assert gate.begun.acquire(timeout=SOON)
    queue.add(OTHER)
    assert gate.begun.acquire(timeout=SOON)
    seconds, key = queue.longest_work()
    assert key == KEY
    assert seconds > 0
    gate.let.release(2)
