"""kopf as it is used here: watches that tell of every event, and nothing that it would do besides."""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import kopf

from .cluster import DEFINITION
from .errors import StartError
from .jobs import MANAGED_BY, MANAGED_LABEL

log = logging.getLogger(__name__)

NOT_DEFINED = (
    f"the definition {DEFINITION} is not served; install the chart, or apply manifests/crd/trainingsessions.yaml"
)
CALM_SECONDS = 60.0
"""An error after so long a time is the first one again."""
WATCH_STOP_SECONDS = 6.0
"""For kopf to end its watches; it takes less than one, and kills the process after this."""


def watch(registry: kopf.OperatorRegistry, namespaces: tuple[str, ...], health_port: int) -> None:
    """Watch, and serve /healthz, until a signal tells to stop."""
    kopf.run(
        registry=registry,
        settings=kopf_settings(),
        standalone=True,
        clusterwide=not namespaces,
        namespaces=list(namespaces),
        liveness_endpoint=f"http://0.0.0.0:{health_port}/healthz",
    )


def keep_watching(
    run: Callable[[], None],
    check_definition: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Run kopf until it is told to stop. Where it ends with an error, all is listed and watched anew.

    Of the errors that the API server may send within a watch, kopf knows only 410, and ends for every other. An error
    that comes again within a minute is raised, and ends the process. `check_definition` raises StartError where
    sessions are not served any more: kopf would begin again, and never look for them.
    """
    failed = float("-inf")
    while True:
        # kopf sets its own while it runs, and leaves none; without one, the first process of a container hears nothing.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        if failed > float("-inf"):
            check_definition()
        try:
            return run()
        except Exception as error:
            before, failed = failed, clock()
            if failed < before + CALM_SECONDS:
                if getattr(error, "status", None) == HTTPStatus.NOT_FOUND:
                    # What the API server tells of its kinds may lag behind what it serves.
                    raise StartError(NOT_DEFINED) from error
                raise
            log.warning("the watches ended, and all is listed and watched anew: %s", str(error)[:500])


def kopf_settings() -> kopf.OperatorSettings:
    """Set what kopf's defaults would get wrong here; each line says why."""
    settings = kopf.OperatorSettings()
    # A limit below the number of objects indexed at the start can deadlock it; handlers only put keys on a queue.
    settings.queueing.worker_limit = None
    # No other kopf operator is a peer, and no peering resource is looked for.
    settings.peering.standalone = True
    # The definition is checked once at the start; a permanent scan would need rights on all definitions.
    settings.scanning.disabled = True
    # With the defaults, 54 seconds of errors from the API server end the process.
    settings.networking.error_backoffs = (1, 2, 3, 5, 8, 13, 21, *[30] * 20)
    settings.networking.request_timeout = 30
    # A watch ends after 10 minutes by itself, and after 70 s without an event or a bookmark.
    settings.watching.server_timeout = 600
    settings.watching.connect_timeout = 30
    # Filtered by the server: other people's Jobs and pods cost nothing.
    settings.watching.label_selectors["batch", "v1", "jobs"] = f"{MANAGED_LABEL}={MANAGED_BY}"
    settings.watching.label_selectors["", "v1", "pods"] = f"{MANAGED_LABEL}={MANAGED_BY}"
    # Nothing is kept about objects, neither in their annotations nor by comparing them with a copy of what they were.
    settings.persistence.diffbase_storage = _NoDiff()
    settings.persistence.progress_storage = _NoProgress()
    # The operator posts its own few Events.
    settings.posting.enabled = False
    # Ten minutes by default, far beyond the kubelet's patience.
    settings.process.ultimate_exiting_timeout = WATCH_STOP_SECONDS
    # For what the watches brought last, which the next operator is told of again.
    settings.queueing.exit_timeout = 1.0
    return settings


class _NoDiff(kopf.DiffBaseStorage):
    """Compares nothing: kopf would copy every object of every event three times, though no handler asks for changes."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> Any:
        return None

    def store(self, **_: Any) -> None:
        """Leave the object as it is."""


class _NoProgress(kopf.ProgressStorage):
    """Remembers nothing: handlers only put keys on a queue, which does its own retries."""

    def fetch(self, **_: Any) -> Any:
        return None

    def store(self, **_: Any) -> None:
        """Leave the object as it is."""

    def purge(self, **_: Any) -> None:
        """Nothing was stored."""

    def touch(self, **_: Any) -> None:
        """Nothing wakes kopf again."""

    def clear(self, *, essence: Any) -> Any:
        return essence
