"""All that is needed to train the same again: what was asked for, with what it ran, on what, from which bytes."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import tensorflow as tf

_LIBRARIES = ("tensorflow-cpu", "tensorflow", "keras", "numpy", "pillow", "h5py", "onnx", "tf2onnx")


def describe_run(
    spec: Mapping[str, Any], image: str, feature_sets: Mapping[str, Any], samples: Mapping[str, int], seeds: list[int]
) -> dict[str, Any]:
    """Describe a run; `feature_sets` is by split what the key of the features is made of, with its key."""
    return {
        "spec": dict(spec),
        "image": image,
        "versions": versions(),
        "seeds": seeds,
        "samples": dict(samples),
        "features": dict(feature_sets),
        "hardware": hardware(),
    }


def versions() -> dict[str, str]:
    """Give the versions of the trainer, Python and the libraries that decide the result."""
    found = {"python": platform.python_version(), "trainer": version("trainingsession-trainer")}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Say what it ran on; the same bits are promised on the same kind of processor with as many threads."""
    details = tf.config.experimental.get_device_details
    gpus = [str(details(device).get("device_name", device.name)) for device in tf.config.list_physical_devices("GPU")]
    return {
        "machine": platform.machine(),
        "processor": _processor(),
        "processors": len(os.sched_getaffinity(0)),
        "threads": int(os.environ.get("TF_NUM_INTRAOP_THREADS") or 0) or len(os.sched_getaffinity(0)),
        "memoryBytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": gpus,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
