"""How work on a session can fail: the class decides whether to try again.

`WaitError` passes by itself: the key is tried again, with growing pauses. `SessionError` does not: the session gets a
condition with the sentence, and nothing is tried until it changes. Anything else is a bug: logged with its traceback
and tried again.
"""

from __future__ import annotations

import re
from http import HTTPStatus


class OperatorError(Exception):
    """Base of the operator's own errors; the message is one sentence for people."""


class WaitError(OperatorError):
    """Something outside is away; trying again later can succeed."""

    @property
    def away(self) -> bool:
        """Whether all sessions are hit alike, and it may be back any moment."""
        return True


class ApiError(WaitError):
    """The API server did not do what was asked; `status` is its HTTP code, 0 where it did not answer."""

    def __init__(self, message: str, status: int = 0, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason

    @property
    def away(self) -> bool:
        """Not where the API server answered and refused this very request."""
        return self.status in (0, HTTPStatus.TOO_MANY_REQUESTS) or self.status >= 500


class ConflictError(ApiError):
    """The object changed since it was read; look at the fresh one."""


class StorageUnavailableError(WaitError):
    """MongoDB cannot be reached or does not do what was asked."""


class UnreadableError(WaitError):
    """The session cannot be read by this version of the operator; it waits for another one, or for its own change."""

    @property
    def away(self) -> bool:
        """Nothing comes back by itself."""
        return False


class SessionError(OperatorError):
    """The session cannot be run as it is; `reason` is the reason of its condition."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class StartError(OperatorError):
    """The operator cannot start; the process ends with the sentence and is started again by Kubernetes."""


def driver_words(error: Exception) -> str:
    """Give the first sentence of MongoDB's driver; its topology dump and whole answers help nobody at night."""
    return re.split(r", Timeout:| \(configured timeouts|, full error", str(error), maxsplit=1)[0].strip()[:300]
