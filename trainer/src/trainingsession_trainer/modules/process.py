"""The module's process as the trainer sees it: started without credentials, heard line by line, ended with all its own.

Nothing that it says is believed: lines are cut, figures are checked, and its answer is read as plain arrays.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainingsession_trainer.errors import DivergedError, HostMemoryError, SpecError, Stopped
from trainingsession_trainer.structure import clip

LINE_BYTES = 4096
GRACE_SECONDS = 5.0
"""Between asking the process to end and ending it."""
_LOOK_SECONDS = 0.25
_FIGURES = 32
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}", re.ASCII)
# Of the trainer's environment, what a process needs to find programs, GPU and processors.
_KEPT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE")
# The cluster's proxy and authorities, for a module that fetches something itself; neither is secret.
_KEPT_NETWORK = (
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
    "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
)  # fmt: skip
_KEPT_PREFIXES = ("TF_", "OMP_", "CUDA_", "NVIDIA_", "XLA_", "KERAS_BACKEND")


@dataclass(frozen=True)
class Epoch:
    """What a module reported of an epoch; `figures` are finite."""

    number: int
    figures: Mapping[str, float]


@dataclass
class Listener:
    """What to do with what the module says."""

    epoch: Callable[[Epoch], None]
    line: Callable[[str], None]
    """A line of its output."""
    note: Callable[[str], None]
    _end: Mapping[str, Any] | None = field(default=None, init=False)

    def event(self, text: str) -> None:
        """Take one line of JSON."""
        try:
            event = json.loads(text)
        except ValueError:
            return
        if not isinstance(event, dict):
            return
        if "stage" in event:
            self._end = event
        elif event.get("confined") is True:
            self.note("Landlock keeps the module's process from the session's credentials")
        elif event.get("confined") is False:
            self.note("The kernel has no Landlock: the module's code can read the session's credentials")
        elif isinstance(event.get("note"), str):
            self.note(clip(event["note"], 500))
        elif (epoch := _epoch(event)) is not None:
            self.epoch(epoch)

    @property
    def end(self) -> Mapping[str, Any]:
        """What the process said of its failure."""
        return self._end or {}


def run(
    folder: Path, workdir: Path, entry_point: str, listener: Listener, stop: Callable[[], bool], *, join: bool = False
) -> None:
    """Run the module to its end; raises SpecError with the module's failure in one sentence, Stopped."""
    hear, tell = os.pipe()
    command = [sys.executable, "-m", "trainingsession_trainer.modules.child", str(folder), str(workdir), str(tell)]
    try:
        process = subprocess.Popen(
            [*command, *(["join"] if join else [])],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[tell],
            cwd=workdir,
            env=environment(workdir),
            start_new_session=True,
        )
    finally:
        os.close(tell)
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    try:
        _listen(process, {process.stdout.fileno(): listener.line, hear: listener.event}, stop)
    finally:
        _end_all(process)
        process.stdout.close()
        os.close(hear)
    if process.returncode != 0:
        raise failure(entry_point, process.returncode, listener.end)


def environment(workdir: Path) -> dict[str, str]:
    """Give the process's environment: nothing of the trainer's own, and folders that it may write."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if key in (*_KEPT, *_KEPT_NETWORK) or key.startswith(_KEPT_PREFIXES)
    }
    home = str(workdir)
    return {**kept, "HOME": home, "TMPDIR": home, "KERAS_HOME": f"{home}/.keras", "XDG_CACHE_HOME": f"{home}/.cache",
            "MPLCONFIGDIR": f"{home}/.matplotlib", "PYTHONUNBUFFERED": "1"}  # fmt: skip


def failure(entry_point: str, code: int, end: Mapping[str, Any]) -> SpecError:
    """Make the sentence of a module that failed."""
    message, where = clip(_plain(end.get("message")), 400), clip(_plain(end.get("where")), 200)
    name, _, attribute = entry_point.partition(":")
    subject = f"spec.module: {entry_point}"
    match end.get("stage"):
        case "missing":
            return SpecError(
                f"spec.module.entryPoint names the module {name}, which cannot be found ({message}); "
                "correct it, or spec.module.git.path."
            )
        case "import":
            return SpecError(f"spec.module: {name} cannot be imported ({message}); mend it or its requirements.txt.")
        case "entry":
            return SpecError(f"spec.module.entryPoint names {attribute} in {name}, which {message}; name a function.")
        case "result":
            return SpecError(f"{subject} {message}.")
        case "diverged":
            return DivergedError(f"{subject} diverged: {message}; lower its learning rate.")
        case "memory":
            return HostMemoryError(f"{subject} ran out of memory; raise spec.resources.memory or take smaller parts.")
        case "call":
            return SpecError(f"{subject} failed ({message}){' at ' + where if where else ''}; see the log above.")
    if code == -signal.SIGKILL:
        return HostMemoryError(
            f"{subject} was killed, most likely for want of memory; raise spec.resources.memory or take smaller parts."
        )
    how = f"by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"with exit code {code}"
    return SpecError(f"{subject} ended {how} without a word; see the log above.")


def _listen(
    process: subprocess.Popen[bytes], sinks: Mapping[int, Callable[[str], None]], stop: Callable[[], bool]
) -> None:
    """Hear output and events until the process has ended; what its own children keep open is not waited for."""
    rest = dict.fromkeys(sinks, b"")
    with selectors.DefaultSelector() as selector:
        for descriptor in sinks:
            os.set_blocking(descriptor, False)
            selector.register(descriptor, selectors.EVENT_READ)
        while True:
            ended = process.poll() is not None
            ready = selector.select(0 if ended else _LOOK_SECONDS)
            for key, _ in ready:
                data = os.read(key.fd, 1 << 16)
                if not data:
                    selector.unregister(key.fd)
                rest[key.fd] = _lines(rest[key.fd] + data, sinks[key.fd])
            if stop() and not ended:
                raise Stopped("Stopped while the module ran; the next attempt runs it from its start.")
            if (ended and not ready) or (not selector.get_map() and process.wait() is not None):
                break
    for descriptor, left in rest.items():
        if left:
            sinks[descriptor](left.decode("utf-8", "replace"))


def _lines(data: bytes, sink: Callable[[str], None]) -> bytes:
    """Give whole lines away, long ones in pieces; returns what is left."""
    *lines, left = data.split(b"\n")
    while len(left) > LINE_BYTES:
        lines.append(left[:LINE_BYTES])
        left = left[LINE_BYTES:]
    for line in lines:
        sink(line[-(1 << 16) :].decode("utf-8", "replace").rstrip("\r"))
    return left


def _end_all(process: subprocess.Popen[bytes]) -> None:
    """End the process and all that it has started in its session."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            deadline = time.monotonic() + GRACE_SECONDS
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _epoch(event: Mapping[str, Any]) -> Epoch | None:
    number, figures = event.get("epoch"), event.get("figures")
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= 10**6:
        return None
    if not isinstance(figures, dict):
        return None
    good = {
        name: float(value)
        for name, value in list(figures.items())[:_FIGURES]
        if _NAME.fullmatch(name) and isinstance(value, int | float) and math.isfinite(value)
    }
    return Epoch(number, good)


def _plain(value: object) -> str:
    return " ".join(value.split()) if isinstance(value, str) else ""
