"""Every subscription; each does nothing but note what it was told and put the session's key on the queue."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import kopf

from .health import Watchdog
from .index import Known, SessionIndex
from .jobs import MANAGED_BY, MANAGED_LABEL, UID_LABEL
from .metrics import Metrics
from .newcomers import Newcomers
from .queue import Key, WorkQueue
from .readable import status_in
from .resource import GROUP, KIND, PLURAL, VERSION, deletion_policy, is_ours, seconds_after_end
from .status import ALERTING, failure, is_as_written, is_finished, pending_since


@dataclass(frozen=True)
class Intake:
    """Takes in what the watch and the audit tell of sessions."""

    queue: WorkQueue
    index: SessionIndex
    watchdog: Watchdog
    metrics: Metrics
    forget: Callable[[Key], None]
    """Told of every session that is deleted."""
    deleted: Callable[[str, str, str], None]
    """Told the namespace, UID and last deletionPolicy of every session that is deleted."""
    newcomers: Newcomers

    def told(self, event: Mapping[str, Any]) -> None:
        """Take in an event of the watch; its type is None where it comes from a list."""
        metadata = event["object"]["metadata"]
        key = (metadata["namespace"], metadata["name"])
        echo = self.watchdog.saw(key, metadata["resourceVersion"])
        if event["type"] == "ADDED" and not event["object"].get("status") and is_ours(event["object"]):
            self.newcomers.put(key, dict(event["object"]))
        else:
            self.newcomers.forget(key)
        if event["type"] == "DELETED":
            self.index.remove(metadata["uid"])
            self.forget(key)
            if is_ours(event["object"]):
                self.deleted(key[0], metadata["uid"], deletion_policy(event["object"]))
        else:
            self._note(event["object"], listed=event["type"] is None, told=True, echo=echo)

    def found(self, resource: Mapping[str, Any]) -> None:
        """Take in a session that the audit found."""
        self._note(resource, listed=True, told=False, echo=False)

    def _note(self, resource: Mapping[str, Any], *, listed: bool, told: bool, echo: bool) -> None:
        metadata = resource["metadata"]
        key, generation = (metadata["namespace"], metadata["name"]), metadata.get("generation", 0)
        status = status_in(resource)
        phase, since = status.get("phase") or "Pending", _pending_since(resource)
        known = Known(key, phase, generation, is_finished(status), told, is_ours(resource), since)
        before = self.index.put(metadata["uid"], known)
        if known.ours:
            self.metrics.met(key[0], ALERTING)
        if known.live:
            # The API server is back, or the user changed the spec: what failed may work now.
            mended = listed or before is None or before.generation != generation
            # Our own write was made on the very version that was looked at before, so its echo is no news.
            if mended or not echo:
                self.queue.add(key, mended=mended)
        elif known.ours:
            just_ended = before is not None and before.live
            if just_ended:
                # Not at the first list of all: what ended before this process began was counted by another.
                self.metrics.finished(key[0], status, failure(status))
            elif before is not None and before.phase == "Succeeded" and failure(status):
                # It has lost its artifacts since.
                self.metrics.failed(key[0], failure(status))
            if just_ended or not is_as_written(status) or seconds_after_end(resource) is not None:
                # Perhaps not by our word; or it is to be deleted some time after its end.
                self.queue.add(key)


def subscribe(intake: Intake, why_dead: Callable[[], str]) -> kopf.OperatorRegistry:
    """Give the registry with all of kopf's handlers. They are coroutines, so that none waits for a thread."""
    registry = kopf.OperatorRegistry()
    # kopf's own registry has this by default; it asks again when a token has expired.
    kopf.on.login(registry=registry)(kopf.login_via_client)

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def session_changed(event: Mapping[str, Any], **_: Any) -> None:
        intake.told(event)

    @kopf.on.event("batch", "v1", "jobs", labels={MANAGED_LABEL: MANAGED_BY}, registry=registry)
    async def job_changed(event: Mapping[str, Any], **_: Any) -> None:
        if event["type"] == "ADDED" and not event["object"].get("status"):
            # Made just now, by ourselves; its controller has not looked at it yet.
            return
        for owner in event["object"]["metadata"].get("ownerReferences") or []:
            if owner.get("kind") == KIND:
                _wake(intake, owner["uid"])

    @kopf.on.event("", "v1", "pods", labels={MANAGED_LABEL: MANAGED_BY}, registry=registry)
    async def pod_changed(event: Mapping[str, Any], **_: Any) -> None:
        _wake(intake, event["object"]["metadata"]["labels"].get(UID_LABEL, ""))

    @kopf.on.probe(id="operator", registry=registry)
    async def alive(**_: Any) -> str:
        reason = why_dead()
        if reason:
            # Any other error would be retried first, and the probe stay green meanwhile.
            raise kopf.PermanentError(reason)
        return "alive"

    return registry


def _pending_since(resource: Mapping[str, Any]) -> float | None:
    """Give the time since which the session has been pending, in seconds since 1970; None where it is not."""
    since = pending_since(resource)
    return datetime.fromisoformat(since).timestamp() if since else None


def _wake(intake: Intake, uid: str) -> None:
    key = intake.index.find(uid)
    if key:
        intake.queue.add(key)
