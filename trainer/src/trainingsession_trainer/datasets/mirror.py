"""Where data sets known by name come from: their own homes, or the mirror of a cluster that does not reach them."""

from __future__ import annotations

import os
from collections.abc import Mapping

from trainingsession_trainer.spec import FileSource

DATASETS_VARIABLE = "TRAININGSESSION_DATASETS_MIRROR"


def mirrored(source: FileSource, path: str, environment: Mapping[str, str] = os.environ) -> FileSource:
    """Give `path` below the mirror where one is set, else the file's own home; the SHA-256 is the same for both."""
    mirror = environment.get(DATASETS_VARIABLE, "").rstrip("/")
    return FileSource(f"{mirror}/{path}", None, source.sha256) if mirror else source
