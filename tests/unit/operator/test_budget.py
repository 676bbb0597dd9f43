"""A budget over all keys: its pace, what it lets through at once, and that it is fair."""

from __future__ import annotations

import pytest

from trainingsession_operator.budget import Budget
from trainingsession_operator.main import progress_pause


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_few_at_once_and_then_the_pace():
    clock = Clock()
    budget = Budget(per_second=2, burst=3, clock=clock)
    assert [budget.wait(key) for key in "abcde"] == [0, 0, 0, 0.5, 1.0]


def test_who_waits_finds_the_turn_kept_and_nobody_passes():
    clock = Clock()
    budget = Budget(per_second=1, burst=1, clock=clock)
    assert [budget.wait("a"), budget.wait("b"), budget.wait("c")] == [0, 1, 2]
    assert budget.wait("b") == 1, "asking again moves nobody"
    clock.now += 1
    assert [budget.wait("d"), budget.wait("b"), budget.wait("c")] == [2, 0, 1]


def test_500_keys_that_all_want_always_get_the_pace_and_each_its_share():
    clock = Clock()
    budget, turns = Budget(per_second=20, burst=20, clock=clock), dict.fromkeys(range(500), 0)
    for _ in range(6000):
        for key in turns:
            turns[key] += budget.wait(key) == 0
        clock.now += 0.05
        if sum(turns.values()) > 3000:
            break
    seconds = clock.now - Clock.now
    assert sum(turns.values()) <= 20 * seconds + 20
    assert max(turns.values()) - min(turns.values()) <= 1


def test_a_quiet_time_gives_no_more_than_the_burst():
    clock = Clock()
    budget = Budget(per_second=10, burst=5, clock=clock)
    clock.now += 3600
    assert [budget.wait(key) == 0 for key in range(7)] == [True] * 5 + [False] * 2


def test_a_key_that_is_forgotten_has_no_turn():
    clock = Clock()
    budget = Budget(per_second=1, burst=1, clock=clock)
    assert (budget.wait("a"), budget.wait("b")) == (0, 1)
    budget.forget("b")
    clock.now += 1
    assert budget.wait("b") == 1, "a turn of its own, after the one it gave up"


@pytest.mark.parametrize(("live", "seconds"), [(0, 20), (300, 20), (500, 31.25), (2000, 125)])
def test_looks_at_progress_alone_are_no_more_than_the_writes_that_they_may_cause(live, seconds):
    assert progress_pause(live) == seconds
