"""Whether the GPUs that a session holds can be used."""

from __future__ import annotations

from .config import Resources
from .errors import AcceleratorError
from .reporting import Reporter


def check_accelerators(resources: Resources, reporter: Reporter) -> None:
    """Say what is computed on; raises AcceleratorError for GPUs that are held but cannot be used."""
    import tensorflow as tf

    visible = len(tf.config.list_physical_devices("GPU"))
    reporter.info(judge(resources.gpus, visible, cuda=bool(tf.test.is_built_with_gpu_support())))


def judge(held: int, visible: int, *, cuda: bool) -> str:
    """Return the line for the log; raises AcceleratorError. Kept apart from TensorFlow to be tried without a GPU."""
    if held == 0:
        return "Computing on processors, as spec.resources.gpus is 0"
    if not cuda:
        # Some clusters offer GPUs only in name, for trying things out; the CPU image is the admin's own choice.
        return f"Computing on processors although {held} GPU(s) are held: this image's TensorFlow is built without CUDA"
    if visible < held:
        raise AcceleratorError(
            f"spec.resources.gpus is {held} but TensorFlow sees {visible}; "
            "check the node's driver and device plugin, or set gpus to 0."
        )
    return f"Computing on {visible} GPU(s)"
