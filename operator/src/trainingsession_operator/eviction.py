"""Which feature sets give way when a namespace's features take more than their quota: pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class StoredSet:
    """A feature set as it was seen in MongoDB; times are MongoDB's own."""

    key: str
    bytes: int
    """Its shards with their thumbnails, and its manifest."""
    weights: str | None
    """Digest of its base weights, which other sets may name too."""
    weights_bytes: int
    used_at: int
    """When it was made or last opened, in milliseconds since 1970."""
    idle_seconds: float
    """How long ago that was."""
    needed: bool
    """A live session uses it or will, or one of its shards is being computed."""


def bytes_of(sets: Sequence[StoredSet]) -> int:
    """Bytes of the sets; base weights that several of them name count once."""
    weights: dict[str, int] = {}
    total = 0
    for one in sets:
        total += one.bytes
        if one.weights is not None:
            weights[one.weights] = one.weights_bytes
    return total + sum(weights.values())


def next_to_evict(sets: Sequence[StoredSet], quota: int, grace_seconds: float) -> StoredSet | None:
    """Give the least recently used set that may go while the sets take more than `quota` bytes, else None.

    A set that is needed, or was made or opened within the grace, stays, even where the quota is not kept then.
    """
    if bytes_of(sets) <= quota:
        return None
    free = [one for one in sets if not one.needed and one.idle_seconds >= grace_seconds]
    return min(free, key=lambda one: (one.used_at, one.key), default=None)
