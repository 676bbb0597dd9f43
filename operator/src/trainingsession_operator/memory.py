"""Small in memory, for the years between two restarts."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import threading

TRIM_SECONDS = 60.0


def freeze() -> None:
    """Leave what the imports made (half a million objects, for ever) out of every later garbage collection."""
    gc.collect()
    gc.freeze()


def keep_trimming(stop: threading.Event) -> None:
    """Give freed memory back to the system from time to time, until `stop`.

    glibc keeps what lies below the newest block, such as most of a list of all sessions that was parsed. Where the C
    library has no malloc_trim (musl), nothing is done.
    """
    trim = None
    with contextlib.suppress(OSError, AttributeError):
        trim = ctypes.CDLL(None).malloc_trim
    while not stop.wait(TRIM_SECONDS):
        if trim is not None:
            trim(0)
