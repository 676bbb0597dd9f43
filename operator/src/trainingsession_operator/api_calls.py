"""How the API server is called: connections, and its answers as plain JSON or as ApiError with its own sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import urllib3
from kubernetes import client, config

from .errors import ApiError, ConflictError, StartError
from .metrics import Metrics
from .rate_limit import RequestLimit
from .resource import Json
from .transport import Transport

REQUEST_TIMEOUT = (5, 30)
"""Seconds to connect, and without an answer. The client takes only whole numbers, and waits for ever without them."""


def connect(threads: int, limit: RequestLimit | None = None, metrics: Metrics | None = None) -> client.ApiClient:
    """Connect from inside a pod, else by the kubeconfig; one connection per thread is kept. Raises StartError.

    All requests together keep within `limit` and are counted in `metrics`.
    """
    try:
        try:
            config.load_incluster_config()
        except config.ConfigException:
            config.load_kube_config()
    except config.ConfigException as error:
        raise StartError(f"there is neither a service account nor a usable kubeconfig: {error}") from error
    settings = client.Configuration.get_default_copy()
    settings.connection_pool_maxsize = threads
    # Reconciling is repeated by the queue; a hidden second layer of retries would only delay it.
    settings.retries = retries()
    api = client.ApiClient(settings)
    if limit is not None:
        api.rest_client = Transport(settings, limit, metrics or Metrics())
    return api


def retries() -> urllib3.Retry:
    """One more try to connect, and none of anything that may have reached the API server."""
    # Whoever asks to wait is obeyed by the limit. urllib3 would make an error without code and words of such an answer.
    return urllib3.Retry(total=1, read=0, redirect=0, status=0, respect_retry_after_header=False)


class ApiCalls:
    """What every question to the API server has in common."""

    def _ask(self, what: str, method: Callable[..., Any], *arguments: Any) -> Json | None:
        """Call, with None for an object that is not there."""
        try:
            return self._call(what, method, *arguments)
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    def _call(self, what: str, method: Callable[..., Any], *arguments: Any, **options: Any) -> Json:
        try:
            # As it came: no objects of the generated client are made, only to be taken apart again.
            answer = method(*arguments, **options, _request_timeout=REQUEST_TIMEOUT, _preload_content=False)
            body: bytes = answer.data
        except client.ApiException as error:
            reason, sentence = _words(error)
            kind = ConflictError if error.status == HTTPStatus.CONFLICT else ApiError
            raise kind(f"cannot {what}: {sentence}", error.status or 0, reason) from error
        except urllib3.exceptions.HTTPError as error:
            cause = getattr(error, "reason", None) or error
            raise ApiError(f"cannot {what}: the API server does not answer ({cause})") from error
        try:
            plain: Json = json.loads(body)
        except ValueError as error:
            raise ApiError(f"cannot {what}: the answer is no JSON; is there a proxy before the API server?") from error
        return plain


def _words(error: client.ApiException) -> tuple[str, str]:
    """Give the API server's own reason and sentence."""
    try:
        status = json.loads(error.body)
        return str(status.get("reason", "")), str(status["message"])
    except (TypeError, ValueError, KeyError, AttributeError):
        return "", f"HTTP {error.status} {error.reason}"
