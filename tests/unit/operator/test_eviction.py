"""Which feature sets give way: pure."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from trainingsession_operator.eviction import StoredSet, bytes_of, next_to_evict

GRACE = 600.0
HOUR = 3600.0


def stored(key: str, size: int = 100, *, used_at: int = 0, **fields: Any) -> StoredSet:
    given = {"weights": None, "weights_bytes": 0, "idle_seconds": HOUR, "needed": False} | fields
    return StoredSet(key=key, bytes=size, used_at=used_at, **given)


def evicted(sets: list[StoredSet], quota: int) -> list[str]:
    """The keys that go, in order, when every eviction is done and all is looked at again."""
    gone = []
    while (one := next_to_evict(sets, quota, GRACE)) is not None:
        sets = [other for other in sets if other != one]
        gone.append(one.key)
    return gone


def test_within_the_quota_nothing_goes():
    sets = [stored("a"), stored("b")]
    assert evicted(sets, 200) == []
    assert evicted(sets, 199) == ["a"]


def test_the_least_recently_used_goes_first_and_no_more_than_must():
    sets = [stored("new", used_at=3), stored("old", used_at=1), stored("middle", used_at=2)]
    assert evicted(sets, 250) == ["old"]
    assert evicted(sets, 100) == ["old", "middle"]
    assert evicted(sets, 0) == ["old", "middle", "new"]


def test_a_needed_set_stays_even_above_the_quota():
    sets = [stored("old", used_at=1, needed=True), stored("new", used_at=2)]
    assert evicted(sets, 150) == ["new"]
    assert evicted(sets, 0) == ["new"]


def test_a_set_stays_for_the_grace_after_its_last_use():
    sets = [stored("now", used_at=1, idle_seconds=GRACE - 0.001), stored("before", used_at=2, idle_seconds=GRACE)]
    assert evicted(sets, 0) == ["before"]


def test_base_weights_count_once_and_go_with_the_last_set_that_names_them():
    sets = [stored(key, used_at=at, weights="w", weights_bytes=50) for at, key in enumerate("ab")]
    assert bytes_of(sets) == 250
    assert evicted(sets, 249) == ["a"]
    assert evicted(sets, 150) == ["a"]
    assert evicted(sets, 149) == ["a", "b"]


SETS = st.lists(
    st.builds(
        StoredSet,
        key=st.uuids().map(str),
        bytes=st.integers(0, 1000),
        weights=st.sampled_from([None, "w", "v"]),
        weights_bytes=st.just(70),
        used_at=st.integers(0, 5),
        idle_seconds=st.sampled_from([0.0, GRACE, HOUR]),
        needed=st.booleans(),
    ),
    max_size=12,
)


@given(SETS, st.integers(0, 5000))
def test_what_goes_is_free_and_older_than_every_free_one_that_stays(sets, quota):
    gone = evicted(sets, quota)
    free = [one for one in sets if not one.needed and one.idle_seconds >= GRACE]
    rest = [one for one in sets if one.key not in gone]
    assert set(gone) <= {one.key for one in free}
    assert [one.key for one in sorted(free, key=lambda one: (one.used_at, one.key))][: len(gone)] == gone
    assert bytes_of(rest) <= quota or len(gone) == len(free)
    if gone:
        last = next(one for one in sets if one.key == gone[-1])
        assert bytes_of([*rest, last]) > quota, "one less would not have been enough"
