"""What a module's process may touch: it reads everything but the pod's credentials, and writes only its work folder.

By Landlock, which needs no rights (Linux 5.13; https://docs.kernel.org/userspace-api/landlock.html). It also keeps the
process from reading the memory of those outside of it and from ending them: the trainer holds the password.
"""

from __future__ import annotations

import ctypes
import os
import signal
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

# The same on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG, _PATH_BENEATH = 1, 1
_SET_PARENT_DEATH_SIGNAL, _SET_NO_NEW_PRIVILEGES = 1, 38

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_MAKE_CHAR_TO_SYM = 0x1FC0  # and MAKE_DIR, MAKE_REG, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK
_REMOVE = 0x30  # REMOVE_DIR, REMOVE_FILE
_REFER, _TRUNCATE, _IOCTL_DEVICE = 1 << 13, 1 << 14, 1 << 15
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEVICE
_SCOPE_SOCKETS_AND_SIGNALS = 3


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("access", ctypes.c_uint64), ("parent", ctypes.c_int32))


def end_with_parent() -> None:
    """Have the kernel kill this process when its parent dies."""
    _libc().prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)


def restrict(hidden: Sequence[Path], writable: Sequence[Path]) -> bool:
    """Confine this process and all that it starts, for good; False where the kernel cannot.

    `hidden` folders can be neither read nor listed, and nothing can be written outside of `writable` and /dev.
    """
    libc = _libc()
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION_FLAG)
    if version < 1:
        return False
    handled = _READ | _WRITE_FILE | _REMOVE | _MAKE_CHAR_TO_SYM
    handled |= _REFER if version >= 2 else 0
    handled |= _TRUNCATE if version >= 3 else 0
    handled |= _IOCTL_DEVICE if version >= 5 else 0
    wanted = _Ruleset(handled, 0, _SCOPE_SOCKETS_AND_SIGNALS if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = libc.syscall(_CREATE_RULESET, ctypes.byref(wanted), ctypes.c_size_t(size), 0)
    if ruleset < 0:
        return False
    try:
        for path in _without(Path("/"), [path.resolve() for path in hidden]):
            _allow(ruleset, path, _READ)
        for path in (*writable, Path("/dev")):
            _allow(ruleset, path, handled)
        if libc.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
            return False
        return bool(libc.syscall(_RESTRICT_SELF, ruleset, 0) == 0)
    finally:
        os.close(ruleset)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _allow(ruleset: int, path: Path, access: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what cannot be opened need not be allowed
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            access &= _OF_FILES
        rule = _PathBeneath(access, descriptor)
        _libc().syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(descriptor)


def _without(path: Path, hidden: Sequence[Path]) -> Iterable[Path]:
    """Give the paths that together are everything below `path` but what is hidden: rules can only allow."""
    if path in hidden:
        return
    if not any(path in one.parents for one in hidden):
        yield path
        return
    try:
        children = sorted(path.iterdir())
    except OSError:
        return
    for child in children:
        # A link leads to where it leads; what is there is allowed or hidden by its own path.
        if not child.is_symlink():
            yield from _without(child, hidden)
