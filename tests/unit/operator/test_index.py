"""Which session a UID belongs to, and who is told when it ends."""

from __future__ import annotations

from trainingsession_operator.index import SessionIndex


def test_the_end_of_a_live_session_is_told_once():
    told: list[str] = []
    index = SessionIndex(ended=lambda: told.append("ended"))
    index.put("uid", ("team-a", "digits"))
    index.remove("uid")
    index.remove("uid")
    index.remove("of a session that ended before the operator started")
    assert told == ["ended"]
    assert index.find("uid") is None
