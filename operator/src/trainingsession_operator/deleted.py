"""What deleted sessions left in a namespace's database goes, once it is certain that they are deleted.

    noted      the watch saw the deletion: the record gets `deletedAt` and the session's last deletionPolicy
    missing    a complete list of the namespace's sessions does not hold the record's: it gets `missingSince`
    removed    it is missing for the grace, and another complete list does not hold it either

Checkpoint, artifacts and record go in this order, so whoever is interrupted leaves a record that says what is left.
With deletionPolicy Retain only the checkpoint goes. A record whose session is listed again, because the cluster was
restored, is as if nothing had been. All times are MongoDB's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pymongo import UpdateOne

from .mongodb import Document, translated
from .storage import (
    ARTIFACTS,
    CHECKPOINTS,
    LARGEST_RECORD,
    SESSIONS,
    NamespaceDatabase,
    Pace,
    at_once,
    delete_file,
    named_files,
    object_ids,
)
from .sweep import Removed, remove_each

RETAIN, DELETE = "Retain", "Delete"
RECORDS, TO_REMOVE = 1_000, 100
"""Looked at in one query, so that memory is bounded whatever a namespace holds."""
MOST_VANISHED = 5
"""So many may vanish at once without a deletion that was seen, whatever part of the namespace's sessions they are."""
MOST_ARTIFACTS = 256

_IS_UID = "^[0-9a-f-]{36}$"
_HAS_CHECKPOINT = {"checkpoint": {"$exists": True}}


@dataclass(frozen=True)
class Comparison:
    """How a database's records compare with a complete list of the namespace's sessions."""

    present: int = 0
    """Records that were not missing before."""
    vanished: int = 0
    """Those of them whose session is not listed although nobody saw its deletion."""
    deleted: int = 0
    """Those whose session is not listed, and whose deletion was seen."""
    digest: str = ""
    """Of the vanished ones' UIDs: what an administrator confirms."""

    @property
    def is_suspicious(self) -> bool:
        """Whether so many vanished at once that the list is not believed: a cluster may have been restored."""
        return self.vanished > MOST_VANISHED and 5 * self.vanished > self.present


def note_deletions(database: NamespaceDatabase, policies: Mapping[str, str]) -> None:
    """Note the deletions that the watch saw: UID → last deletionPolicy. Other databases' UIDs change nothing."""
    updates = [
        UpdateOne(
            {"_id": uid, "deletedAt": {"$exists": False}},
            [{"$set": {"deletedAt": "$$NOW", "deletionPolicy": {"$literal": policy}}}],
        )
        for uid, policy in policies.items()
    ]
    if updates:
        with translated("note deleted sessions"):
            database[SESSIONS].bulk_write(updates, ordered=False)


def compare(
    database: NamespaceDatabase, listed: Mapping[str, str], began: datetime, pace: Pace = at_once
) -> Comparison | None:
    """Compare the records with the sessions that are listed: UID → deletionPolicy; None where it had to stop.

    Records made since `began`, before the list was asked for, are left alone. The records of sessions that are listed
    again, or with another deletionPolicy, are put right. Raises StorageUnavailableError.
    """
    present = vanished = deleted = 0
    digest = hashlib.sha256()
    for page in _pages(database, began):
        if not pace():
            return None
        updates: list[UpdateOne] = []
        for record in page:
            uid = record["_id"]
            policy = listed.get(uid)
            present += not record["missing"]
            if policy is not None:
                updates += _put_right(record, policy)
            elif not record["missing"] and record["deleted"]:
                deleted += 1
            elif not record["missing"]:
                vanished += 1
                digest.update(uid.encode())
        if updates:
            with translated("compare the records with the sessions"):
                database[SESSIONS].bulk_write(updates, ordered=False)
    return Comparison(present, vanished, deleted, digest.hexdigest()[:8])


def mark_missing(database: NamespaceDatabase, listed: Container[str], began: datetime, pace: Pace = at_once) -> None:
    """Give `missingSince` to the records whose session is not listed."""
    for page in _pages(database, began):
        gone = [record["_id"] for record in page if not record["missing"] and record["_id"] not in listed]
        if not gone:
            continue
        if not pace():
            return
        with translated("mark the records of deleted sessions"):
            there = {"_id": {"$in": gone}, "missingSince": {"$exists": False}}
            database[SESSIONS].update_many(there, [{"$set": {"missingSince": "$$NOW"}}])


def remove_deleted(
    database: NamespaceDatabase, listed: Container[str], cutoff: datetime, pace: Pace = at_once
) -> list[Removed]:
    """Remove what sessions left that are missing since `cutoff` and not listed now either."""
    kinds = {
        "checkpoints of deleted sessions": _checkpoints(database, {"missingSince": {"$lte": cutoff}}, listed),
        "artifacts and records of deleted sessions": _artifacts_and_records(database, listed, cutoff),
    }
    return [found for what, sizes in kinds.items() if (found := remove_each(database, what, sizes, pace)).count]


def remove_ended_checkpoints(database: NamespaceDatabase, cutoff: datetime, pace: Pace = at_once) -> Removed:
    """Remove the checkpoints of sessions that came to their end before `cutoff`."""
    ended = {"$or": [{"ended.at": {"$lte": cutoff}}, {"result.publishedAt": {"$lte": cutoff}}]}
    return remove_each(database, "checkpoints of ended sessions", _checkpoints(database, ended), pace)


def _pages(database: NamespaceDatabase, began: datetime) -> Iterator[list[Document]]:
    """Give the records that were there at `began`, reduced to what is compared: a tenant may store anything in them."""
    last = ""
    while True:
        pipeline: list[Mapping[str, Any]] = [
            {"$match": {"_id": {"$gt": last, "$regex": _IS_UID}, "createdAt": {"$not": {"$gte": began}}}},
            {"$sort": {"_id": 1}},
            {"$limit": RECORDS},
            {
                "$project": {
                    "missing": {"$ne": [{"$type": "$missingSince"}, "missing"]},
                    "deleted": {"$ne": [{"$type": "$deletedAt"}, "missing"]},
                    "deletes": {"$eq": ["$deletionPolicy", DELETE]},
                    "retains": {"$eq": ["$deletionPolicy", RETAIN]},
                }
            },
        ]
        with translated("read the records"):
            page = list(database[SESSIONS].aggregate(pipeline))
        if page:
            yield page
        if len(page) < RECORDS:
            return
        last = page[-1]["_id"]


def _put_right(record: Document, policy: str) -> Iterator[UpdateOne]:
    """Give the update that makes the record say what is so of a session that is there, where it does not."""
    update: Document = {}
    if not record["deletes" if policy == DELETE else "retains"]:
        update["$set"] = {"deletionPolicy": policy}
    if record["missing"] or record["deleted"]:
        update["$unset"] = {"missingSince": "", "deletedAt": "", "removing": ""}
    if update:
        yield UpdateOne({"_id": record["_id"]}, update)


def _checkpoints(database: NamespaceDatabase, which: Mapping[str, Any], listed: Container[str] = ()) -> Iterator[int]:
    """Remove the checkpoints that these records name: the file first, so that an interruption leaves it named."""
    sessions, last = database[SESSIONS], ""
    while True:
        here = {**which, **_HAS_CHECKPOINT, "_id": {"$gt": last, "$regex": _IS_UID}}
        record = sessions.find_one(here, {"checkpoint.file": 1}, sort=[("_id", 1)])
        if record is None:
            return
        last = record["_id"]
        if last in listed:
            continue
        named = record.get("checkpoint")
        file = named.get("file") if isinstance(named, dict) else None
        freed = sum(delete_file(database, CHECKPOINTS, one) for one in object_ids([file]))
        # Unless another one was named meanwhile; the next round sees to that.
        sessions.update_one({"_id": last, **_HAS_CHECKPOINT, "checkpoint.file": file}, {"$unset": {"checkpoint": ""}})
        yield freed


def _artifacts_and_records(database: NamespaceDatabase, listed: Container[str], cutoff: datetime) -> Iterator[int]:
    """Remove the records with deletionPolicy Delete, each after the artifacts that it alone names."""
    last = ""
    while True:
        page = _to_remove(database, last, cutoff)
        for record in page:
            last = record["_id"]
            if last in listed:
                continue
            due = {"_id": last, "missingSince": {"$lte": cutoff}}
            # From here on no other session is answered from it (`records.py`).
            if not database[SESSIONS].update_one(due, {"$set": {"removing": True}}).matched_count:
                continue
            ids = object_ids(record["ids"])
            for file in sorted(ids - named_files(database, ARTIFACTS, ids, but=last)):
                yield delete_file(database, ARTIFACTS, file)
            database[SESSIONS].delete_one(due)
            yield 0
        if len(page) < TO_REMOVE:
            return


def _to_remove(database: NamespaceDatabase, last: str, cutoff: datetime) -> list[Document]:
    due = {"missingSince": {"$lte": cutoff}, "_id": {"$gt": last, "$regex": _IS_UID}}
    # Compared as an expression: a plain filter would also find the word inside of a list.
    deletes = {"$expr": {"$eq": ["$deletionPolicy", DELETE]}}
    is_read = {"$and": [{"$lte": [{"$bsonSize": "$$ROOT"}, LARGEST_RECORD]}, {"$isArray": "$result.artifacts"}]}
    ids = {"$slice": ["$result.artifacts.id", MOST_ARTIFACTS]}
    pipeline: list[Mapping[str, Any]] = [
        {"$match": due | deletes},
        {"$sort": {"_id": 1}},
        {"$limit": TO_REMOVE},
        {"$project": {"ids": {"$cond": [is_read, ids, []]}}},
    ]
    return list(database[SESSIONS].aggregate(pipeline))
