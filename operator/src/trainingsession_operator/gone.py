"""What becomes of the database of a namespace that is gone, or that was made anew under its name.

Nobody can read it through Kubernetes any more, but MongoDB may serve several clusters, so that a namespace which is
not here may be somewhere else. So nothing goes without proof: the deletion of every session was seen by an operator at
least the grace ago; and for that time and a day, no operator has looked after the database. Then its features and
checkpoints go, and with them all the rest where every record says Delete. Else an administrator has to judge.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from . import sentinel
from .deleted import DELETE
from .mongodb import translated
from .storage import (
    BUCKETS,
    CHECKPOINTS,
    DIGESTS,
    FACTS,
    FEATURES,
    SESSIONS,
    SETS,
    SHARDS,
    USES,
    WEIGHTS,
    NamespaceDatabase,
    bucket_bytes,
)

RETAINED = "it holds what sessions left with deletionPolicy Retain"
"""Why a database is kept of which the features and checkpoints may go."""

_FOR_TRAINERS = (FEATURES, CHECKPOINTS, DIGESTS)


def why_kept(database: NamespaceDatabase, now: datetime, grace: timedelta) -> str:
    """Say why the database must stay; empty where it may be dropped. Raises StorageUnavailableError."""
    found = sentinel.read(database)
    if found.doubt:
        return "it came back from a backup, and nobody has confirmed it"
    if found.seen_at is None:
        # Noticed now for the first time; the grace begins.
        found = sentinel.refresh(database, found, now)
    with translated("read the records"):
        unproven = database[SESSIONS].find_one({"deletedAt": {"$not": {"$lte": now - grace}}}, {"_id": 1})
        retained = database[SESSIONS].find_one({"deletionPolicy": {"$ne": DELETE}}, {"_id": 1})
    if unproven is not None:
        return "it holds what sessions left of which no deletion was seen until the grace ago"
    if found.seen_at is None or found.seen_at > now - grace - sentinel.EVERY:
        return "its namespace is gone only since a short time"
    return "" if retained is None else RETAINED


def drop_features(database: NamespaceDatabase) -> int:
    """Drop what only trainers of the namespace could use; returns the bytes of the files."""
    freed = sum(bucket_bytes(database, bucket) for bucket in _FOR_TRAINERS)
    files = (f"{bucket}.{part}" for bucket in _FOR_TRAINERS for part in ("files", "chunks"))
    with translated("drop features"):
        for collection in (SETS, SHARDS, USES, WEIGHTS, FACTS, *files):
            database.drop_collection(collection)
    return freed


def stored_bytes(database: NamespaceDatabase) -> int:
    """Bytes of all files in the database."""
    return sum(bucket_bytes(database, bucket) for bucket in BUCKETS)
