"""Start-up, kopf's settings, probes and shutdown."""

from __future__ import annotations

import logging
import threading
import time
from functools import partial
from pathlib import Path

from kubernetes.client import ApiException
from pymongo import MongoClient
from urllib3.exceptions import HTTPError

from . import memory
from .api_calls import connect
from .audit import Audit
from .cluster import Cluster
from .errors import ApiError, StartError
from .handlers import Intake, subscribe
from .health import Watchdog, serve, why_dead
from .index import SessionIndex
from .keeper import StorageKeeper
from .metrics import Metrics
from .mongodb import Document, check_uri, server_uri, with_authorities
from .mongodb import connect as connect_mongodb
from .mongodb_server import ServerSecretError, ensure_server_secret
from .newcomers import Newcomers
from .queue import Key, WorkQueue
from .rate_limit import RequestLimit
from .reconcile import PROGRESS_PER_SECOND, PROGRESS_SECONDS, Reconciler
from .records import Records
from .settings import Settings
from .tenants import Server
from .watches import NOT_DEFINED, keep_watching, watch

log = logging.getLogger(__name__)

WORK_STOP_SECONDS = 3.0
"""For running looks and the storage to end. All of it is within ten seconds, and whatever is cut off is done again."""
RECORD_PAUSE = 1.0
"""What a trainer writes at a turn of its work becomes one look."""
PING_SECONDS = 10.0


def progress_pause(live: int) -> float:
    """Seconds until a look at nothing but progress, of so many live sessions: no more looks than may be written."""
    return max(PROGRESS_SECONDS, live / PROGRESS_PER_SECOND)


def run(settings: Settings) -> None:
    """Run until SIGTERM; raises StartError when the cluster is not ready for the operator."""
    memory.freeze()
    metrics, stop = Metrics(), threading.Event()
    limit = RequestLimit(settings.requests_per_second, settings.requests_burst, stop)
    cluster = Cluster(connect(settings.workers + 4, limit, metrics))
    _check_cluster(cluster, settings)
    uri = mongodb_uri(cluster, settings)
    store = Records(mongodb_server(uri, settings), cluster, replaced=lambda: keeper.wake(inventory=True))

    keeper = StorageKeeper(
        settings, cluster, store, measured=metrics.measured, swept=metrics.swept, halted=metrics.halted
    )
    index, watchdog, newcomers = SessionIndex(ended=keeper.wake), Watchdog(), Newcomers()
    reconciler = Reconciler(settings, cluster, store, written=watchdog.wrote, gone=watchdog.forget, newcomers=newcomers)

    def forget(key: Key) -> None:
        watchdog.forget(key)
        reconciler.forget(key)

    queue = WorkQueue(reconciler.look, settings.workers, metrics)
    intake = Intake(queue, index, watchdog, metrics, forget, keeper.deleted, newcomers)
    audit = Audit(cluster, settings.namespaces, index, queue, metrics, intake.found)
    metrics.follow_sessions(index.census)
    metrics.follow_waiting(index.longest_pending)
    metrics.follow_watch(lambda: watchdog.silence()[0])

    def record_changed(uid: str, progress_alone: bool) -> None:
        key = index.find(uid)
        if key:
            queue.add(key, progress_pause(len(index)) if progress_alone else RECORD_PAUSE)

    def records_lost() -> None:
        for key in index.live():
            queue.add(key, mended=True)

    readiness = _Readiness(store, metrics)
    server = serve(settings.metrics_port, readiness.why_not, metrics)
    followers = [
        threading.Thread(target=store.follow, args=(record_changed, records_lost, stop), name="records", daemon=True),
        threading.Thread(target=readiness.keep_asking, args=(stop,), name="mongodb", daemon=True),
        storing := threading.Thread(target=keeper.keep, args=(stop,), name="storage", daemon=True),
        threading.Thread(target=audit.keep, args=(stop,), name="audit", daemon=True),
        threading.Thread(target=memory.keep_trimming, args=(stop,), name="memory", daemon=True),
    ]
    files = _Files(settings.mongodb_uri_file, settings.mongodb_ca_file)
    registry = subscribe(
        intake, lambda: why_dead(watchdog, queue, followers, lambda: audit.why_lost() or files.why_changed())
    )
    for thread in followers:
        thread.start()
    queue.start()
    where = ", ".join(settings.namespaces) or "all namespaces"
    log.info("serving sessions of %s with %d workers and trainer %s", where, settings.workers, settings.trainer_image)
    try:
        keep_watching(
            partial(watch, registry, settings.namespaces, settings.health_port), partial(_check_still_defined, cluster)
        )
    finally:
        stop.set()
        keeper.wake()
        server.shutdown()
        end = time.monotonic() + WORK_STOP_SECONDS
        is_done = queue.stop(WORK_STOP_SECONDS)
        # It notes the deletions that were seen last.
        storing.join(max(0.0, end - time.monotonic()))
        if is_done and not storing.is_alive():
            store.close()
        else:
            # With closed connections, a running look would tell its session that MongoDB is away.
            log.warning("stopped in the middle of some work; the next operator does it again")
        log.info("stopped")


class _Readiness:
    """Ready while MongoDB can be used; asked in the background, so that a probe never waits."""

    def __init__(self, store: Records, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self._reason = "MongoDB has not been asked yet"

    def why_not(self) -> str:
        return self._reason

    def keep_asking(self, stop: threading.Event) -> None:
        while not stop.is_set():
            reason = self._store.ping()
            if stop.is_set():
                return
            is_new, self._reason = reason != self._reason, reason
            self._metrics.mongodb(up=not reason)
            # Last: whoever reads the line finds probe and metric saying the same.
            if is_new:
                log.log(logging.WARNING if reason else logging.INFO, reason or "MongoDB can be used")
            self._metrics.replica_set(self._store.members(), None if reason else self._store.disk())
            stop.wait(PING_SECONDS if not reason else 1.0)


class _Files:
    """Files that are read at the start only: where a Secret changed, a restart takes up what it holds now."""

    def __init__(self, *paths: str) -> None:
        self._held = {path: self._content(path) for path in paths if path}

    def why_changed(self) -> str:
        """Say which file changed; empty when none did."""
        changed = next((p for p, held in self._held.items() if self._content(p) not in (held, None)), "")
        return f"{changed} has changed since the operator read it" if changed else ""

    @staticmethod
    def _content(path: str) -> bytes | None:
        try:
            return Path(path).read_bytes()
        except OSError:
            return None


def _check_cluster(cluster: Cluster, settings: Settings) -> None:
    try:
        if not cluster.is_defined():
            raise StartError(NOT_DEFINED)
        cluster.check_access(settings.namespaces)
    except ApiError as error:
        raise StartError(f"the operator {error}; check its rights (ClusterRole or Roles) and the API server") from error


def _check_still_defined(cluster: Cluster) -> None:
    """Raise StartError where the definition was deleted; an API server that does not answer is waited for."""
    try:
        if not cluster.is_defined():
            raise StartError(NOT_DEFINED)
    except ApiError as error:
        log.warning("the operator %s", error)


def log_in(settings: Settings) -> tuple[Cluster, Server, MongoClient[Document]]:
    """Give a command in the operator's pod the cluster and MongoDB, as the Secret says now; raises StartError."""
    cluster = Cluster(connect(threads=2))
    server = mongodb_server(mongodb_uri(cluster, settings), settings)
    return cluster, server, connect_mongodb(server.uri)


def mongodb_server(uri: str, settings: Settings) -> Server:
    """How operator and trainers reach the MongoDB of the administrator's URI; raises StartError."""
    authorities = _read(settings.mongodb_ca_file, "MongoDB's authorities") if settings.mongodb_ca_file else ""
    if authorities and "-----BEGIN CERTIFICATE-----" not in authorities:
        raise StartError(f"{settings.mongodb_ca_file} holds no certificate in PEM; give the authority's, as ca.crt")
    return Server(uri, settings.mongodb_users == "managed", authorities)


def mongodb_uri(cluster: Cluster, settings: Settings) -> str:
    """Give the administrator's URI, from a file or the server Secret; raises StartError."""
    if settings.mongodb_uri_file:
        uri = _read(settings.mongodb_uri_file, "the MongoDB URI")
        wrong = check_uri(uri)
        if wrong:
            raise StartError(f"{settings.mongodb_uri_file}: {wrong}")
        return with_authorities(uri, settings.mongodb_ca_file)
    try:
        found = ensure_server_secret(cluster.core, settings.pod_namespace, settings.mongodb_server_secret)
    except (ServerSecretError, ApiException, HTTPError) as error:
        secret = f"{settings.pod_namespace}/{settings.mongodb_server_secret}"
        raise StartError(f"the Secret {secret} cannot be used: {_first_line(error)}") from error
    uri = server_uri(settings.mongodb_hosts, settings.mongodb_replica_set, found.username, found.password)
    return with_authorities(uri, settings.mongodb_ca_file)


def _read(file: str, what: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise StartError(f"{what} cannot be read from {file}: {error}") from error


def _first_line(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error).splitlines()[0]
