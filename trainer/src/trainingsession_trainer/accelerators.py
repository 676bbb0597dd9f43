"""Whether the GPUs that a session holds can be used."""

from __future__ import annotations

import os

from .errors import AcceleratorError
from .reporting import Reporter
from .spec import Resources

VARIABLE = "TRAININGSESSION_GPUS"
"""required (the default): a GPU that is held must be usable; optional: some clusters offer GPUs only in name."""


def check_accelerators(resources: Resources, reporter: Reporter, *, required: bool | None = None) -> None:
    """Say what is computed on; raises AcceleratorError for GPUs that are held but cannot be used.

    Where `required` is not given, the environment says it.
    """
    import tensorflow as tf

    visible = len(tf.config.list_physical_devices("GPU"))
    if required is None:
        required = os.environ.get(VARIABLE) != "optional"
    cuda = bool(tf.test.is_built_with_gpu_support())
    reporter.info(judge(resources.gpus, visible, cuda=cuda, required=required, claims=len(resources.claims)))


def judge(gpus: int, visible: int, *, cuda: bool, required: bool, claims: int = 0) -> str:
    """Return the line for the log; raises AcceleratorError. Kept apart from TensorFlow to be tried without a GPU."""
    # Claims may be of other devices too; one GPU must come with them.
    held = gpus or min(claims, 1)
    if held == 0:
        return "Computing on processors, as spec.resources.gpus is 0"
    if visible >= held:
        return f"Computing on {visible} GPU(s)"
    why = f"TensorFlow sees {visible}" if cuda else "this image's TensorFlow is built without CUDA"
    if required:
        remedy = "use the image built with CUDA"
        if cuda and visible:
            remedy = "slices of one GPU are seen as one, so check what the node offers or ask for fewer"
        elif cuda:
            remedy = "check the node's driver and device plugin"
        if claims:
            raise AcceleratorError(f"spec.resources.claims holds devices but {why}; {remedy}, or remove claims.")
        raise AcceleratorError(f"spec.resources.gpus is {held} but {why}; {remedy}, or set gpus to 0.")
    return f"Computing on processors although {held} GPU(s) are held: {why}"
