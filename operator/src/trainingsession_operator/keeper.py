"""Keeps what the namespaces store within bounds: interrupted evictions, the quota of features, orphans.

One round looks at one namespace's database after the other. Nothing is remembered from round to round, so it does not
matter where one was interrupted, or that two operators do the same.
"""

from __future__ import annotations

import logging
import random
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

from . import storage
from .cluster import Cluster
from .errors import OperatorError
from .eviction import bytes_of, next_to_evict
from .recipe import recipe_digest
from .records import DATABASE_NAME, NAMESPACE_CUT, Records, database_name
from .settings import Settings
from .status import is_finished
from .storage import NamespaceDatabase, Pace
from .sweep import sweep

log = logging.getLogger(__name__)

AFTER_END_SECONDS = 30.0
"""Sessions often end together, and one round must not follow right on another."""
PAUSE_SECONDS = 0.02
"""Between two deletions: at most 50 files go in a second, beside the trainers' own work."""


@dataclass
class StorageKeeper:
    """Looks after the storage of all namespaces, from a thread of its own."""

    settings: Settings
    cluster: Cluster
    records: Records
    after_end_seconds: float = AFTER_END_SECONDS
    _wake: threading.Event = field(default_factory=threading.Event)

    def wake(self) -> None:
        """Have the next round soon: a session ended."""
        self._wake.set()

    def keep(self, stop: threading.Event) -> None:
        """Do a round from time to time, until `stop` (and then `wake`); an error ends a round, never the thread."""
        while not stop.is_set():
            # Jittered, so that the operators of several clusters do not come to one MongoDB together.
            self._wake.wait(self.settings.storage_interval_seconds * random.uniform(0.8, 1.2))  # noqa: S311 - no secret
            if stop.wait(self.after_end_seconds):
                return
            self._wake.clear()
            self.round(lambda: not stop.wait(PAUSE_SECONDS))

    def round(self, pace: Pace = storage.at_once) -> None:
        """Look after every namespace once. What fails in one is logged, and tried again in the next round."""
        databases: list[NamespaceDatabase] = []
        _safely("all namespaces", lambda: databases.extend(self.records.databases()))
        for database in databases:
            if pace():
                _safely(f"database {database.name}", partial(self._look_at, database, pace))

    def _look_at(self, database: NamespaceDatabase, pace: Pace) -> None:
        namespace, watched = self._namespace_of(database), self.settings.namespaces
        if not namespace or (watched and namespace not in watched):
            return
        uid = self.cluster.namespace_uid(namespace)
        # Else the namespace is gone, or another one that was made later under its name.
        if uid is not None and database_name(namespace, uid) == database.name:
            self._look_after(namespace, database, pace)

    def _namespace_of(self, database: NamespaceDatabase) -> str:
        """Give the namespace that may have this database; only its UID tells whether it does."""
        form = re.fullmatch(DATABASE_NAME, database.name)
        cut = form[1] if form else ""
        return cut if len(cut) < NAMESPACE_CUT else storage.namespace_in_records(database, cut)

    def _look_after(self, namespace: str, database: NamespaceDatabase, pace: Pace) -> None:
        storage.make_indexes(database)
        for key in storage.marked_sets(database):
            _tell(namespace, storage.complete_eviction(database, key, pace), "an eviction was interrupted")
        if self.settings.features_quota is not None:
            self._keep_quota(namespace, database, self.settings.features_quota, pace)
        sweep(database, timedelta(seconds=self.settings.orphan_grace_seconds), pace)
        if log.isEnabledFor(logging.DEBUG):
            sizes = (f"{bucket} {storage.bucket_bytes(database, bucket)} bytes" for bucket in storage.BUCKETS)
            log.debug("namespace %s stores %s", namespace, ", ".join(sizes))

    def _keep_quota(self, namespace: str, database: NamespaceDatabase, quota: int, pace: Pace) -> None:
        # An eviction takes its time, so everything is looked at anew after each.
        while pace() and bytes_of(storage.read_sets(database)) > quota:
            sets = storage.read_sets(database, self._live_recipes(namespace))
            chosen = next_to_evict(sets, quota, self.settings.eviction_grace_seconds)
            if chosen is None:
                log.warning(
                    "namespace %s: features take %d bytes of a quota of %d, and all are in use or were just now; "
                    "raise features.quotaPerNamespace if this lasts",
                    namespace,
                    bytes_of(sets),
                    quota,
                )
                return
            evicted = storage.evict(database, chosen.key, chosen.used_at, pace)
            if evicted is not None:
                _tell(namespace, evicted, f"above the quota, and unused for {chosen.idle_seconds / 3600:.1f} h")

    def _live_recipes(self, namespace: str) -> set[str]:
        """Recipes of the sessions that are not at their end; raises ApiError unless the API server listed all."""
        live = (one for one in self.cluster.sessions(namespace) if not is_finished(one.get("status") or {}))
        return {recipe for one in live if (recipe := recipe_digest(one.get("spec") or {})) is not None}


def _tell(namespace: str, evicted: storage.Eviction, why: str) -> None:
    log.info(
        "namespace %s: feature set %s %s (%s): %d shards, %d bytes freed",
        namespace,
        evicted.key,
        "evicted" if evicted.complete else "evicted in part, the next round goes on",
        why,
        evicted.shards,
        evicted.bytes,
    )


def _safely(what: str, work: Callable[[], None]) -> None:
    try:
        work()
    except OperatorError as error:
        log.warning("storage of %s: %s; the next round tries again", what, error)
    except Exception:
        log.exception("storage of %s: unexpected failure; the next round tries again", what)
