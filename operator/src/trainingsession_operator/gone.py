"""The database of a namespace that is gone, or that was made anew under its name, is dropped where that is safe.

Nobody could read it through Kubernetes any more, but MongoDB may serve several clusters, so that a namespace which is
not here may be somewhere else. So it goes only with proof: every record says Delete, and that its session's deletion
was seen by an operator at least the grace ago; and for that time and a day, no operator has looked after the database.
Everything else is kept for an administrator to judge.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from . import sentinel
from .deleted import DELETE
from .storage import BUCKETS, SESSIONS, NamespaceDatabase, bucket_bytes, translated


def why_kept(database: NamespaceDatabase, now: datetime, grace: timedelta) -> str:
    """Say why the database must stay; empty where it may be dropped. Raises StorageUnavailableError."""
    found = sentinel.read(database)
    if found.doubt:
        return "it came back from a backup, and nobody has confirmed it"
    if found.seen_at is None:
        # Noticed now for the first time; the grace begins.
        found = sentinel.refresh(database, found, now)
    proven = {"deletionPolicy": DELETE, "deletedAt": {"$lte": now - grace}}
    with translated("read the records"):
        unproven = database[SESSIONS].find_one({"$nor": [proven]}, {"_id": 1})
    if unproven is not None:
        return "it holds what sessions left with deletionPolicy Retain, or of which no deletion was seen"
    if found.seen_at is None or found.seen_at > now - grace - sentinel.EVERY:
        return "its namespace is gone only since a short time"
    return ""


def stored_bytes(database: NamespaceDatabase) -> int:
    """Bytes of all files in the database."""
    return sum(bucket_bytes(database, bucket) for bucket in BUCKETS)
