"""Keras's weights from a mirror: Keras's own addresses are led there, and it checks and keeps what it gets as ever."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.request import BaseHandler, Request, build_opener, install_opener

WEIGHTS_VARIABLE = "TRAININGSESSION_WEIGHTS_MIRROR"
_HOME = re.compile(r"https://storage\.googleapis\.com/(?:tensorflow/)?keras-applications/")


class _LedToMirror(BaseHandler):
    """Changes the address of a request before it is opened."""

    # Before the handlers that set the header Host.
    handler_order = 100

    def __init__(self, mirror: str) -> None:
        self._mirror = mirror

    def https_request(self, request: Request) -> Request:
        found = _HOME.match(request.full_url)
        if found:
            request.full_url = f"{self._mirror}/{request.full_url[found.end() :]}"
        return request


@contextmanager
def keras_weights_mirror(environment: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Have Keras's weights come from the mirror while the block runs, where one is set.

    Keras downloads with urllib, whose opener is one for the whole process; sessions download nothing else meanwhile.
    """
    mirror = environment.get(WEIGHTS_VARIABLE, "").rstrip("/")
    if not mirror:
        yield
        return
    install_opener(build_opener(_LedToMirror(mirror)))
    try:
        yield
    finally:
        install_opener(build_opener())
