"""Imports TensorFlow without the notes that it prints from its static initializers, which no setting silences.

They come as two pairs of lines on file descriptor 2 while the libraries are loaded, before TF_CPP_MIN_LOG_LEVEL counts.
Everything else that is printed meanwhile passes. The filter is a process of its own, so that the last words of an
import that aborts pass too.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

_FILTER = r"""
import re, sys
notes = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog\(\) is called"
    rb"|I0000 \S+ +\d+ port\.cc:\d+\] oneDNN custom operations are on"
)
for line in iter(sys.stdin.buffer.readline, b""):
    if not notes.match(line):
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()
"""
_END_SECONDS = 5.0


def load_tensorflow() -> None:
    """Import TensorFlow, which takes seconds."""
    with _filtered_errors():
        import tensorflow  # noqa: F401 - to have it loaded


@contextlib.contextmanager
def _filtered_errors() -> Iterator[None]:
    # A session of its own: Ctrl-C ends the import, not the filter.
    command = [sys.executable, "-I", "-S", "-c", _FILTER]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    assert child.stdin is not None  # noqa: S101 - for the type checker
    sys.stderr.flush()
    kept = os.dup(2)
    os.dup2(child.stdin.fileno(), 2)
    child.stdin.close()
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        # What the import printed is out before the next line of the log.
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_END_SECONDS)
