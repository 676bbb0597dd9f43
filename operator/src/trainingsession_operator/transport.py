"""What every request to the API server passes through: the limit, and the metrics."""

from __future__ import annotations

import re
import time
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from kubernetes import client
from kubernetes.client.rest import RESTClientObject

from .errors import ApiError
from .metrics import Metrics
from .rate_limit import RequestLimit

_PATH = re.compile(
    r"/(?:api/v1|apis/[^/]+/[^/]+)(?:/namespaces/[^/]+(?=/))?/(?P<resource>[^/]+)(?:/(?P<name>[^/]+)(?:/(?P<sub>[^/]+))?)?"
)
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_BUSY = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)


class Transport(RESTClientObject):  # type: ignore[misc] # the client ships no types
    """The client's own way to the API server, within the limit and counted."""

    def __init__(self, configuration: client.Configuration, limit: RequestLimit, metrics: Metrics) -> None:
        super().__init__(configuration)
        self._limit = limit
        self._metrics = metrics

    def request(self, method: str, url: str, *arguments: Any, **options: Any) -> Any:
        """Send when the limit allows it. Raises what the client raises, and ApiError when the operator is stopping."""
        waited = self._limit.wait()
        if waited is None:
            raise ApiError(f"cannot {method} {urlsplit(url).path}: the operator is stopping")
        self._metrics.throttled(waited)
        verb, resource = request_of(method, url)
        began, code = time.monotonic(), "<error>"
        try:
            answer = super().request(method, url, *arguments, **options)
            code = str(answer.status)
        except client.ApiException as error:
            code = str(error.status or code)
            if error.status in _BUSY:
                self._limit.rest(retry_after(error))
            raise
        else:
            return answer
        finally:
            self._metrics.requested(verb, resource, code, time.monotonic() - began)


def request_of(method: str, url: str) -> tuple[str, str]:
    """Kubernetes' verb and resource of a request, as in RBAC: ("patch", "trainingsessions/status")."""
    found = _PATH.search(urlsplit(url).path)
    if found is None:
        return _VERBS.get(method, "get"), "other"
    verb = _VERBS.get(method) or ("get" if found["name"] else "list")
    return verb, found["resource"] + (f"/{found['sub']}" if found["sub"] else "")


def retry_after(error: client.ApiException) -> float:
    """Seconds for which the server asks to be left alone; 0 where it does not."""
    text = str((error.headers or {}).get("Retry-After", ""))
    return float(text) if text.isascii() and text.isdecimal() else 0.0
