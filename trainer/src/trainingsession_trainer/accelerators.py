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
    reporter.info(judge(resources.gpus, visible, cuda=cuda, required=required))


def judge(held: int, visible: int, *, cuda: bool, required: bool) -> str:
    """Return the line for the log; raises AcceleratorError. Kept apart from TensorFlow to be tried without a GPU."""
    if held == 0:
        return "Computing on processors, as spec.resources.gpus is 0"
    if visible >= held:
        return f"Computing on {visible} GPU(s)"
    why = f"TensorFlow sees {visible}" if cuda else "this image's TensorFlow is built without CUDA"
    if required:
        remedy = "check the node's driver and device plugin" if cuda else "use the image built with CUDA"
        raise AcceleratorError(f"spec.resources.gpus is {held} but {why}; {remedy}, or set gpus to 0.")
    return f"Computing on processors although {held} GPU(s) are held: {why}"
