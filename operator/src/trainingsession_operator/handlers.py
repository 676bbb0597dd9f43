"""Every subscription; each does nothing but put the session's key on the queue."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import kopf

from .health import Watchdog
from .index import SessionIndex
from .jobs import MANAGED_BY, MANAGED_LABEL
from .queue import Key, WorkQueue
from .resource import GROUP, KIND, PLURAL, VERSION, is_ours, seconds_after_end
from .status import is_finished


def subscribe(
    queue: WorkQueue,
    index: SessionIndex,
    watchdog: Watchdog,
    why_dead: Callable[[], str],
    forget: Callable[[Key], None],
) -> kopf.OperatorRegistry:
    """Give the registry with all of kopf's handlers; `forget` is told of every session that is deleted."""
    registry = kopf.OperatorRegistry()
    # kopf's own registry has this by default; it asks again when a token has expired.
    kopf.on.login(registry=registry)(kopf.login_via_client)

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    def session_changed(event: Mapping[str, Any], **_: Any) -> None:
        metadata = event["object"]["metadata"]
        key = (metadata["namespace"], metadata["name"])
        watchdog.saw(key, metadata["resourceVersion"])
        if not is_ours(event["object"]):
            return
        if event["type"] == "DELETED":
            index.remove(metadata["uid"])
            forget(key)
        elif not is_finished(event["object"].get("status") or {}):
            index.put(metadata["uid"], key)
            queue.add(key)
        elif index.remove(metadata["uid"]) or seconds_after_end(event["object"]) is not None:
            # It has just ended, and perhaps not by our word; or it is to be deleted some time after its end.
            queue.add(key)

    @kopf.on.event("batch", "v1", "jobs", labels={MANAGED_LABEL: MANAGED_BY}, registry=registry)
    def job_changed(event: Mapping[str, Any], **_: Any) -> None:
        _owner_changed(event["object"]["metadata"], index, queue)

    @kopf.on.event("", "v1", "pods", labels={MANAGED_LABEL: MANAGED_BY}, registry=registry)
    def pod_changed(event: Mapping[str, Any], **_: Any) -> None:
        key = index.find(event["object"]["metadata"]["labels"].get("trainingsession.dev/session-uid", ""))
        if key:
            queue.add(key)

    @kopf.on.probe(id="operator", registry=registry)
    def alive(**_: Any) -> str:
        reason = why_dead()
        if reason:
            # Any other error would be retried first, and the probe stay green meanwhile.
            raise kopf.PermanentError(reason)
        return "alive"

    return registry


def _owner_changed(metadata: Mapping[str, Any], index: SessionIndex, queue: WorkQueue) -> None:
    for owner in metadata.get("ownerReferences") or []:
        key = index.find(owner["uid"]) if owner.get("kind") == KIND else None
        if key:
            queue.add(key)
