"""Whether what the status of a finished session claims is still in MongoDB, and the status that is so: pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from . import record_view
from .resource import Json
from .status import COMPLETE, FAILED, FINISHED, Reason, State, is_finished

MOST_NAMED = 8
"""Names of lost files in a message; the status lists all."""


def claims_success(status: Mapping[str, Any]) -> bool:
    """Whether the session is finished and says that it succeeded."""
    return is_finished(status) and (status.get("phase") == "Succeeded" or _is_true(status, COMPLETE))


def is_condemned(status: Mapping[str, Any]) -> bool:
    """Whether the session succeeded, and failed afterwards because its artifacts are missing."""
    return is_finished(status) and _is_true(status, FAILED, Reason.ARTIFACTS_MISSING)


def artifact_ids(status: Mapping[str, Any], record: Mapping[str, Any]) -> set[str]:
    """IDs of the files that must be there: those of the record, and without a result in it those of the status."""
    return {item["id"] for item in _artifacts(status, record)}


def restated(status: Mapping[str, Any], record: Mapping[str, Any], there: Collection[str], now: str) -> Json:
    """Give the whole status of such a session as it is so; `there` are the IDs that resolve, `now` as in Kubernetes.

    Accuracy, metrics and artifacts are the record's; without a result in the record they stay as they were.
    """
    artifacts, accuracy = _artifacts(status, record), record_view.accuracy(record)
    lost = [item["name"] for item in artifacts if item["id"] not in there]
    values: Json = dict(status)
    if accuracy is not None and (accuracy != status.get("accuracy") or _ids(artifacts) != _ids(_listed(status))):
        values |= {"accuracy": accuracy, "metrics": record_view.metrics(record), "artifacts": artifacts}
        values |= record_view.evaluation(record)
    is_known = accuracy is not None or bool(artifacts and status.get("accuracy"))
    if lost or not is_known:
        phase, end = "Failed", State("True", Reason.ARTIFACTS_MISSING, _loss(lost, len(artifacts)))
        rest = State("False", end.reason, end.message)
        states = {COMPLETE: rest, FAILED: end, FINISHED: end}
    else:
        phase, end = "Succeeded", success(record if accuracy is not None else _as_record(values))
        rest = State("False", end.reason, end.message)
        states = {COMPLETE: end, FAILED: rest, FINISHED: end}
    return values | {"phase": phase, "conditions": _conditions(status, states, now)}


def success(record: Mapping[str, Any]) -> State:
    """Give the state of the condition Complete of a session whose result is published."""
    count, earlier = len(record_view.artifacts(record)), record_view.reused_from(record)
    text = f"Accuracy {record_view.accuracy(record)}; {count} artifacts are in GridFS."
    if earlier:
        text += f" Answered from session {earlier['name']}, the same experiment; no Job was needed."
    return State("True", Reason.REUSED if earlier else Reason.SUCCEEDED, text)


def _is_true(status: Mapping[str, Any], kind: str, reason: str = "") -> bool:
    found = [c for c in status.get("conditions") or [] if c.get("type") == kind and c.get("status") == "True"]
    return any(not reason or c.get("reason") == reason for c in found)


def _artifacts(status: Mapping[str, Any], record: Mapping[str, Any]) -> list[Json]:
    return record_view.artifacts(record) if record_view.accuracy(record) is not None else _listed(status)


def _listed(status: Mapping[str, Any]) -> list[Json]:
    return list(status.get("artifacts") or [])


def _ids(artifacts: list[Json]) -> list[str]:
    return [item["id"] for item in artifacts]


def _as_record(status: Mapping[str, Any]) -> Json:
    result = {"accuracy": float(status["accuracy"]), "artifacts": _listed(status)}
    return {"result": result, "reusedFrom": status.get("reusedFrom")}


def _loss(lost: list[str], count: int) -> str:
    if not lost:
        what = "MongoDB holds no result of the session any more."
    else:
        more = f" and {len(lost) - MOST_NAMED} more" if len(lost) > MOST_NAMED else ""
        what = f"{len(lost)} of {count} artifacts are not in MongoDB any more: {', '.join(lost[:MOST_NAMED])}{more}."
    return f"{what} Restore MongoDB from a backup, or create a new session; the accuracy was measured and stays."


def _conditions(before: Mapping[str, Any], states: Mapping[str, State], now: str) -> list[Json]:
    """Give the conditions with these states; one that says already what is so keeps its words and its time."""
    known = {c["type"]: dict(c) for c in before.get("conditions") or []}
    for kind, state in states.items():
        old = known.get(kind, {"type": kind, "observedGeneration": before.get("observedGeneration", 0)})
        if not _says(old, state):
            time = (old.get("lastTransitionTime") if old.get("status") == state.status else None) or now
            new = {"status": state.status, "reason": state.reason, "message": state.message}
            known[kind] = old | new | {"lastTransitionTime": time}
    return list(known.values())


def _says(condition: Mapping[str, Any], state: State) -> bool:
    # The words of a success may be those of an earlier version of the operator.
    same = state.reason != Reason.ARTIFACTS_MISSING and condition.get("reason") != Reason.ARTIFACTS_MISSING
    return condition.get("status") == state.status and (same or condition.get("message") == state.message)
