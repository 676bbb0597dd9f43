"""What can be read of a status: pure. A hand or another version of the operator may have written it.

Only what has the form in which this operator writes it is taken; the rest counts as not there, and is written anew.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

Json = dict[str, Any]

PHASES = ("Pending", "Extracting", "Training", "Suspended", "Succeeded", "Failed")
PART = re.compile(r"[01]\.\d{4}")
WHOLE, TEXT, TIME = "integer", "string", "date-time"
NAMED = {"name": TEXT, "value": TEXT}
SESSION = {"name": TEXT, "uid": TEXT}
EVALUATION = ("accuracyLow", "accuracyHigh", "baseline", "macroF1", "calibrationError", "loss")
CONDITION = {
    "type": TEXT,
    "status": ("True", "False", "Unknown"),
    "observedGeneration": WHOLE,
    "lastTransitionTime": TIME,
    "reason": TEXT,
    "message": TEXT,
}

FORM: Json = {
    "observedGeneration": WHOLE,
    "phase": PHASES,
    "conditions": [CONDITION],
    "startTime": TIME,
    "completionTime": TIME,
    "accuracy": PART,
    "validationAccuracy": PART,
    "evaluation": dict.fromkeys(EVALUATION, TEXT),
    "repeats": {"n": WHOLE, "meanAccuracy": PART, "deviation": TEXT, "accuracies": [PART]},
    "metrics": [NAMED],
    "progress": {
        "epoch": WHOLE,
        "epochs": WHOLE,
        "summary": TEXT,
        "percent": WHOLE,
        "remainingSeconds": WHOLE,
        "loss": TEXT,
        "imagesPerSecond": TEXT,
        "metrics": [NAMED],
    },
    "samples": {"train": WHOLE, "validation": WHOLE, "test": WHOLE},
    "features": {
        "key": TEXT,
        "shards": WHOLE,
        "reused": WHOLE,
        "computed": WHOLE,
        "secondsSaved": WHOLE,
        "gpuSecondsSaved": WHOLE,
    },
    "warnings": [{"reason": TEXT, "message": TEXT}],
    "tracking": {"mlflow": {"runID": TEXT, "experimentID": TEXT, "url": TEXT}},
    "artifacts": [{"name": TEXT, "id": TEXT, "bytes": WHOLE, "sha256": TEXT}],
    "placement": {"job": TEXT, "device": ("GPU", "CPU"), "task": ("all", "extract", "train"), "reason": TEXT},
    "jobName": TEXT,
    "attempts": WHOLE,
    "disruptions": WHOLE,
    "lastDisruption": {"pod": TEXT, "created": TIME, "message": TEXT},
    "gpuSeconds": WHOLE,
    "gpuSecondsUntil": TIME,
    "headFrom": {**SESSION, "sha256": TEXT},
    "reusedFrom": SESSION,
    "trainer": {"image": TEXT, "versions": {"*": TEXT}},
}
"""Every field of a status; a contract test compares it with the definition. Lists hold only whole items."""
OPTIONAL = {"observedGeneration", "lastTransitionTime", "reason", "message"}
"""Of a condition: one that says what is so, and not since when, is still one."""


def readable(status: Any) -> Json:
    """Give the fields of a status that have their form; of the conditions, those that have it."""
    if not isinstance(status, Mapping):
        return {}
    found = {name: status[name] for name, form in FORM.items() if name in status and _fits(status[name], form)}
    if "conditions" not in found and isinstance(status.get("conditions"), list):
        found["conditions"] = [one for one in status["conditions"] if _fits([one], [CONDITION])]
    return found


def status_in(resource: Mapping[str, Any]) -> Json:
    """Give what can be read of the status of a session as the API server gave it."""
    return readable(resource.get("status"))


def _fits(value: Any, form: Any) -> bool:
    match form:
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool) and value >= 0
        case "string":
            return isinstance(value, str)
        case "date-time":
            return isinstance(value, str) and _is_time(value)
        case re.Pattern():
            return isinstance(value, str) and form.fullmatch(value) is not None
        case tuple():
            return isinstance(value, str) and value in form
        case [item]:
            return isinstance(value, list) and all(_is_item(one, item) for one in value)
        case {"*": every}:
            return isinstance(value, Mapping) and all(_fits(one, every) for one in value.values())
        case _:
            return isinstance(value, Mapping) and all(_fits(value[name], form[name]) for name in form if name in value)


def _is_item(value: Any, form: Any) -> bool:
    missing = form.keys() - value.keys() if isinstance(form, dict) and isinstance(value, Mapping) else set()
    return _fits(value, form) and (not missing or (form is CONDITION and missing <= OPTIONAL))


def _is_time(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False
