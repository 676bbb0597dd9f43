"""What a status takes from a record: pure. The record is untrusted, because a user's own code may have written it.

Types are checked, what is not finite is dropped, strings and lists are clipped to the bounds of the definition, so
that no status patch can be refused for what a record says.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .resource import Json
from .status import Reason

PHASES = {"Extracting": "Extracting", "Training": "Training", "Publishing": "Training"}
LARGEST = 2**53
MESSAGE_LENGTH = 4096
_ID = r"[A-Za-z0-9_-]{1,64}"
EVALUATION = ("accuracyLow", "accuracyHigh", "baseline", "macroF1", "calibrationError", "loss")
MOST_REPEATS = 100
MOST_EPOCHS = 10_000 * MOST_REPEATS
FAILURES = {Reason.DIVERGED, Reason.OUT_OF_GPU_MEMORY, Reason.OUT_OF_MEMORY}
"""Reasons that a trainer may give; every other reason is the operator's to find."""


@dataclass(frozen=True)
class Failure:
    """What an attempt left when it failed."""

    exit_code: int
    message: str
    reason: str | None


def whole(value: Any, most: int = LARGEST) -> int | None:
    """Give a whole number from 0 to `most`, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return min(int(value), most) if value >= 0 else None


def decimals(value: Any) -> str | None:
    """Give a finite number with four decimals, or None. Strings sort and compare where a number 1.0 is stored as 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or abs(value) > 1e12:
        return None
    # + 0.0 takes the sign off a zero, which the definition's pattern of an accuracy would refuse.
    return f"{round(value, 4) + 0.0:.4f}"


def text(value: Any, length: int) -> str | None:
    """Give printable text of at most `length` characters, or None."""
    if not isinstance(value, str):
        return None
    return "".join(c if c.isprintable() else " " for c in value[:length]).strip() or None


def accuracy(record: Mapping[str, Any]) -> str | None:
    """Give the published accuracy, a number from 0 to 1; None where nothing valid is published."""
    return _accuracy(record.get("result"))


def measured_accuracy(record: Mapping[str, Any]) -> str | None:
    """Give the accuracy that was measured and is not published yet, in the same way."""
    return _accuracy(record.get("measured"))


def _accuracy(given: Any) -> str | None:
    return _part(_mapping(given).get("accuracy"))


def _part(value: Any) -> str | None:
    """Give a number from 0 to 1 with four decimals, or None."""
    shown = decimals(value)
    return shown if shown is not None and value is not None and 0 <= value <= 1 else None


def metrics(record: Mapping[str, Any]) -> list[Json]:
    """Give the published metrics by name, at most 64."""
    return _figures(_mapping(record.get("result")).get("metrics"))[:64]


def evaluation(record: Mapping[str, Any]) -> Json:
    """Give the parts of a status that say how far the published accuracy can be trusted, those that are there.

    They are validationAccuracy, evaluation and repeats.
    """
    given = _mapping(record.get("result"))
    short, many = _mapping(given.get("evaluation")), _mapping(given.get("repeats"))
    figures = {name: shown for name in EVALUATION if (shown := decimals(short.get(name))) is not None}
    accuracies = many.get("accuracies")
    each = [_part(value) for value in accuracies[:MOST_REPEATS]] if isinstance(accuracies, list) else []
    mean, deviation = _part(many.get("meanAccuracy")), decimals(many.get("deviation"))
    repeats = {"n": len(each), "meanAccuracy": mean, "deviation": deviation, "accuracies": each}
    values = {
        "validationAccuracy": _part(given.get("validationAccuracy")),
        "evaluation": figures or None,
        "repeats": repeats if len(each) > 1 and None not in (mean, deviation, *each) else None,
    }
    return {key: value for key, value in values.items() if value is not None}


def artifacts(record: Mapping[str, Any]) -> list[Json]:
    """Give the published artifacts by name, at most 64."""
    found: dict[str, Json] = {}
    for item in _items(_mapping(record.get("result")).get("artifacts")):
        name, size = text(item.get("name"), 255), whole(item.get("bytes"))
        identity, digest = item.get("id"), item.get("sha256")
        if name and size is not None and _matches(identity, r"[0-9a-f]{24}") and _matches(digest, r"[0-9a-f]{64}"):
            found.setdefault(name, {"name": name, "id": identity, "bytes": size, "sha256": digest})
    return list(found.values())[:64]


def progress(record: Mapping[str, Any], epochs_asked: int) -> Json:
    """Give how far the trainer is."""
    given = _mapping(record.get("progress"))
    epoch, epochs = whole(given.get("epoch"), MOST_EPOCHS), whole(given.get("epochs"), MOST_EPOCHS) or epochs_asked
    values = {
        "epoch": epoch,
        "epochs": epochs,
        "summary": f"{epoch}/{epochs}" if epoch is not None else None,
        "percent": whole(given.get("percent"), 100),
        "remainingSeconds": whole(given.get("remainingSeconds")),
        "loss": decimals(given.get("loss")),
        "imagesPerSecond": decimals(given.get("imagesPerSecond")),
        "metrics": _figures(given.get("metrics"))[:16] or None,
    }
    return {key: value for key, value in values.items() if value is not None}


def samples(record: Mapping[str, Any]) -> Json:
    """Give the images used."""
    return _wholes(record.get("samples"), ("train", "validation", "test"))


def features(record: Mapping[str, Any]) -> Json:
    """Give where the features came from."""
    given = _mapping(record.get("features"))
    key = text(given.get("key"), 128)
    return ({"key": key} if key else {}) | _wholes(
        given, ("shards", "reused", "computed", "secondsSaved", "gpuSecondsSaved")
    )


def warnings(record: Mapping[str, Any]) -> list[Json]:
    """Give what is wrong and does not end the session, by reason, at most 16."""
    found: dict[str, Json] = {}
    failure = text(_mapping(record.get("tracking")).get("failure"), 1024)
    if failure:
        found[Reason.TRACKING_FAILED] = {"reason": Reason.TRACKING_FAILED, "message": failure}
    for item in _items(record.get("warnings")):
        reason, message = item.get("reason"), text(item.get("message"), 1024)
        if _matches(reason, r"[A-Z][A-Za-z0-9]{1,63}") and message:
            found.setdefault(str(reason), {"reason": reason, "message": message})
    return list(found.values())[:16]


def tracking(record: Mapping[str, Any]) -> Json:
    """Give where a tracking server has the session; empty where none has it."""
    given = _mapping(_mapping(record.get("tracking")).get("mlflow"))
    run, experiment, url = given.get("runID"), given.get("experimentID"), given.get("url")
    known = _matches(run, _ID) and _matches(experiment, _ID) and _matches(url, r"https?://[!-~]{1,2400}")
    return {"mlflow": {"runID": run, "experimentID": experiment, "url": url}} if known else {}


def versions(record: Mapping[str, Any]) -> Json:
    """Give the versions of what ran."""
    given = _mapping(_mapping(record.get("trainer")).get("versions"))
    return {
        name: version
        for key, value in list(given.items())[:16]
        if (name := text(key, 64)) and (version := text(value, 64))
    }


def reused_from(record: Mapping[str, Any]) -> Json:
    """Give the earlier session whose result the operator copied into the record; empty where it was trained."""
    given = _mapping(record.get("reusedFrom"))
    name, uid = text(given.get("name"), 253), text(given.get("uid"), 64)
    return {"name": name, "uid": uid} if name and uid else {}


def head_from(record: Mapping[str, Any]) -> Json:
    """Give the earlier session whose head this one began with; empty where it began with its own."""
    given = _mapping(record.get("headFrom"))
    name, uid, digest = text(given.get("name"), 253), text(given.get("uid"), 64), given.get("sha256")
    return {"name": name, "uid": uid, "sha256": digest} if name and uid and _matches(digest, r"[0-9a-f]{64}") else {}


def phase(record: Mapping[str, Any]) -> str | None:
    """Give the trainer's phase as the status names it."""
    return PHASES.get(str(record.get("phase")))


def ended(record: Mapping[str, Any]) -> str | None:
    """Give the phase of the end that was noted; None where none was."""
    return text(_mapping(record.get("ended")).get("phase"), 32)


def extracted(record: Mapping[str, Any]) -> bool:
    """Whether the task extract has stored every feature that the session needs."""
    return record.get("extracted") is True


def failure(record: Mapping[str, Any], attempt: str) -> Failure | None:
    """Give what this attempt left, or None."""
    given = _mapping(record.get("failure"))
    code, message = whole(given.get("exitCode"), 255), text(given.get("message"), MESSAGE_LENGTH // 2)
    reason = given.get("reason")
    if code is None or not message or given.get("attempt") != attempt:
        return None
    return Failure(code, message, reason if isinstance(reason, str) and reason in FAILURES else None)


def _figures(value: Any) -> list[Json]:
    found: dict[str, Json] = {}
    for item in _items(value):
        name, figure = text(item.get("name"), 64), decimals(item.get("value"))
        if name and figure:
            found.setdefault(name, {"name": name, "value": figure})
    return list(found.values())


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _items(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value[:256] if isinstance(item, Mapping)] if isinstance(value, list) else []


def _wholes(value: Any, names: tuple[str, ...]) -> Json:
    given = _mapping(value)
    return {name: number for name in names if (number := whole(given.get(name))) is not None}


def _matches(value: Any, pattern: str) -> bool:
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None
