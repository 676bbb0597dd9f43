"""What a module needs besides the trainer's packages: from a lock with hashes beside its code, into its own folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from trainingsession_trainer.errors import DataError, SpecError, Stopped
from trainingsession_trainer.reporting import Reporter
from trainingsession_trainer.structure import clip, shown

FILE = "requirements.txt"
INDEX = "TRAININGSESSION_PACKAGE_INDEX"
"""Address of the index that the chart names; one that an image of the user's names itself wins."""
_LOCK_BYTES = 4 << 20
_PIN = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^]]*\])?\s*==\s*(?P<version>[^\s;#*]+)(?=[\s;]|$)", re.ASCII
)
_HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}(\s|$)")
_LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class Pin:
    """One line of a lock; `text` is what the installer reads."""

    name: str
    version: str
    text: str


def read_lock(text: str) -> list[Pin]:
    """Read a lock in which every package has one version and its hashes; raises SpecError naming the line."""
    pins = []
    joined = re.sub(r"\\\r?\n", " ", text)
    for line in joined.splitlines():
        plain = re.sub(r"(^|\s)#.*$", "", line).strip()
        if not plain:
            continue
        found = _PIN.match(plain)
        if found is None:
            raise SpecError(
                f"{FILE} of the module has the line {shown(plain)}; every line must pin a package, as in name==1.2.3 "
                "--hash=sha256:…; write it with uv pip compile --generate-hashes --no-emit-index-url."
            )
        if not _HASH.search(plain):
            raise SpecError(
                f"{FILE} of the module pins {found['name']} without a --hash=sha256:…; "
                "write it with uv pip compile --generate-hashes."
            )
        pins.append(Pin(normal(found["name"]), found["version"], plain))
    return pins


def to_install(pins: list[Pin], present: Mapping[str, str]) -> list[Pin]:
    """Leave out what the trainer has; raises SpecError where the lock wants another version of it."""
    for pin in pins:
        version = present.get(pin.name)
        # A version of a local build, 2.1+cpu, is the public one.
        if version is not None and version.split("+")[0] != pin.version.split("+")[0]:
            raise SpecError(
                f"{FILE} of the module pins {pin.name}=={pin.version}, and the trainer has {version}; "
                f"compile it with the constraint {pin.name}=={version}, or use spec.module.image."
            )
    return [pin for pin in pins if pin.name not in present]


def normal(name: str) -> str:
    """Write a package's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def present_packages() -> dict[str, str]:
    """List what is installed beside the trainer: version by name."""
    return {normal(found.name): found.version for found in distributions()}


def install(code: Path, target: Path, reporter: Reporter, stop: Callable[[], bool]) -> None:
    """Install what the lock beside the code asks for into `target`; raises SpecError, DataError, Stopped.

    Only wheels, so that nothing is built and no code of a package runs; what they need is in the lock or missing.
    """
    lock = code / FILE
    if not lock.is_file():
        return
    if lock.stat().st_size > _LOCK_BYTES:
        raise SpecError(f"{FILE} of the module has more than {_LOCK_BYTES >> 20} MiB; it must be a list of packages.")
    pins = to_install(read_lock(lock.read_text("utf-8", "replace")), present_packages())
    if not pins:
        return
    reporter.info(f"Installing {len(pins)} packages of the module: {clip(', '.join(pin.name for pin in pins), 400)}")
    chosen = target.with_name(f"{target.name}.txt")
    chosen.write_text("".join(f"{pin.text}\n" for pin in pins), "utf-8")
    words = _pip(chosen, target, stop)
    if words is None:
        return
    if "HASHES" in words or "hash" in words.lower():
        raise SpecError(f"{FILE} of the module names other hashes than the index has ({words}); compile it again.")
    raise DataError(
        f"{FILE} of the module cannot be installed ({words}); "
        "check its versions, and the pod's way to the package index (trainer.packageIndex of the chart names another)."
    )


def _pip(requirements: Path, target: Path, stop: Callable[[], bool]) -> str | None:
    """Run pip; gives its last error, or None."""
    command = [sys.executable, "-m", "pip", "install", "--require-hashes", "--no-deps", "--only-binary", ":all:"]
    command += ["--no-cache-dir", "--no-input", "--disable-pip-version-check", "--no-warn-conflicts", "--quiet"]
    command += ["--retries", "2", "--timeout", "20", "--target", str(target), "--requirement", str(requirements)]
    log = requirements.with_suffix(".log")
    environment = {**os.environ, "PYTHONPATH": ""}
    if os.environ.get(INDEX):
        environment.setdefault("PIP_INDEX_URL", os.environ[INDEX])
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        try:
            while process.poll() is None:
                if stop():
                    raise Stopped("Stopped while the module's packages were installed; the next attempt does it again.")
                time.sleep(_LOOK_SECONDS)
        finally:
            process.kill()
            process.wait()
    if process.returncode == 0:
        return None
    lines = log.read_text("utf-8", "replace").splitlines()
    errors = [line for line in lines if line.startswith("ERROR:")] or lines[-1:] or ["no word"]
    return clip(" ".join(errors[0].removeprefix("ERROR:").split()), 300)
