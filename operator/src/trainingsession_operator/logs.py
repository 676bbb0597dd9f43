"""Log lines in one form, ours and kopf's: as text for people or as JSON, with the session that each is about."""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
import signal
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

log = logging.getLogger(__name__)

CHATTY = ("kopf", "kubernetes", "pymongo", "urllib3", "asyncio", "aiohttp")
"""Libraries of which only warnings are told: below, they log whole bodies and every connection."""

_look: ContextVar[tuple[str, str, str]] = ContextVar("look", default=("", "", ""))


@contextlib.contextmanager
def looking_at(namespace: str, name: str) -> Iterator[None]:
    """Let every line of this thread carry the session and an ID of this look, until the end of the block."""
    token = _look.set((namespace, name, secrets.token_hex(4)))
    try:
        yield
    finally:
        _look.reset(token)


class AboutSession(logging.Filter):
    """Adds `namespace`, `session` and `reconcile_id` to a record; empty where it is about no session."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        namespace, session, reconcile_id = _look.get()
        # kopf says with each line of its own which object it is about.
        about: dict[str, Any] = getattr(record, "k8s_ref", None) or {}
        record.namespace = namespace or about.get("namespace") or ""
        record.session = session or about.get("name") or ""
        record.reconcile_id = reconcile_id
        return True


class TextFormatter(logging.Formatter):
    """Time in UTC, level, [session and look], what happened."""

    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(about)s%(message)s")
        self.converter = time.gmtime

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the parent's name
        """Leave out the session where the sentence names it itself."""
        session = getattr(record, "session", "")
        title = f"{getattr(record, 'namespace', '')}/{session}" if session else ""
        told = (title if title not in record.message else "", getattr(record, "reconcile_id", ""))
        about = " ".join(filter(None, told))
        record.about = f"[{about}] " if about else ""
        return super().formatMessage(record)


class JsonFormatter(TextFormatter):
    """One JSON object per line; fields that say nothing are left out."""

    def format(self, record: logging.LogRecord) -> str:
        """Put a traceback into the field `exception`."""
        fields = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            "namespace": getattr(record, "namespace", ""),
            "session": getattr(record, "session", ""),
            "reconcileID": getattr(record, "reconcile_id", ""),
            "logger": record.name,
            "exception": self.formatException(record.exc_info) if record.exc_info else "",
        }
        return json.dumps({key: value for key, value in fields.items() if value}, ensure_ascii=False)


def configure_logging(level: str, form: str = "text") -> None:
    """Write one line per event to standard error; `form` is text or json."""
    handler = logging.StreamHandler()
    handler.addFilter(AboutSession())
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for chatty in CHATTY:
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))


def toggle_on_signal(level: str) -> None:
    """Let SIGUSR1 switch between `level` and debug; only a process of the same pod can send it."""
    usual = logging.getLevelNamesMapping()[level.upper()]
    other = logging.DEBUG if usual != logging.DEBUG else logging.INFO

    def toggle(*_: object) -> None:
        root = logging.getLogger()
        root.setLevel(other if root.level == usual else usual)
        log.log(root.level, "the log level is %s now", logging.getLevelName(root.level).lower())

    signal.signal(signal.SIGUSR1, toggle)
