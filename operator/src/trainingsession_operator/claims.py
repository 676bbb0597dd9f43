"""Statuses that claim success are compared with the records and the artifacts in MongoDB, and put right."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from bson import ObjectId

from . import missing, record_view
from .cluster import Cluster
from .errors import ConflictError
from .mongodb import Document, translated
from .readable import status_in
from .resource import Json, is_ours, parse_session
from .status import merge_patch
from .storage import (
    ARTIFACTS,
    LARGEST_RECORD,
    SESSIONS,
    NamespaceDatabase,
    Pace,
    at_once,
    object_ids,
)

log = logging.getLogger(__name__)

MOST_NAMED = 3


@dataclass
class Verdict:
    """What came of it that matters for a namespace's storage."""

    unknown: dict[str, str] = field(default_factory=dict)
    """Name → end of the sessions that have succeeded and of which MongoDB knows no result."""
    kept: set[ObjectId] = field(default_factory=set)
    """Artifacts of those, which nothing but their status names."""


def claims_of(sessions: Iterable[Json]) -> dict[str, Json]:
    """UID → session of those that say, or did before their artifacts were lost, that they have succeeded."""
    return {one["metadata"]["uid"]: one for one in sessions if is_ours(one) and _claims(status_in(one))}


def check(
    cluster: Cluster, database: NamespaceDatabase, claims: Mapping[str, Json], verdict: Verdict, pace: Pace = at_once
) -> None:
    """Put the statuses right that claim what is not in MongoDB; one that is right costs no write.

    `claims` are of one namespace, and so few that they can be asked for at once. Raises StorageUnavailableError, and
    then nothing was changed, and ApiError.
    """
    results = _results(database, list(claims))
    wanted = {uid: missing.artifact_ids(status_in(one), results.get(uid, {})) for uid, one in claims.items()}
    there = _resolved(database, set[str]().union(*wanted.values()))
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    changed: dict[str, list[str]] = {}
    for uid, session in claims.items():
        record, title, status = results.get(uid, {}), session["metadata"]["name"], status_in(session)
        if record.get("large"):
            continue
        if record_view.accuracy(record) is None:
            # Without a time, it counts as one that ended after every other.
            verdict.unknown[title] = str(status.get("completionTime", "9999"))
            verdict.kept |= object_ids(wanted[uid] & there)
        right = missing.restated(status, record, there, now)
        changes = merge_patch(status, right)
        if changes and pace() and _write(cluster, session, changes):
            changed.setdefault(_kind(status, right), []).append(title)
    for kind, titles in changed.items():
        namespace = next(iter(claims.values()))["metadata"]["namespace"]
        log.warning("namespace %s: %d sessions %s: %s", namespace, len(titles), kind, some(titles))


def some(names: list[str]) -> str:
    """Give the first of the names."""
    return ", ".join(names[:MOST_NAMED]) + (" …" if len(names) > MOST_NAMED else "")


def _claims(status: Json) -> bool:
    return missing.claims_success(status) or missing.is_condemned(status)


def _results(database: NamespaceDatabase, uids: list[str]) -> dict[str, Document]:
    """Give what the records have published; a record that is too large to be read is only marked so."""
    large = {"$gt": [{"$bsonSize": "$$ROOT"}, LARGEST_RECORD]}
    fields = {name: {"$cond": [large, "$$REMOVE", f"${name}"]} for name in ("result", "reusedFrom")}
    stages: list[Document] = [{"$match": {"_id": {"$in": uids}}}, {"$project": {"large": large, **fields}}]
    with translated("read the results"):
        return {record["_id"]: record for record in database[SESSIONS].aggregate(stages)}


def _resolved(database: NamespaceDatabase, ids: Iterable[str]) -> set[str]:
    wanted = {"_id": {"$in": list(object_ids(ids))}}
    with translated("look for the artifacts"):
        return {str(file["_id"]) for file in database[f"{ARTIFACTS}.files"].find(wanted, {"_id": 1})}


def _write(cluster: Cluster, resource: Json, changes: Json) -> bool:
    # Of the session, only what names it is needed; its spec may be of another version.
    session = parse_session({**resource, "spec": {"dataset": {}, "baseModel": {}}})
    try:
        cluster.patch_status(session, changes)
    except ConflictError:
        return False
    return True


def _kind(before: Json, after: Json) -> str:
    if after["phase"] == "Failed":
        return "have lost artifacts in MongoDB and are Failed, ArtifactsMissing, until they are there again"
    if missing.is_condemned(before):
        return "have their artifacts in MongoDB again and are Succeeded as before"
    return "did not say what their records say, and do now"
