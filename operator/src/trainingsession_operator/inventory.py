"""Takes inventory: compares what the namespaces' databases hold with the sessions that there are.

Everything is judged from one complete live list, and nothing is done in a namespace of which anything is in doubt:

- a status that claims success is compared with the record and the artifacts, and put right;
- what deleted sessions left goes after the grace (`deleted.py`), and then what nothing names (`sweep.py`), unless
  too many sessions vanished at once, or MongoDB came back empty or older (`sentinel.py`), until it is confirmed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import islice

from . import deleted, sentinel
from .claims import Verdict, check, claims_of, some
from .cluster import PAGE, Cluster
from .errors import OperatorError
from .records import Records
from .resource import GROUP, Json, deletion_policy
from .settings import Settings
from .storage import BUCKETS, NamespaceDatabase, Pace, at_once, bucket_bytes, server_time
from .sweep import sweep

log = logging.getLogger(__name__)

CONFIRM = f"{GROUP}/confirm-deletions"
"""Annotation of a namespace with which an administrator confirms what a warning asks about, by its token."""


@dataclass
class Stock:
    """What is known of one namespace's sessions."""

    began: datetime
    """When the list of them was asked for, by MongoDB's clock."""
    policies: dict[str, str] = field(default_factory=dict)
    """UID → deletionPolicy of every session that is there."""
    verdict: Verdict = field(default_factory=Verdict)
    is_whole: bool = True
    """Whether all statuses could be compared with MongoDB."""
    found: deleted.Comparison | None = None
    """How the records compare with the list."""


@dataclass
class Inventory:
    """Takes inventory of all namespaces, one after the other."""

    settings: Settings
    cluster: Cluster
    records: Records
    measured: Callable[[str, str, int], None] = lambda namespace, bucket, size: None
    """Told the bytes in every bucket of every namespace, once per inventory."""
    swept: Callable[[str, int], None] = lambda namespace, size: None
    """Told the bytes that were freed."""
    halted: Callable[[str, bool], None] = lambda namespace, is_halted: None
    """Told whether nothing is removed in the namespace until an administrator has looked, once per inventory."""
    _seen: dict[str, datetime] = field(default_factory=dict)
    """Database → what its sentinel said last."""
    _halts: dict[str, str] = field(default_factory=dict)
    """Namespace → token of the doubt that was told."""

    def take(self, databases: Mapping[str, NamespaceDatabase], pace: Pace = at_once) -> None:
        """Take inventory; `databases` are those of the namespaces that are there, by name.

        What fails in one namespace is logged, and tried again the next time.
        """
        stocks: dict[str, Stock] = {}
        for scope in self.settings.namespaces or ("",):
            safely(f"storage of {scope or 'all namespaces'}", partial(self._list, scope, databases, stocks, pace))
        for namespace, stock in stocks.items():
            compare = partial(self._compare, databases[namespace], stock, pace)
            safely(f"storage of namespace {namespace}", compare)
        found = [stock.found for stock in stocks.values() if stock.found]
        everywhere = deleted.Comparison(sum(one.present for one in found), sum(one.vanished for one in found))
        for namespace, stock in stocks.items():
            if stock.found is not None and pace():
                look = partial(self._look_after, namespace, databases[namespace], stock, stock.found, everywhere, pace)
                safely(f"storage of namespace {namespace}", look)

    def _list(
        self, scope: str, databases: Mapping[str, NamespaceDatabase], stocks: dict[str, Stock], pace: Pace
    ) -> None:
        """Fill in the stocks of the namespaces of which all sessions were listed and looked at."""
        began = self.records.now()
        listed = {name: Stock(began) for name in databases if scope in ("", name)}
        for page in _pages(self.cluster.sessions(scope)):
            for namespace, sessions in _by_namespace(page).items():
                stock = listed.setdefault(namespace, Stock(began))
                stock.policies |= {one["metadata"]["uid"]: deletion_policy(one) for one in sessions}
                look = partial(self._check, namespace, databases.get(namespace), sessions, stock.verdict, pace)
                stock.is_whole &= safely(f"sessions of namespace {namespace}", look)
            if not pace():
                return
        # Only now is it certain that the list is complete.
        stocks |= {name: stock for name, stock in listed.items() if stock.is_whole and name in databases}

    def _compare(self, database: NamespaceDatabase, stock: Stock, pace: Pace) -> None:
        stock.found = deleted.compare(database, stock.policies, stock.began, pace)

    def _check(
        self, namespace: str, database: NamespaceDatabase | None, sessions: list[Json], verdict: Verdict, pace: Pace
    ) -> None:
        claims = claims_of(sessions)
        if claims and database is None:
            # Of a namespace with sessions, and yet without a database: MongoDB came back empty.
            uid = self.cluster.namespace_uid(namespace)
            database = None if uid is None else self.records.namespace_database(namespace, uid)
        if claims and database is not None:
            check(self.cluster, database, claims, verdict, pace)

    def _look_after(
        self,
        namespace: str,
        database: NamespaceDatabase,
        stock: Stock,
        found: deleted.Comparison,
        everywhere: deleted.Comparison,
        pace: Pace,
    ) -> None:
        for bucket in BUCKETS:
            self.measured(namespace, bucket, bucket_bytes(database, bucket))
        if self._is_doubtful(namespace, database, stock) or self._is_halted(namespace, found, everywhere):
            return
        grace = timedelta(seconds=self.settings.orphan_grace_seconds)

        def is_restored() -> bool:
            return sentinel.is_within(sentinel.read(database), grace, server_time(database))

        if is_restored():
            # What came back has its old age, and somebody may still name it, or put a deletion right.
            return

        looked = time.monotonic()

        def unrestored() -> bool:
            """Keep the pace, and stop where a restore begins: its files come back old and before what names them."""
            nonlocal looked
            if time.monotonic() >= looked + sentinel.LOOK_SECONDS:
                if is_restored():
                    return False
                looked = time.monotonic()
            return pace()

        if found.vanished or found.deleted:
            deleted.mark_missing(database, stock.policies, stock.began, unrestored)
        removed = deleted.remove_deleted(database, stock.policies, server_time(database) - grace, unrestored)
        removed += sweep(database, grace, unrestored, frozenset(stock.verdict.kept))
        if removed:
            self.swept(namespace, sum(one.bytes for one in removed))

    def _is_doubtful(self, namespace: str, database: NamespaceDatabase, stock: Stock) -> bool:
        """Whether MongoDB came back empty or older, and nobody has confirmed that it is to stay so."""
        found, before = sentinel.read(database), self._seen.get(database.name)
        confirmed = found.confirmed_at.isoformat() if found.confirmed_at else ""
        unknown = [name for name, end in stock.verdict.unknown.items() if end > confirmed]
        if not found.doubt and (unknown or (before is not None and (found.seen_at or datetime.min) < before)):
            found = sentinel.doubt(database)
        if found.doubt and self.cluster.namespace_annotation(namespace, CONFIRM) == found.doubt:
            found = sentinel.confirm(database)
        found = sentinel.refresh(database, found, server_time(database))
        if found.seen_at is not None:
            self._seen[database.name] = found.seen_at
        if found.doubt:
            known = f"{len(unknown)} sessions have succeeded of which it knows no result: {some(unknown)}"
            self._halt(
                namespace,
                found.doubt,
                f"MongoDB came back empty or older ({known if unknown else 'its sentinel was lost'}). Restore the "
                f"newest backup of database {database.name}; or, to go on with what is there, say",
            )
        return bool(found.doubt)

    def _is_halted(self, namespace: str, found: deleted.Comparison, everywhere: deleted.Comparison) -> bool:
        """Whether too many sessions vanished at once, here or in all namespaces together, and nobody confirmed it."""
        suspect = found if found.is_suspicious else everywhere
        if (
            not found.vanished
            or not suspect.is_suspicious
            or self.cluster.namespace_annotation(namespace, CONFIRM) == found.digest
        ):
            self._go_on(namespace)
            return False
        others = "" if suspect is found else f", and {everywhere.vanished} of {everywhere.present} in all namespaces"
        self._halt(
            namespace,
            found.digest,
            f"{found.vanished} of {found.present} sessions vanished at once{others}, and their deletion was not seen. "
            "If the cluster was restored, restore the sessions too; if they were deleted, say",
        )
        return True

    def _halt(self, namespace: str, token: str, why: str) -> None:
        if self._halts.get(namespace) != token:
            log.warning(
                "namespace %s: nothing is removed from its storage, because %s: "
                "kubectl annotate --overwrite namespace %s %s=%s",
                namespace, why, namespace, CONFIRM, token,
            )  # fmt: skip
        self._halts[namespace] = token
        self.halted(namespace, True)

    def _go_on(self, namespace: str) -> None:
        if self._halts.pop(namespace, None):
            log.info("namespace %s: its storage is looked after again", namespace)
        self.halted(namespace, False)


def safely(what: str, work: Callable[[], None]) -> bool:
    """Do some work and log how it fails; whether it did not."""
    try:
        work()
    except OperatorError as error:
        log.warning("%s: %s; the next round tries again", what, error)
    except Exception:
        log.exception("%s: unexpected failure; the next round tries again", what)
    else:
        return True
    return False


def _pages(sessions: Iterator[Json]) -> Iterator[list[Json]]:
    while page := list(islice(sessions, PAGE)):
        yield page


def _by_namespace(sessions: Iterable[Json]) -> dict[str, list[Json]]:
    found: dict[str, list[Json]] = {}
    for one in sessions:
        found.setdefault(one["metadata"]["namespace"], []).append(one)
    return found
