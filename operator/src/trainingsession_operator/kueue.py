"""The only module that asks Kueue: the Workload of a Job, and its place in the queue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .cluster import Cluster
from .errors import ApiError
from .queueing import Queue
from .resource import Json, Session

GROUP = "kueue.x-k8s.io"
VERSIONS = ("v1beta1", "v1beta2")
UID_LABEL = f"{GROUP}/job-uid"
"""Of a Workload: the UID of what it is for."""


def look_at_queue(cluster: Cluster, session: Session, job: Mapping[str, Any]) -> Queue:
    """Give what Kueue says of a Job that waits in a queue. Raises ApiError."""
    found = _workloads(cluster, session.namespace, job["metadata"]["uid"])
    if found is None:
        return Queue(installed=False)
    if not found:
        return Queue(holds_session=bool(_workloads(cluster, session.namespace, session.uid)))
    position = _position(cluster, session, found[0]["metadata"]["name"])
    return Queue(workload=found[0], position=position)


def _workloads(cluster: Cluster, namespace: str, owner: str) -> list[Json] | None:
    """Workloads of an object; None where Kueue is not there."""
    for version in VERSIONS:
        found = cluster.foreign(GROUP, version, namespace, "workloads", f"{UID_LABEL}={owner}")
        if found is not None:
            return found
    return None


def _position(cluster: Cluster, session: Session, workload: str) -> int | None:
    """Place of a Workload in its queue, from 0; None where Kueue does not serve it."""
    queue = f"namespaces/{session.namespace}/localqueues/{session.scheduling.queue_name}/pendingworkloads"
    for version in VERSIONS:
        try:
            listed = cluster.at_path(f"/apis/visibility.{GROUP}/{version}/{queue}")
        except ApiError:
            # A courtesy, which many clusters do not offer.
            continue
        places = {one["metadata"]["name"]: one.get("positionInLocalQueue") for one in listed.get("items") or []}
        return places.get(workload)
    return None
