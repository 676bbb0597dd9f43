"""The sessions of a store without a cluster: which one a YAML file means, how far it is, and how it is forgotten.

A session is known by namespace and name, as in a cluster: the same file again goes on where it was stopped, and one
that has its result is not trained again. What it was asked for is kept in its record, so that a file that was changed
after the result is noticed.
"""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from gridfs import GridFSBucket
from pymongo.database import Database

from .config import parse_session, parse_spec
from .errors import SpecError, Stopped, TrainerError
from .mongodb import Document, patiently
from .records import COLLECTION, create_record
from .spec import API_VERSION, KIND, Session, Spec
from .structure import camel, clip, shown
from .tables import age
from .yaml12 import load_all

COLUMNS = ("NAME", "PHASE", "ACCURACY", "EPOCH", "DATASET", "SUBSET", "BASE", "OPTIMIZER", "AGE")
NAMESPACE = "default"
# How a session is run may change; what it is may not.
_CHANGEABLE = frozenset(
    {"resources", "scheduling", "run_policy", "suspend", "managed_by", "artifacts", "reuse_result", "tracking"}
)


@dataclass(frozen=True)
class LocalSession:
    """One session of a file: the document with the identity that a cluster would give it, and what it says."""

    document: Mapping[str, Any]
    session: Session


def identity(namespace: str, name: str) -> str:
    """Give the UID of a session without a cluster: the same for the same name."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{API_VERSION}/{namespace}/{name}"))


def read_sessions(path: Path) -> list[LocalSession]:
    """Read every TrainingSession of a YAML file, in order; raises SpecError for the first that cannot work."""
    try:
        documents = load_all(path.read_text("utf-8"))
    except OSError as error:
        raise SpecError(f"{path} cannot be read ({error.strerror}); name a file with a {KIND}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} is not YAML ({clip(' '.join(str(error).split()))}); correct it.") from error
    found = [entry for entry in documents if isinstance(entry, Mapping) and entry.get("kind") == KIND]
    if not found:
        raise SpecError(f"{path} holds no object of kind {KIND}; name a file that does.")
    sessions = [_parse(entry, path, alone=len(found) == 1) for entry in found]
    names = [f"{entry.session.namespace}/{entry.session.name}" for entry in sessions]
    for name in names:
        if names.count(name) > 1:
            raise SpecError(f"{path} holds {names.count(name)} sessions called {name}; give each a name of its own.")
    return sessions


def _parse(document: Mapping[str, Any], path: Path, *, alone: bool) -> LocalSession:
    metadata = document.get("metadata")
    if not isinstance(metadata, Mapping) or not isinstance(metadata.get("name"), str):
        raise SpecError(f"{path} has no metadata.name; give the session a name.")
    known = {"namespace": NAMESPACE, **metadata}
    whole = {**document, "metadata": {**known, "uid": identity(str(known["namespace"]), str(known["name"]))}}
    try:
        return LocalSession(whole, parse_session(whole))
    except SpecError as error:
        # Of several sessions the sentence must say which.
        raise (error if alone else SpecError(f"{metadata['name']}: {error}")) from None


def open_record(database: Database[Document], local: LocalSession) -> bool:
    """Make the session's record if there is none; True when it has its result already.

    Raises SpecError when the result is that of another experiment.
    """
    session = local.session
    found = _read(database, session.uid)
    if found is not None and "result" in found:
        change = difference(_spec_of(found), session.spec)
        if change:
            raise SpecError(
                f"Session {session.name} is finished, and {change}; give this one another metadata.name, or forget "
                f"the finished one with `delete {session.name}`."
            )
        return True
    text = json.dumps(local.document["spec"], default=str)
    create_record(database, session.uid, session.namespace, session.name, spec=text)
    return False


def difference(before: Spec | None, now: Spec) -> str:
    """Name the first field of the experiment that is not what it was; empty where none is."""
    if before is None:
        return ""
    for field in dataclasses.fields(Spec):
        if field.name not in _CHANGEABLE:
            told = _difference(getattr(before, field.name), getattr(now, field.name), f"spec.{camel(field.name)}")
            if told:
                return told
    return ""


def _difference(before: Any, now: Any, path: str) -> str:
    if before == now:
        return ""
    if dataclasses.is_dataclass(before) and type(before) is type(now):
        for field in dataclasses.fields(before):
            told = _difference(getattr(before, field.name), getattr(now, field.name), f"{path}.{camel(field.name)}")
            if told:
                return told
    simple = all(value is None or isinstance(value, str | int | float) for value in (before, now))
    return f"its {path} was {shown(before)}, not {shown(now)}" if simple else f"its {path} was another"


def row(database: Database[Document], session: Session) -> tuple[str, ...]:
    """Give a session's line of the table."""
    return rows(database, {"_id": session.uid})[0]


def rows(database: Database[Document], query: Document, sort_by: str = "name") -> list[tuple[str, ...]]:
    """Give the lines of the table, by name or by accuracy."""
    names = ("name", "namespace", "phase", "progress", "result", "measured", "failure", "spec", "attempt", "checkpoint")
    # Ages by MongoDB's clock, as all times.
    fields = {**dict.fromkeys(names, 1), "age": {"$subtract": ["$$NOW", "$createdAt"]}}
    documents = patiently(lambda: list(database[COLLECTION].find(query, fields)), "read the records")
    documents.sort(key=lambda found: (str(found.get("name")), str(found.get("namespace"))))
    if sort_by == "accuracy":
        documents.sort(key=lambda found: _accuracy(found) or 0.0)
    return [_row(found) for found in documents]


def _row(found: Document) -> tuple[str, ...]:
    accuracy, spec = _accuracy(found), _spec_of(found)
    about, epochs = ("", "", "", ""), None
    if spec is not None:
        epochs = spec.training.epochs
        subset = f"{spec.dataset.subset.normalize():f}"
        about = (spec.dataset.title, subset, spec.base_model.name, spec.training.optimizer.name)
    return (
        str(found.get("name", "")),
        phase(found),
        "" if accuracy is None else f"{accuracy:.4f}",
        _epochs(found, epochs),
        *about,
        age(found.get("age", 0) / 1000),
    )


def _epochs(found: Document, epochs: int | None) -> str:
    """Say how far it is; progress is written only now and then, and a checkpoint may know better."""
    progress = found.get("progress", {})
    reached = max(progress.get("epoch", 0), found.get("checkpoint", {}).get("epoch", 0))
    return f"{reached}/{progress.get('epochs', epochs)}" if reached else ""


def _accuracy(found: Document) -> float | None:
    value = (found.get("result") or found.get("measured") or {}).get("accuracy")
    return float(value) if isinstance(value, int | float) else None


def phase(found: Document) -> str:
    """Say where a session stands, in the words of the resource's status."""
    failure = found.get("failure", {})
    if "result" in found:
        return "Succeeded"
    if not failure or failure.get("attempt") != found.get("attempt"):
        return str(found.get("phase", "Pending"))
    return "Suspended" if failure.get("exitCode") == Stopped.exit_code else "Failed"


def read_result(database: Database[Document], session: Session) -> Document:
    """Give the published result of a session; empty where there is none."""
    return dict((_read(database, session.uid) or {}).get("result", {}))


def best(results: Sequence[Document]) -> int:
    """Give the index of the best of what `read_result` gives, the first of equals.

    Validation accuracy decides where all have it: the test's would flatter the one that it chose.
    """
    judge = "validationAccuracy" if all("validationAccuracy" in result for result in results) else "accuracy"
    return max(range(len(results)), key=lambda index: float(results[index][judge]))


def delete(database: Database[Document], name: str, namespace: str = NAMESPACE) -> int:
    """Forget a session and remove its artifacts and its checkpoint; features stay. Gives the number of files.

    Raises SpecError where there is no such session.
    """
    uid = identity(namespace, name)
    deleted = patiently(lambda: database[COLLECTION].delete_one({"_id": uid}), "delete the record").deleted_count
    files = 0
    # The record first: without it nothing names the files, and a second run removes what this one did not.
    for bucket, query in (("artifacts", {"metadata.session": uid}), ("checkpoints", {"filename": uid})):
        store = GridFSBucket(database, bucket)
        for file in patiently(lambda store=store, query=query: list(store.find(query)), "find the files"):  # type: ignore[misc]
            patiently(lambda store=store, file=file: store.delete(file._id), "delete a file")  # type: ignore[misc]
            files += 1
    if not deleted and not files:
        names = sorted(str(found.get("name")) for found in database[COLLECTION].find({}, {"name": 1}).limit(50))
        raise SpecError(f"There is no session {name}; there are: {', '.join(names) or 'none'}.")
    return files


def _read(database: Database[Document], uid: str) -> Document | None:
    return patiently(lambda: database[COLLECTION].find_one({"_id": uid}), "read the record")


def _spec_of(found: Document) -> Spec | None:
    try:
        return parse_spec(json.loads(found["spec"])) if "spec" in found else None
    except (TrainerError, ValueError, TypeError):
        # Of another version of the trainer; what it was cannot be said any more.
        return None
