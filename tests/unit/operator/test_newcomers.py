"""What the watch told of a new session saves the first look a request, and is never believed twice."""

from __future__ import annotations

from builders import resource
from trainingsession_operator import newcomers
from trainingsession_operator.newcomers import Newcomers

KEY = ("team", "mine")


def test_a_newcomer_is_given_once_with_the_time_at_which_the_watch_told_of_it():
    kept = Newcomers(clock=lambda: 12.5)
    kept.put(KEY, made := resource())
    assert (came := kept.take(KEY)) is not None
    assert (came.resource, came.told) == (made, 12.5)
    assert kept.take(KEY) is None


def test_a_session_that_changed_is_read_again():
    kept = Newcomers()
    kept.put(KEY, resource())
    kept.forget(KEY)
    assert kept.take(KEY) is None


def test_of_very_many_at_once_only_so_many_are_kept(monkeypatch):
    monkeypatch.setattr(newcomers, "MOST", 2)
    kept = Newcomers()
    for i in range(3):
        kept.put(("team", str(i)), resource())
    assert [kept.take(("team", str(i))) is not None for i in range(3)] == [True, True, False]
