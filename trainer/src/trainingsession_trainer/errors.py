"""How a session can fail: the class of an error decides the exit code, and the exit code decides what a Job does.

Every message is one sentence that names the field or file, its value and the remedy; it is shown as it is in
`kubectl get`, in the termination message and in the record.
"""

from __future__ import annotations

from typing import ClassVar


class TrainerError(Exception):
    """An end that is not a bug: its message is shown to the user without a traceback."""

    exit_code: ClassVar[int] = 1
    reason: ClassVar[str | None] = None
    """The word by which the operator tells this end from others of the same exit code, where there is one."""


class SpecError(TrainerError):
    """The spec cannot work; trying again with the same spec will not help."""

    exit_code = 64


class DivergedError(SpecError):
    """The loss became infinite or undefined."""

    reason = "Diverged"


class GpuMemoryError(SpecError):
    """A batch of the head's training does not fit into the accelerator's memory."""

    reason = "OutOfGpuMemory"


class HostMemoryError(SpecError):
    """A batch of the head's training does not fit into the machine's memory."""

    reason = "OutOfMemory"


class DataError(TrainerError):
    """The data set or the weights are bad: wrong digest, unreadable, empty, dangerous."""

    exit_code = 65


class StorageError(TrainerError):
    """MongoDB is unavailable or full; another attempt later can succeed."""

    exit_code = 69


class Stopped(TrainerError):  # noqa: N818 - being stopped is no error
    """Asked to stop, or replaced by a newer attempt; what was stored stays usable for the next attempt."""

    exit_code = 75


class AcceleratorError(TrainerError):
    """The session holds GPUs that TensorFlow cannot use; running on would only waste them."""

    exit_code = 76
