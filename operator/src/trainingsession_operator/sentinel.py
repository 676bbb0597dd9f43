"""A document in every namespace's database that tells that MongoDB came back empty or older, after a restore.

It is written once a day. Whoever finds it older than before, or not at all where it was, doubts the database: files
that no record names may then be those of sessions whose records were lost, so nothing is swept until an administrator
confirms the doubt's token. The doubt is a part of the document, so a newer backup takes it away.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pymongo import UpdateOne

from .mongodb import translated
from .storage import NamespaceDatabase

COLLECTION, ID = "operator", "sentinel"
EVERY = timedelta(days=1)
LOOK_SECONDS = 1.0
"""Whoever sweeps looks so often whether a restore began."""

_IS_TOKEN_OF = 8


@dataclass(frozen=True)
class Sentinel:
    """What the document says; its times are MongoDB's."""

    seen_at: datetime | None = None
    """When a namespace's operator looked after the database last, to a day."""
    doubt: str = ""
    """Token of the doubt that the database is as it was left; empty where there is none."""
    confirmed_at: datetime | None = None
    """When an administrator confirmed the last doubt."""
    restored_at: datetime | None = None
    """When a backup was restored last."""


def read(database: NamespaceDatabase) -> Sentinel:
    """Read the document; what is not of its type is as if it were not there. Raises StorageUnavailableError."""
    with translated("read the sentinel"):
        found = database[COLLECTION].find_one({"_id": ID}) or {}
    times = {name: value for name, value in found.items() if isinstance(value, datetime)}
    doubt = found.get("doubt")
    return Sentinel(
        seen_at=times.get("seenAt"),
        doubt=doubt if isinstance(doubt, str) and len(doubt) == _IS_TOKEN_OF else "",
        confirmed_at=times.get("confirmedAt"),
        restored_at=times.get("restoredAt"),
    )


def refresh(database: NamespaceDatabase, found: Sentinel, now: datetime) -> Sentinel:
    """Write the time where the last one is a day old."""
    if found.seen_at is not None and found.seen_at > now - EVERY:
        return found
    _write(database, {"seenAt": "$$NOW"})
    return read(database)


def doubt(database: NamespaceDatabase) -> Sentinel:
    """Note that the database is not as it was left."""
    _write(database, {"doubt": {"$ifNull": ["$doubt", secrets.token_hex(_IS_TOKEN_OF // 2)]}, "seenAt": "$$NOW"})
    return read(database)


def confirm(database: NamespaceDatabase) -> Sentinel:
    """Note that an administrator takes the database as it is."""
    _write(database, {"doubt": "$$REMOVE", "confirmedAt": "$$NOW"})
    return read(database)


def note_restore(database: NamespaceDatabase) -> None:
    """Note that an administrator restored a backup: what is there now is how the database is to be."""
    _write(database, {"doubt": "$$REMOVE", "seenAt": "$$NOW", "restoredAt": "$$NOW"})


def taking_over(archived: Mapping[str, Any]) -> UpdateOne:
    """Give the write that takes over a backup's sentinel: only what an administrator had confirmed by then."""
    confirmed = archived.get("confirmedAt")
    known = {"confirmedAt": confirmed} if isinstance(confirmed, datetime) else {}
    return UpdateOne({"_id": ID}, {"$max": known}, upsert=True)


def is_within(found: Sentinel, grace: timedelta, now: datetime) -> bool:
    """Whether a backup was restored within the grace; nothing is removed then."""
    return found.restored_at is not None and found.restored_at > now - grace


def _write(database: NamespaceDatabase, fields: dict[str, Any]) -> None:
    with translated("write the sentinel"):
        database[COLLECTION].update_one({"_id": ID}, [{"$set": fields}], upsert=True)
