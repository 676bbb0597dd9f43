"""What a session's pods say: pure. The scheduler's, puller's and kernel's own words, and how an attempt ended."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from . import record_view
from .resource import Json
from .status import Reason
from .trainer_pod import CONTAINER

OUT_OF_MEMORY = "OOMKilled"
STARTING = ("PodPending", "ContainerCreating")
LOST_SECONDS = 60.0
"""After the time by which a pod must have ended, its grace included; Kubernetes itself waits five minutes before."""
NODE_IS_COMING = ("TriggeredScaleUp", "Nominated")
"""Reasons of the Events of Cluster Autoscaler and Karpenter that announce a new node."""
INDEX_ANNOTATION = "batch.kubernetes.io/job-completion-index"


@dataclass(frozen=True)
class Waiting:
    """Why a pod does not run yet."""

    reason: str
    message: str


@dataclass(frozen=True)
class Ended:
    """How an attempt ended."""

    exit_code: int | None
    """None where the kubelet saw none: the pod was evicted, or never ran."""
    out_of_memory: bool
    message: str
    at: str
    """When, by the kubelet's clock; empty where unknown."""
    reason: str | None = None
    """The trainer's own word for it, where it is one that a condition may carry."""

    @property
    def how(self) -> str:
        """For a sentence."""
        return "without an exit code" if self.exit_code is None else f"exit code {self.exit_code}"


def first_workers(pods: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Leave out the pods that only help: the session's state is that of its first worker."""
    return [pod for pod in pods if (pod["metadata"].get("annotations") or {}).get(INDEX_ANNOTATION, "0") == "0"]


def container_state(pod: Mapping[str, Any]) -> Json:
    """State of the trainer's container; empty where there is none yet."""
    for status in pod.get("status", {}).get("containerStatuses") or []:
        if status.get("name") == CONTAINER:
            state: Json = status.get("state") or {}
            return state
    return {}


def is_running(pod: Mapping[str, Any]) -> bool:
    """Whether the trainer runs in it."""
    return "running" in container_state(pod)


def is_alive(pod: Mapping[str, Any]) -> bool:
    """Whether the trainer runs in it or may still start; the pod's own phase lags behind the trainer's end."""
    phase = pod.get("status", {}).get("phase")
    return phase in ("Pending", "Running", "Unknown") and "terminated" not in container_state(pod)


def ran(pod: Mapping[str, Any], now: datetime) -> tuple[datetime, datetime] | None:
    """From when until when the trainer has run in this pod so far; None where it did not start.

    The kubelet says so, and its node's clock may be wrong: it was after the pod got its node, and not in the future.
    """
    state = container_state(pod)
    part = state.get("running") or state.get("terminated") or {}
    if not part.get("startedAt"):
        return None
    began, bound = datetime.fromisoformat(part["startedAt"]), _bound_at(pod)
    # Between two times of one clock, whether it is right or not.
    took = max(datetime.fromisoformat(part["finishedAt"]) - began, timedelta()) if part.get("finishedAt") else None
    start = min(began if bound is None else max(began, bound), now - (took or timedelta()))
    return start, now if took is None else start + took


def started_at(pods: Sequence[Mapping[str, Any]], now: datetime) -> datetime | None:
    """When the trainer first started in one of the pods."""
    return min((times[0] for pod in pods if (times := ran(pod, now)) is not None), default=None)


def _bound_at(pod: Mapping[str, Any]) -> datetime | None:
    """When the pod got its node, else when it was made, both by the API server's clock."""
    conditions = pod.get("status", {}).get("conditions") or []
    bound = (c.get("lastTransitionTime") for c in conditions if c["type"] == "PodScheduled" and c["status"] == "True")
    at = next(bound, None) or pod["metadata"].get("creationTimestamp")
    return datetime.fromisoformat(at) if at else None


def why_waiting(pod: Mapping[str, Any], remark: str = "") -> Waiting:
    """Why this pod does not run yet, in the words of whoever holds it up; `remark` is what others say of it."""
    waiting = container_state(pod).get("waiting") or {}
    if waiting.get("message"):
        return Waiting(_reason(waiting.get("reason"), "ContainerWaiting"), waiting["message"])
    for condition in pod.get("status", {}).get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] != "True" and condition.get("message"):
            words = f"{condition['message']} {remark}".strip()
            return Waiting(_reason(condition.get("reason"), "Unschedulable"), words)
    return Waiting(_reason(waiting.get("reason"), "PodPending"), remark or "The pod is being started.")


def has_no_node(pod: Mapping[str, Any]) -> bool:
    """Whether the scheduler has found no node for it, or does not look for one before its claims are there."""
    spec, conditions = pod.get("spec", {}), pod.get("status", {}).get("conditions") or []
    refused = any(c["type"] == "PodScheduled" and c["status"] != "True" for c in conditions)
    return refused or bool(spec.get("resourceClaims") and not spec.get("nodeName"))


def remark(events: Sequence[Mapping[str, Any]]) -> str:
    """Give the newest words of anybody but a scheduler, whose own are in the pod: an autoscaler, who makes claims."""
    said = []
    for event in events:
        who = str((event.get("source") or {}).get("component") or event.get("reportingComponent") or "")
        series = event.get("series") or {}
        at = str(event.get("lastTimestamp") or series.get("lastObservedTime") or event.get("eventTime") or "")
        words = " ".join(str(event.get("message") or "").split())
        if who and words and not who.endswith("scheduler"):
            said.append((at, f"{who}: {words.removesuffix('.')}.", event.get("reason")))
    if not said:
        return ""
    _, text, reason = max(said, key=lambda one: one[0])
    return f"{text} A new node takes minutes to come." if reason in NODE_IS_COMING else text


def why_terminating(pod: Mapping[str, Any], now: datetime) -> Waiting:
    """Why a pod that is being deleted is still there; long after its time only its node can say."""
    name, node = pod["metadata"]["name"], pod.get("spec", {}).get("nodeName", "")
    due = pod["metadata"]["deletionTimestamp"]
    if node and (now - datetime.fromisoformat(due)).total_seconds() > LOST_SECONDS:
        text = (
            f"Pod {name} should have ended at {due}, and node {node} does not say that it has. If the node is gone for "
            f"good, remove it, so that Kubernetes lets the pod go: kubectl delete node {node}."
        )
        return Waiting(Reason.NODE_LOST, text)
    return Waiting(Reason.POD_TERMINATING, f"Pod {name} is being deleted; the next attempt follows when it has ended.")


def on_lost_node(pods: Sequence[Mapping[str, Any]], now: datetime) -> Waiting | None:
    """Why one of the pods does not go although it was told to, where that is for its node."""
    going = [why_terminating(pod, now) for pod in pods if pod["metadata"].get("deletionTimestamp") and is_alive(pod)]
    return next((said for said in going if said.reason == Reason.NODE_LOST), None)


def why_left(pod: Mapping[str, Any], now: datetime) -> Waiting:
    """Why nothing can follow a pod whose Job is gone."""
    name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
    if pod["metadata"].get("deletionTimestamp"):
        going = why_terminating(pod, now)
        text = f"The Job of pod {name} is gone, and the pod is being deleted; the session goes on when it has ended."
        return going if going.reason == Reason.NODE_LOST else Waiting(Reason.JOB_TERMINATING, text)
    text = (
        f"The Job of pod {name} is gone, and the pod is still there; the session goes on when it has ended. "
        f"To end it: kubectl delete pod {name} -n {namespace}"
    )
    return Waiting(Reason.JOB_TERMINATING, text)


def last_end(pods: Sequence[Mapping[str, Any]], record: Mapping[str, Any]) -> Ended | None:
    """How the newest ended attempt ended: the sentence from the record, else from the pod; None where none ended."""
    for pod in reversed(pods):
        terminated = container_state(pod).get("terminated")
        if terminated:
            code = int(terminated.get("exitCode", 1))
            left = record_view.failure(record, pod["metadata"]["uid"])
            # The record's sentence counts only for the exit code that the kubelet saw.
            told = left if left and left.exit_code == code else None
            message = (told.message if told else "") or " ".join((terminated.get("message") or "").split())[-1500:]
            at = terminated.get("finishedAt") or ""
            reason = told.reason if told else None
            return Ended(code, terminated.get("reason") == OUT_OF_MEMORY, message, at, reason)
        if pod.get("status", {}).get("phase") == "Failed":
            message = pod["status"].get("message") or pod["status"].get("reason") or "The pod ended without a word."
            return Ended(None, False, message, "")
    return None


def _reason(value: Any, otherwise: str) -> str:
    """Give a reason that a condition may carry."""
    return value if isinstance(value, str) and re.fullmatch(r"[A-Z][A-Za-z0-9]{1,63}", value) else otherwise
