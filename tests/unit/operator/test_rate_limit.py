"""The limit on requests, on a clock that passes only when a test says so or the limit waits."""

from __future__ import annotations

import threading

import pytest

from trainingsession_operator.rate_limit import LONGEST_REST, RequestLimit

SOON = 20.0


class Time(threading.Event):
    """A clock, and a stop that never comes: to wait for it passes the time."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now

    def wait(self, timeout: float | None = None) -> bool:
        self.now += timeout or 0.0
        return False


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def limit(time) -> RequestLimit:
    return RequestLimit(10, 5, time, time)


def waits(limit: RequestLimit, requests: int) -> list[float]:
    return [round(limit.wait() or 0.0, 3) for _ in range(requests)]


def test_a_burst_goes_at_once_and_then_so_many_a_second(limit):
    assert waits(limit, 8) == [0.0] * 5 + [0.1] * 3


def test_a_quiet_time_gives_the_burst_back_and_never_more(limit, time):
    waits(limit, 8)
    time.now += 0.2
    assert waits(limit, 3) == [0.0, 0.0, 0.1]
    time.now += 3600
    assert waits(limit, 6) == [0.0] * 5 + [0.1]


def test_all_rest_when_the_server_asks_for_it(limit):
    limit.rest(3)
    limit.rest(1)
    assert waits(limit, 2) == [3.0, 0.0]


def test_a_server_that_asks_for_a_day_is_given_half_a_minute(limit):
    limit.rest(86_400)
    assert waits(limit, 1) == [LONGEST_REST]


def test_each_request_has_its_turn_behind_all_that_asked_before(limit, time):
    asked = time.now
    waits(limit, 5)
    turns = []
    for _ in range(4):
        time.now = asked
        turns.append(round(limit.wait() or 0.0, 3))
    assert turns == [0.1, 0.2, 0.3, 0.4]


def test_stopping_ends_all_waiting_and_lets_through_what_need_not_wait():
    stop = threading.Event()
    limit = RequestLimit(0.001, 2, stop)
    assert limit.wait() is not None
    answers: list[float | None] = []
    stop.set()
    assert limit.wait() is not None
    waiting = [threading.Thread(target=lambda: answers.append(limit.wait())) for _ in range(4)]
    for thread in waiting:
        thread.start()
    for thread in waiting:
        thread.join(SOON)
    assert answers == [None] * 4
