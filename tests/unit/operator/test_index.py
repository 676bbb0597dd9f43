from __future__ import annotations

from dataclasses import replace

import pytest

from trainingsession_operator.index import Known, SessionIndex

LIVE = Known(("team-a", "digits"), "Training", 1, finished=False)
ENDED = Known(("team-a", "digits"), "Succeeded", 1, finished=True)


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def index(told) -> SessionIndex:
    return SessionIndex(ended=lambda: told.append("ended"))


def test_a_live_session_that_is_gone_is_told_once(index, told):
    index.put("uid", LIVE)
    index.remove("uid")
    index.remove("uid")
    assert told == ["ended"]
    assert index.find("uid") is None


def test_the_end_of_a_live_session_is_told_once(index, told):
    index.put("uid", LIVE)
    for _ in range(2):
        index.put("uid", ENDED)
    index.remove("uid")
    index.put("of a session that ended before the operator started", ENDED)
    assert told == ["ended"]


def test_only_live_sessions_are_woken_and_all_are_counted(index):
    assert index.put("one", LIVE) is None
    index.put("two", ENDED)
    assert index.find("one") == LIVE.key
    assert index.find("two") is None
    assert index.live() == [LIVE.key]
    assert index.census() == {("team-a", "Training"): 1, ("team-a", "Succeeded"): 1}
    assert index.put("one", ENDED) == LIVE
    assert index.census() == {("team-a", "Succeeded"): 2}


def test_what_the_watch_told_is_not_replaced_by_what_the_audit_found(index):
    index.put("uid", ENDED)
    assert index.put("uid", replace(LIVE, told=False)) == ENDED
    assert index.get("uid") == ENDED
