"""Which part of a session a process does: the operator's Job says it on the command line."""

from __future__ import annotations

import os
from enum import StrEnum

INDEX_VARIABLE = "JOB_COMPLETION_INDEX"
"""Set by Kubernetes in the pods of an Indexed Job."""


class Task(StrEnum):
    """What to do of: features, head, result."""

    ALL = "all"
    EXTRACT = "extract"
    """Have all features stored; the head follows in a Job without a GPU."""
    TRAIN = "train"
    """The head and the result from stored features only; exit code 76 where one is missing or damaged."""


def is_helper() -> bool:
    """Whether this is one of several pods of a session, and not the one that trains and publishes."""
    return int(os.environ.get(INDEX_VARIABLE) or 0) > 0
