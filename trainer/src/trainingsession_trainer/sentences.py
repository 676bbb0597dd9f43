"""What log and record are told about a session: in one line, in figures, and why it cannot go on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from typing import Any

import keras
import tensorflow as tf

from .errors import DataError
from .prepared import FeaturesSummary, PreparedFeatures
from .spec import Session

IMAGE_VARIABLE = "TRAININGSESSION_IMAGE"


def describe(session: Session) -> str:
    """Say in one line what the session is about."""
    dataset, base, training = session.spec.dataset, session.spec.base_model, session.spec.training
    weights = base.weights if base.weights_from is None else base.weights_from.uri
    return (
        f"{(dataset.subset * 100).normalize():f} % of {dataset.title}, {base.name} with weights {weights}, "
        f"{training.optimizer.name}, {training.epochs} epochs of batches of {training.batch_size}"
    )


def bug_sentence(error: Exception) -> str:
    """Name a bug in one sentence."""
    words = " ".join(str(error).split())[:1000]
    return f"The trainer failed unexpectedly ({type(error).__name__}: {words}); see the log for the traceback."


def facts_of(summary: FeaturesSummary) -> dict[str, Any]:
    """Give the record's words for where the features came from."""
    return {
        "key": summary.key,
        "shards": summary.shards,
        "reused": summary.reused,
        "computed": summary.computed,
        "secondsSaved": round(summary.seconds_saved),
        "gpuSecondsSaved": round(summary.gpu_seconds_saved),
    }


def check_parts(prepared: PreparedFeatures) -> None:
    """Raise DataError where a part that is needed has no image."""
    if len(prepared.train) == 0:
        raise DataError("No image is left for training; lower spec.dataset.validationSplit or raise subset.")
    if len(prepared.test) == 0:
        raise DataError("No image is left for the test; raise spec.dataset.testSubset or add test images.")


def trainer_facts() -> dict[str, Any]:
    """Give the record's words for what runs here."""
    versions = {
        "trainer": version("trainingsession-trainer"),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "python": platform.python_version(),
    }
    return {"image": os.environ.get(IMAGE_VARIABLE, ""), "versions": versions}
