"""Compares what the watch told with what is there, every ten minutes, and repairs the difference.

A watch can lose events without a word: after 410 Gone it lists anew and tells of no deletion, and a connection may
stall. Here a paged list of metadata is the truth. A list that is not complete repairs nothing.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from .cluster import Cluster
from .errors import WaitError
from .index import SessionIndex
from .metrics import Metrics
from .queue import Key, WorkQueue
from .resource import Json

log = logging.getLogger(__name__)

AUDIT_SECONDS = 600.0


@dataclass
class Audit:
    """Keeps the index true, and says when the watch must be begun anew."""

    cluster: Cluster
    namespaces: tuple[str, ...]
    index: SessionIndex
    queue: WorkQueue
    metrics: Metrics
    found: Callable[[Json], None]
    """Takes a session of which the watch did not tell."""
    _untold: frozenset[str] = frozenset()
    _lost: list[Key] = field(default_factory=list)

    def keep(self, stop: threading.Event) -> None:
        """Audit from time to time until `stop`; an error ends an audit, never the thread."""
        # Jittered, so that the operators of several clusters do not list together.
        while not stop.wait(AUDIT_SECONDS * random.uniform(0.8, 1.2)):  # noqa: S311 - no secret
            try:
                self.round()
            except WaitError as error:
                log.warning("audit: %s; nothing is repaired, and the next audit tries again", error)
            except Exception:
                log.exception("audit: unexpected failure; the next audit tries again")

    def round(self) -> None:
        """Audit once; raises ApiError when the list was not complete, and has repaired nothing then."""
        # Before the list: a session that is told of meanwhile is no ghost for not being in it.
        before = self.index.all()
        listed: dict[str, Key] = {}
        for namespace in self.namespaces or ("",):
            for metadata in self.cluster.session_metadata(namespace):
                listed[metadata["uid"]] = (metadata["namespace"], metadata["name"])
        missed = [uid for uid in listed if self.index.get(uid) is None and self._take_in(uid, listed[uid])]
        ghosts = [uid for uid in before if uid not in listed]
        for uid in ghosts:
            self.index.remove(uid)
            # The look finds nothing, or another session of that name.
            self.queue.add(before[uid].key)
        self._judge_watch(listed)
        self._forget_namespaces({namespace for namespace, _ in listed.values()})
        self.metrics.audited(len(missed), len(ghosts))
        if missed or ghosts:
            names = sorted({"/".join(listed[uid]) for uid in missed} | {"/".join(before[uid].key) for uid in ghosts})
            log.warning(
                "audit: the watch did not tell of %d sessions and not of the end of %d; repaired: %s",
                len(missed), len(ghosts), ", ".join(names[:5]) + (", …" if len(names) > 5 else ""),
            )  # fmt: skip

    def why_lost(self) -> str:
        """Say in one sentence which session the watch never told of between two audits; empty where there is none."""
        if not self._lost:
            return ""
        return (
            f"the watch of sessions loses events: two audits found {'/'.join(self._lost[0])}, of which it never told "
            f"(and {len(self._lost) - 1} more)"
        )

    def _take_in(self, uid: str, key: Key) -> bool:
        resource = self.cluster.session(*key)
        if resource is None or resource["metadata"]["uid"] != uid or self.index.get(uid) is not None:
            return False
        self.found(resource)
        return True

    def _forget_namespaces(self, known: set[str]) -> None:
        """Let the metrics of namespaces go that are not there any more; `known` are some that are."""
        for namespace in self.metrics.namespaces() - known:
            if self.cluster.namespace_uid(namespace) is None:
                self.metrics.forget(namespace)

    def _judge_watch(self, listed: dict[str, Key]) -> None:
        untold = frozenset(uid for uid in listed if (one := self.index.get(uid)) and one.live and not one.told)
        # Found by an audit before, and no event since: a watch that works tells of the status that its look wrote.
        self._lost = [listed[uid] for uid in sorted(untold & self._untold)]
        self._untold = untold
