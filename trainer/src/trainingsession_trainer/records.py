"""The session's record: the one document through which the trainer tells the operator what is so.

Every update is conditional on the attempt, so an attempt that was replaced can neither publish nor overwrite.
All times are MongoDB's own. Values from outside stand under $literal, because a pipeline would evaluate a `$` in them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

import pymongo
from pymongo.database import Database

from .errors import Stopped, StorageError
from .mongodb import PATIENCE_SECONDS, Document, patiently

COLLECTION = "sessions"
RECORD_VERSION = 2
PROGRESS_SECONDS = 1.0
_FAREWELL_SECONDS = 10.0


@dataclass(frozen=True)
class Artifact:
    """A file in GridFS, bucket `artifacts`."""

    name: str
    id: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Result:
    """What a session is trained for; all figures are finite numbers."""

    accuracy: float
    metrics: Mapping[str, float]
    artifacts: tuple[Artifact, ...]
    evaluation: Mapping[str, float] = field(default_factory=dict)
    validation_accuracy: float | None = None
    repeats: Mapping[str, Any] | None = None

    def document(self) -> Document:
        """Return the form in which it is stored."""
        return {
            "accuracy": self.accuracy,
            "metrics": [{"name": name, "value": value} for name, value in self.metrics.items()],
            "artifacts": [asdict(artifact) for artifact in self.artifacts],
            "evaluation": dict(self.evaluation),
            **({} if self.validation_accuracy is None else {"validationAccuracy": self.validation_accuracy}),
            **({} if self.repeats is None else {"repeats": dict(self.repeats)}),
        }


@dataclass(frozen=True)
class SessionWarning:
    """What a session's user should know and does not end it; `reason` is one of docs/reasons.md, once in a session."""

    reason: str
    message: str


class Replaced(Stopped):
    """A newer attempt has claimed the record."""


class Published(Enum):
    """Who published the session's result."""

    BY_US = "by this attempt"
    BEFORE = "by an earlier attempt"


class SessionRecord:
    """The record of one session, as one attempt of it may write it."""

    def __init__(
        self, database: Database[Document], uid: str, attempt: str, stop: Callable[[], bool] = lambda: False
    ) -> None:
        self._sessions = database[COLLECTION]
        self._uid = uid
        self._attempt = attempt
        self._stop = stop

    def claim(self, trainer: Mapping[str, Any]) -> bool:
        """Make this attempt the one that may write; False when the result is already there.

        Raises StorageError when the record is missing: the operator makes it before the Job, so a database without
        it is not the one that the operator uses.
        """
        start = {
            "attempt": self._attempt,
            "phase": "Extracting",
            "progress": {},
            "trainer": trainer,
        }
        stage = {"$set": _literal(start) | {"attemptStartedAt": "$$NOW", "updatedAt": "$$NOW"}}
        # What an earlier attempt measured but did not publish is measured again.
        stages: list[Document] = [stage, {"$unset": "measured"}]
        if self._update({"_id": self._uid, "result": {"$exists": False}}, stages, "claim the session's record"):
            return True
        if self._read() is None:
            raise StorageError(
                f"The record of session {self._uid} is not in the database; "
                "check that the trainer's Secret names the database that the operator uses."
            )
        return False

    def progress(self, phase: str, progress: Mapping[str, Any]) -> None:
        """Store phase and progress, without waiting longer than a second for a MongoDB that is away."""
        known = {key: value for key, value in progress.items() if value is not None}
        with pymongo.timeout(PROGRESS_SECONDS):
            self._write({"phase": phase, "progress": known}, "store the progress", patience=0.0)

    def describe(
        self, samples: Mapping[str, int], features: Mapping[str, Any], warnings: Sequence[SessionWarning] = ()
    ) -> None:
        """Store how many images are used, where their features came from, and what is wrong with the images."""
        told = [asdict(warning) for warning in warnings]
        self._write({"samples": samples, "features": features, "warnings": told}, "store the sample counts")

    def tracked(self, run: Mapping[str, str], failure: str | None = None) -> None:
        """Store where a tracking server has the session, and why it does not work; gives up after a second."""
        told = {"mlflow": dict(run), **({"failure": failure} if failure else {})}
        # A courtesy, and from a thread that nobody waits for: whoever replaced this attempt says it anew.
        with contextlib.suppress(StorageError, Stopped), pymongo.timeout(PROGRESS_SECONDS):
            self._write({"tracking": told}, "store where the session is tracked", patience=0.0)

    def extracted(self, keys: Mapping[str, str]) -> None:
        """Say that all features are stored, and the key of each split's set: a head can be trained without a GPU."""
        self._write({"extracted": True, "featureSets": keys}, "store that all features are there")

    def extracted_sets(self) -> Mapping[str, str]:
        """Give the keys that `extracted` has stored, by split."""
        found = (self._read() or {}).get("featureSets")
        return found if isinstance(found, dict) else {}

    def measured(self, accuracy: float) -> None:
        """Make the accuracy visible before the artifacts are made; it is certain, the result is not yet complete."""
        self._write({"measured": {"accuracy": accuracy}}, "store the accuracy")

    def repeats(self) -> Mapping[str, Any]:
        """Give what `repeated` has stored last, in this attempt or an earlier one."""
        found = (self._read() or {}).get("repeats")
        return found if isinstance(found, dict) else {}

    def repeated(self, repeats: Mapping[str, Any]) -> None:
        """Store the accuracies of heads that are trained to their end; their checkpoint is no longer named."""
        stage = {"$set": _literal({"repeats": repeats}) | {"updatedAt": "$$NOW"}}
        if not self._update(self._mine(), [stage, {"$unset": "checkpoint"}], "store the accuracy of a repeat"):
            raise self._replaced()

    def starts_from(self, source: Mapping[str, str]) -> None:
        """Store whose head the session starts from, as {name, uid, sha256}."""
        self._write({"headFrom": source}, "store whose head is used")

    def head_source(self) -> Mapping[str, Any]:
        """Give what starts_from has stored, in this attempt or an earlier one; else nothing."""
        found = (self._read() or {}).get("headFrom")
        return found if isinstance(found, dict) else {}

    def checkpoint(self) -> Document | None:
        """Give what name_checkpoint has stored last, in this attempt or an earlier one."""
        found = (self._read() or {}).get("checkpoint")
        return found if isinstance(found, dict) else None

    def name_checkpoint(self, checkpoint: Mapping[str, Any], patience: float) -> Document | None:
        """Make {file, sha256, bytes, epoch} what the next attempt goes on from; gives the one that was named before.

        Raises Replaced when a newer attempt claimed the record or the result is there.
        """
        stage = {"$set": _literal({"checkpoint": checkpoint}) | {"updatedAt": "$$NOW"}}
        update = lambda: self._sessions.find_one_and_update(self._mine(), [stage], {"checkpoint": 1})  # noqa: E731
        before = patiently(update, "name the checkpoint", patience)
        if before is None:
            raise self._replaced()
        found = before.get("checkpoint")
        return found if isinstance(found, dict) else None

    def publish(self, result: Result) -> Published:
        """Make the result visible, once and for ever; raises Replaced when a newer attempt claimed it.

        With it, the checkpoint is no longer named.
        """
        stage = {
            "$set": {
                "result": {"$mergeObjects": [{"$literal": result.document()}, {"publishedAt": "$$NOW"}]},
                "updatedAt": "$$NOW",
            }
        }
        if self._update(self._mine(), [stage, {"$unset": ["checkpoint", "repeats"]}], "publish the result"):
            return Published.BY_US
        found = (self._read() or {}).get("result")
        if found is None:
            raise self._replaced()
        # An update whose answer was lost is repeated, and then finds its own result.
        ours = [artifact.id for artifact in result.artifacts]
        return Published.BY_US if [item["id"] for item in found["artifacts"]] == ours else Published.BEFORE

    def fail(self, exit_code: int, message: str, reason: str | None = None) -> None:
        """Leave the last sentence, as far as the database can be reached; never raises StorageError.

        `reason` is the operator's word for it, where the exit code does not tell enough.
        """
        failure = {"exitCode": exit_code, "message": message, "attempt": self._attempt}
        if reason is not None:
            failure["reason"] = reason
        stage = {
            "$set": {
                "failure": {"$mergeObjects": [{"$literal": failure}, {"at": "$$NOW"}]},
                "updatedAt": "$$NOW",
            }
        }
        # The sentence is on stderr and in the termination message as well.
        with contextlib.suppress(StorageError), pymongo.timeout(_FAREWELL_SECONDS):
            patiently(lambda: self._sessions.update_one(self._mine(), [stage]), "store the failure", _FAREWELL_SECONDS)

    def _mine(self) -> Document:
        """Give the filter of what only the newest attempt may write, and only before the result."""
        return {"_id": self._uid, "attempt": self._attempt, "result": {"$exists": False}}

    def _write(self, values: Mapping[str, Any], what: str, patience: float = PATIENCE_SECONDS) -> None:
        stage = {"$set": _literal(values) | {"updatedAt": "$$NOW"}}
        mine = {"_id": self._uid, "attempt": self._attempt}
        if not self._update(mine, [stage], what, patience):
            raise self._replaced()

    def _update(self, query: Document, pipeline: list[Document], what: str, patience: float = PATIENCE_SECONDS) -> bool:
        update = lambda: self._sessions.update_one(query, pipeline).matched_count  # noqa: E731
        return patiently(update, what, patience, self._stop) > 0

    def _read(self) -> Document | None:
        return patiently(lambda: self._sessions.find_one({"_id": self._uid}), "read the record", stop=self._stop)

    def _replaced(self) -> Replaced:
        return Replaced(f"Attempt {self._attempt} was replaced by a newer one, which goes on; nothing is left to do.")


def create_record(
    database: Database[Document], uid: str, namespace: str, name: str, *, spec: str | None = None
) -> None:
    """Make the record where no operator does it: sessions without a cluster. `spec` is what is asked for, as JSON."""
    fields = {"recordVersion": RECORD_VERSION, "namespace": namespace, "name": name, "deletionPolicy": "Retain"}
    known = fields if spec is None else {**fields, "spec": spec}
    stage = {"$set": _literal(known) | {"createdAt": {"$ifNull": ["$createdAt", "$$NOW"]}}}
    patiently(lambda: database[COLLECTION].update_one({"_id": uid}, [stage], upsert=True), "create the record")


def _literal(values: Mapping[str, Any]) -> Document:
    return {key: {"$literal": value} for key, value in values.items()}
