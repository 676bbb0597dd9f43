"""What stands between looking and doing: what was observed, what is to be done, and what is decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from . import plan
from .queueing import NOT_LOOKED_AT, Queue
from .resource import Json
from .status import State

LOOK_AGAIN = 180.0
"""Seconds after which every session that is not at its end is looked at without being asked."""
LOOK_SOON = 2.0


@dataclass(frozen=True)
class CreateJob:
    """Make the Job of the session's step; `lost` says that it was there before."""

    lost: bool = False


@dataclass(frozen=True)
class DeleteJob:
    """Delete the Job of an earlier step with its pods: exactly this one, so that none of the same name is hit."""

    name: str
    uid: str


@dataclass(frozen=True)
class SetDeadline:
    """Let the Job end so many seconds after its own start."""

    seconds: int


@dataclass(frozen=True)
class EndHelpers:
    """Let the Job fail now: its first worker has failed for good, and the others would go on."""


@dataclass(frozen=True)
class EndJob:
    """Let the Job fail now for a reason that Kubernetes does not know, so that its pods' logs can still be read."""

    reason: str


Action = CreateJob | DeleteJob | SetDeadline | EndHelpers | EndJob


@dataclass(frozen=True)
class Observed:
    """What is there, read live. `record` is None where storage is away, and `waits` then says why."""

    job: Mapping[str, Any] | None = None
    pods: tuple[Mapping[str, Any], ...] = ()
    """Those of this Job, the oldest first."""
    denials: tuple[tuple[str, str], ...] = ()
    """When and with which words the API server refused a pod, the newest last."""
    record: Mapping[str, Any] | None = None
    waits: State | None = None
    progress_due: bool = True
    step: plan.Step | None = plan.WHOLE
    """The step of the Job that is there, else the one that the status names; None before the first is chosen."""
    earlier: tuple[Mapping[str, Any], ...] = ()
    """Jobs of earlier steps, looked for where the step's own Job is not there."""
    stored: bool = False
    """Whether every feature that the session needs is in the store; looked for before the first step is chosen."""
    queue: Queue = NOT_LOOKED_AT
    """What Kueue says of a Job that waits in a queue."""
    remark: str = ""
    """What others than the scheduler say of a pod that has no node."""
    mount: str = ""
    """Why the pod's node cannot mount a volume, in its words."""
    orphans: tuple[Mapping[str, Any], ...] = ()
    """Pods with a trainer, of an earlier step's Job or of one that is gone; looked for where the step has no Job."""

    def at(self, step: plan.Step) -> Observed:
        """Give the same once the session has come to another step."""
        ended = () if self.job is None else (self.job,)
        return replace(
            self, step=step, job=None, pods=(), denials=(), remark="", mount="", earlier=(*self.earlier, *ended)
        )


@dataclass(frozen=True)
class Decision:
    """What to do, the whole status, and the seconds until the next look (None: when something happens)."""

    status: Json
    actions: tuple[Action, ...] = ()
    look_again: float | None = LOOK_AGAIN
    chooses: plan.Step | None = None
    """The step that comes next. The status is written first, and then it is decided again at that step."""
    has_record: bool = True
    """Whether there is a record in which an end can be noted."""
