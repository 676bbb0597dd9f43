"""Keeps what the namespaces store within bounds: interrupted evictions, the quota of features, checkpoints, deletions.

One round looks at one namespace's database after the other; from time to time it takes inventory too (`inventory.py`).
What must outlive the process is in MongoDB, so it does not matter where a round was interrupted, or that two operators
do the same.
"""

from __future__ import annotations

import logging
import random
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

from . import gone, storage
from .cluster import Cluster
from .deleted import note_deletions, remove_ended_checkpoints
from .eviction import bytes_of, next_to_evict
from .inventory import Inventory, safely
from .readable import status_in
from .recipe import recipe_digest
from .records import Records
from .resource import Json
from .settings import Settings
from .status import is_finished
from .storage import NamespaceDatabase, Pace
from .tenants import DATABASE_NAME, NAMESPACE_CUT, database_name, drop_replaced_users

log = logging.getLogger(__name__)

AFTER_END_SECONDS = 30.0
"""Sessions often end together, and one round must not follow right on another."""
PAUSE_SECONDS = 0.02
"""Between two deletions: at most 50 files go in a second, beside the trainers' own work."""
CHECKPOINT_GRACE = timedelta(minutes=10)
"""A checkpoint stays so long after its session's end, so that whoever looks into an end that was just now finds it."""
MOST_DELETIONS = 10_000
"""Deletions that were seen and are not noted yet, while MongoDB is away; of more, it is forgotten that they were."""


@dataclass
class StorageKeeper:
    """Looks after the storage of all namespaces, from a thread of its own."""

    settings: Settings
    cluster: Cluster
    records: Records
    after_end_seconds: float = AFTER_END_SECONDS
    measured: Callable[[str, str, int], None] = lambda namespace, bucket, size: None
    """Told the bytes in every bucket of every namespace, once per inventory."""
    swept: Callable[[str, int], None] = lambda namespace, size: None
    """Told the bytes that were freed."""
    halted: Callable[[str, bool], None] = lambda namespace, is_halted: None
    """Told whether nothing is removed in the namespace until an administrator has looked, once per inventory."""
    _wake: threading.Event = field(default_factory=threading.Event)
    _is_due: bool = False
    """Whether the next round takes inventory before its time."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _deletions: dict[tuple[str, str], str] = field(default_factory=dict)
    """(namespace, UID) → deletionPolicy of sessions whose deletion the watch saw."""
    _kept: dict[str, str] = field(default_factory=dict)
    """Database of a namespace that is gone → why it was said to be kept."""

    def __post_init__(self) -> None:
        """Make the inventory, which remembers what it said."""
        self._inventory = Inventory(self.settings, self.cluster, self.records, self.measured, self.swept, self.halted)

    def wake(self, *, inventory: bool = False) -> None:
        """Have the next round soon: a session ended; with an inventory: MongoDB's data may not be what they were."""
        if inventory:
            self._is_due = True
        self._wake.set()

    def deleted(self, namespace: str, uid: str, deletion_policy: str) -> None:
        """Take note of a deletion that the watch saw, with the session's last deletionPolicy; never waits."""
        with self._lock:
            while len(self._deletions) >= MOST_DELETIONS:
                del self._deletions[next(iter(self._deletions))]
            self._deletions[namespace, uid] = deletion_policy
        self.wake()

    def keep(self, stop: threading.Event) -> None:
        """Do a round from time to time, until `stop` (and then `wake`); an error ends a round, never the thread."""
        inventory_at = time.monotonic()
        while not stop.is_set():
            # Jittered, so that the operators of several clusters do not come to one MongoDB together.
            interval = self.settings.storage_interval_seconds * random.uniform(0.8, 1.2)  # noqa: S311 - no secret
            self._wake.wait(interval)
            if stop.wait(self.after_end_seconds):
                break
            self._wake.clear()
            is_due = self._is_due or time.monotonic() >= inventory_at
            if is_due:
                # Before the round: whoever asks for another one during it gets it.
                self._is_due = False
            if not self.round(lambda: not stop.wait(PAUSE_SECONDS), inventory=is_due):
                self._is_due = self._is_due or is_due
            elif is_due:
                inventory_at = time.monotonic() + 0.8 * self.settings.storage_interval_seconds
        # A deletion that is not noted now is one that nobody saw.
        if self._deletions:
            safely("storage of all namespaces", lambda: self._note_deletions(self.records.databases()))

    def round(self, pace: Pace = storage.at_once, *, inventory: bool = True) -> bool:
        """Look after every namespace once, and say whether MongoDB could be asked for them at all.

        What fails in one is logged, and tried again in the next round.
        """
        databases: list[NamespaceDatabase] = []
        if not safely("storage of all namespaces", lambda: databases.extend(self.records.databases())):
            return False
        self._note_deletions(databases)
        if not self.settings.mongodb_uri_file:
            safely("users of MongoDB", self._drop_replaced_administrators)
        there: dict[str, NamespaceDatabase] = {}
        for database in databases:
            if pace():
                safely(f"storage of database {database.name}", partial(self._look_at, database, there, pace))
        if inventory and pace():
            self._inventory.take(there, pace)
        return True

    def _drop_replaced_administrators(self) -> None:
        for user in self.records.drop_replaced_administrators():
            log.info("MongoDB's administrator %s, replaced by a rotation, was dropped", user)

    def _note_deletions(self, databases: list[NamespaceDatabase]) -> None:
        with self._lock:
            seen = dict(self._deletions)
        failed: set[str] = set()
        for database in databases:
            # Also that of an earlier namespace of this name: UIDs are unique.
            form = re.fullmatch(DATABASE_NAME, database.name)
            mine = {uid: policy for (name, uid), policy in seen.items() if form and name[:NAMESPACE_CUT] == form[1]}
            if not safely(f"storage of database {database.name}", partial(note_deletions, database, mine)):
                failed |= mine.keys()
        with self._lock:
            for key in seen:
                if key[1] not in failed:
                    self._deletions.pop(key, None)

    def _look_at(self, database: NamespaceDatabase, there: dict[str, NamespaceDatabase], pace: Pace) -> None:
        namespace, watched = self._namespace_of(database), self.settings.namespaces
        if not namespace or (watched and namespace not in watched):
            return
        uid = self.cluster.namespace_uid(namespace)
        if uid is None or database_name(namespace, uid) != database.name:
            self._look_at_gone(namespace, database)
            return
        there[namespace] = database
        self._look_after(namespace, database, pace)

    def _look_at_gone(self, namespace: str, database: NamespaceDatabase) -> None:
        """Look at the database of a namespace that is gone, or another one now under the same name."""
        grace = timedelta(seconds=self.settings.orphan_grace_seconds)
        why = gone.why_kept(database, storage.server_time(database), grace)
        if not why:
            self.records.drop_database(database.name)
            self._kept.pop(database.name, None)
            log.info("namespace %s is gone: its database %s was dropped", namespace, database.name)
            return
        if why == gone.RETAINED and (freed := gone.drop_features(database)):
            self.swept(namespace, freed)
            log.info("namespace %s is gone: the features in %s went, %d bytes", namespace, database.name, freed)
        if self._kept.get(database.name) != why:
            self._kept[database.name] = why
            log.info(
                "namespace %s is gone: its database %s, %d bytes, is kept, because %s; if nobody needs it, drop it",
                namespace, database.name, gone.stored_bytes(database), why,
            )  # fmt: skip

    def _namespace_of(self, database: NamespaceDatabase) -> str:
        """Give the namespace that may have this database; only its UID tells whether it does."""
        form = re.fullmatch(DATABASE_NAME, database.name)
        cut = form[1] if form else ""
        return cut if len(cut) < NAMESPACE_CUT else storage.namespace_in_records(database, cut)

    def _look_after(self, namespace: str, database: NamespaceDatabase, pace: Pace) -> None:
        storage.make_indexes(database)
        for key in storage.marked_sets(database):
            self._tell(namespace, storage.complete_eviction(database, key, pace), "an eviction was interrupted")
        if self.settings.features_quota is not None:
            self._keep_quota(namespace, database, self.settings.features_quota, pace)
        ended = remove_ended_checkpoints(database, storage.server_time(database) - CHECKPOINT_GRACE, pace)
        if ended.bytes:
            self.swept(namespace, ended.bytes)
        if self.settings.mongodb_users == "managed":
            for user in drop_replaced_users(database):
                log.info("namespace %s: user %s, replaced by a rotation, was dropped", namespace, user)

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
                self._tell(namespace, evicted, f"above the quota, and unused for {chosen.idle_seconds / 3600:.1f} h")

    def _live_recipes(self, namespace: str) -> set[str]:
        """Recipes of the sessions that are not at their end; raises ApiError unless the API server listed all."""
        live = (one for one in self.cluster.sessions(namespace) if not is_finished(status_in(one)))
        return {recipe for one in live if (recipe := _recipe(one)) is not None}

    def _tell(self, namespace: str, evicted: storage.Eviction, why: str) -> None:
        if evicted.bytes:
            self.swept(namespace, evicted.bytes)
        log.info(
            "namespace %s: feature set %s %s (%s): %d shards, %d bytes freed",
            namespace,
            evicted.key,
            "evicted" if evicted.complete else "evicted in part, the next round goes on",
            why,
            evicted.shards,
            evicted.bytes,
        )


def _recipe(resource: Json) -> str | None:
    """Give the recipe of a session; None also where its spec is of another version, and it cannot run."""
    try:
        return recipe_digest(resource["spec"])
    except (AttributeError, KeyError, TypeError):
        return None
