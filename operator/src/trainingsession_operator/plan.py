"""Which Job comes when: pure.

    step     Job               device   task     when
    STORED   <name>-<uid8>     CPU      train    gpuWhenCached is never, and every feature is in the store
    EXTRACT  <name>-<uid8>     GPU      extract  gpuForHead is never, and not STORED
    WHOLE    <name>-<uid8>     either   all      neither of these, no GPUs are asked for, or fineTune is
    HEAD     <name>-<uid8>-h   CPU      train    EXTRACT has stored every feature
    AGAIN    <name>-<uid8>-g   GPU      all      STORED or HEAD met a missing or damaged shard (exit code 76)

A step is in `status.placement` before anything is done about it, so whoever comes after a crash does the same. A Job of
an earlier step must be gone before the next one is made, unless it did its work and has ended.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Any

from .recipe import recipe_digest
from .resource import Json, Resources, Session

NAME_LENGTH = 52
"""Of a Job's name without the step: with it and the suffix of a pod, at most the 63 characters of a label."""
SHARD_MISSING = 76
"""Exit code of the task train when a shard is missing or damaged; of the others, when an accelerator is missing."""
TASKS = ("all", "extract", "train")
RUN_ANNOTATION = "trainingsession.dev/run"
"""Of a Job: digest of what the session says of how it is run, which can change while it is suspended."""


@dataclass(frozen=True)
class Step:
    """One of the Jobs that a session may need."""

    suffix: str
    task: str


STORED, EXTRACT, WHOLE = Step("", "train"), Step("", "extract"), Step("", "all")
HEAD, AGAIN = Step("-h", "train"), Step("-g", "all")
STEPS = (STORED, EXTRACT, WHOLE, HEAD, AGAIN)
ORDER = ("", "-h", "-g")
"""Suffixes in the order in which their Jobs can follow each other."""

REASONS = {
    STORED: "All features that the session needs are in the store.",
    EXTRACT: "The features are computed; the head is trained without a GPU afterwards (resources.gpuForHead is never).",
    HEAD: "The features are stored, and resources.gpuForHead is never.",
    AGAIN: "A stored shard was missing or damaged; it is computed anew.",
}


def first(session: Session, *, stored: bool) -> Step:
    """Give the first step; `stored` says that every feature that the session needs is in the store."""
    if stored and recipe_to_find(session) is not None:
        return STORED
    apart = session.resources.has_gpus and session.resources.gpu_for_head == "never" and not _fine_tunes(session)
    return EXTRACT if apart else WHOLE


def following(step: Step, *, exit_code: int | None, extracted: bool) -> Step | None:
    """Give the step after one whose Job has ended or is gone, or None where that was the last one.

    `exit_code` is that of the last attempt of a Job that failed; `extracted` says that the features are all stored and
    that the Job of the task extract has nothing left to do.
    """
    if step in (STORED, HEAD) and exit_code == SHARD_MISSING:
        return AGAIN
    return HEAD if step == EXTRACT and extracted else None


def recipe_to_find(session: Session) -> str | None:
    """Give the recipe under which features may be stored; None where it would change nothing or nobody can know."""
    if not session.resources.has_gpus or session.resources.gpu_when_cached != "never" or _fine_tunes(session):
        return None
    if (session.spec.get("module") or {}).get("input") == "images":
        # It needs no features, and its GPUs for itself.
        return None
    return recipe_digest(session.spec)


def needed(images: int, subset: Decimal) -> int:
    """Give the number of images that `subset` of a split means, as the trainer counts them."""
    return max(1, int((images * subset).to_integral_value(ROUND_CEILING)))


def device(session: Session, step: Step) -> str:
    """Give what the Job computes on."""
    return "GPU" if session.resources.has_gpus and step.task != "train" else "CPU"


def workers(session: Session, step: Step) -> int:
    """Give the number of pods: only extracting can be shared."""
    return 1 if step.task == "train" else session.resources.workers


def placement(session: Session, step: Step) -> Json:
    """Give what the status says of a step."""
    return {
        "job": step_name(session, step),
        "device": device(session, step),
        "task": step.task,
        "reason": REASONS.get(step) or _why_whole(session),
    }


def _fine_tunes(session: Session) -> bool:
    return bool((session.spec.get("training") or {}).get("fineTune"))


def _why_whole(session: Session) -> str:
    if not session.resources.has_gpus:
        return "resources.gpus is 0."
    if _fine_tunes(session):
        return "training.fineTune trains the base model on images."
    if session.resources.gpu_when_cached != "never":
        return "resources.gpuWhenCached is always."
    if (session.spec.get("module") or {}).get("input") == "images":
        return "The module works on images, not on features."
    if recipe_to_find(session) is None:
        return "Only reading the data set or the weights tells which features are needed; sha256 would tell before."
    return "Features that the session needs are not in the store yet."


def chosen(session: Session) -> Step | None:
    """Give the step that the status names; None where it names none.

    Whether the spec asks for GPUs does not matter: that may change while a session is suspended.
    """
    named = session.status.get("placement") or {}
    for step in STEPS:
        if named.get("job") == step_name(session, step) and named.get("task") == step.task:
            return step
    return None


def step_of(session: Session, job: Mapping[str, Any]) -> Step:
    """Give the step of a Job that the session owns: what it does stands in its own command."""
    name = job["metadata"]["name"]
    (container, *_) = job["spec"]["template"]["spec"]["containers"]
    match container.get("args"):
        case ["--task", str(task)] if task in TASKS:
            pass
        case _:
            task = "all"
    suffix = next(suffix for suffix in ORDER if name == job_name(session.name, session.uid) + suffix)
    return Step(suffix, task)


def run_digest(session: Session) -> str:
    """Digest of the parts of the spec that shape a Job and are not the experiment."""
    # Without what is as by default, so that a field that a later version adds does not end the Jobs that run then.
    resources = {key: value for key, value in asdict(session.resources).items() if value != getattr(Resources, key)}
    run = [resources, session.spec.get("scheduling") or {}, session.run_policy.backoff_limit]
    return hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()[:16]


def is_outdated(session: Session, job: Mapping[str, Any]) -> bool:
    """Whether the Job was made before the session was changed: while it was suspended, and nobody was there to see."""
    made = (job["metadata"].get("annotations") or {}).get(RUN_ANNOTATION)
    return made is not None and made != run_digest(session)


def step_name(session: Session, step: Step) -> str:
    """Name of a step's Job."""
    return job_name(session.name, session.uid) + step.suffix


def names(session: Session) -> list[str]:
    """Names of all Jobs that the session can have, in the order of their steps."""
    return [job_name(session.name, session.uid) + suffix for suffix in ORDER]


def job_name(name: str, uid: str) -> str:
    """Name of a session's first Job: legal, unique by the UID, the same on every call."""
    return f"{cut(name, NAME_LENGTH - 9)}-{uid[:8]}"


def cut(name: str, length: int) -> str:
    """Give the beginning of a name as a legal part of a label."""
    return re.sub(r"[^a-z0-9-]", "-", name)[:length].strip("-")
