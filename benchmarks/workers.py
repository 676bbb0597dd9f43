"""Extraction by one pod beside extraction by two, each pinned to a core of its own, with one store.

A worker is a process as in a pod of an Indexed Job: its own TensorFlow with one thread, its own connection. Time counts
from when all workers have compiled until the last shard is stored. mongod shares the cores, as nothing else is there.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from trainingsession_trainer.embedded import embedded_mongod
from trainingsession_trainer.mongodb import connect

ROUNDS = 3
SHARDS, SHARD_IMAGES = 16, 128
BASE: dict[str, Any] = {"name": "InceptionV3", "inputSize": [139, 139], "weights": "none"}


def worker(uri: str, database: str, core: int) -> None:
    """Say ready, wait for the word, and complete the set with whoever else is there."""
    os.sched_setaffinity(0, {core})
    for variable in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        os.environ[variable] = "1"
    from features import never, quiet

    from trainingsession_trainer import config
    from trainingsession_trainer.base_models import open_base_model
    from trainingsession_trainer.datasets.splits import ArrayImages, make_split
    from trainingsession_trainer.extraction import Extraction
    from trainingsession_trainer.feature_sets import FeatureSet
    from trainingsession_trainer.feature_store import FeatureStore

    spec = config.parse_spec({"dataset": {"name": "digits"}, "baseModel": BASE})
    base = open_base_model(spec.base_model, Path(), quiet(), never).for_images((32, 32, 3))
    images = np.random.default_rng(0).integers(0, 256, (SHARDS * SHARD_IMAGES, 32, 32, 3), np.uint8)
    digests = [hashlib.sha256(image.tobytes()).digest() for image in images]
    split = make_split("train", ("noise",), np.zeros(len(images), np.int32), digests, ArrayImages(images))
    extraction = Extraction(FeatureStore(connect(uri, database), never), base, never, quiet().info)
    # One small set of its own has everything compiled.
    extraction.complete(split, FeatureSet(f"warm-{core}", "train", 64, 64, base.feature_shape), 1, lambda *_: None)
    print("ready", flush=True)
    sys.stdin.readline()
    found = FeatureSet("timed", "train", len(images), SHARD_IMAGES, base.feature_shape)
    ours = extraction.complete(split, found, SHARDS, lambda *_: None)
    print(sum(ours.values()), flush=True)


def seconds(uri: str, cores: list[int]) -> float:
    database = f"benchmark_{uuid.uuid4().hex[:8]}"
    command = [sys.executable, __file__, uri, database]
    plain = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    processes = [
        subprocess.Popen([*command, str(core)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=plain)
        for core in cores
    ]
    for process in processes:
        assert process.stdout is not None
        while process.stdout.readline() != "ready\n":
            assert process.poll() is None, "a worker ended early"
    started = time.perf_counter()
    for process in processes:
        process.stdin.write("go\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
    computed = [int(process.communicate()[0].split()[-1]) for process in processes]
    elapsed = time.perf_counter() - started
    assert sum(computed) == SHARDS * SHARD_IMAGES, computed
    return elapsed


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, embedded_mongod(Path(folder)) as uri:
        rounds = [(seconds(uri, [0]), seconds(uri, [0, 1])) for _ in range(ROUNDS)]
    one, two = (statistics.median(times) for times in zip(*rounds))
    ratio = statistics.median(first / second for first, second in rounds)
    images = SHARDS * SHARD_IMAGES
    print(f"{'workers, InceptionV3 139x139':36} {'images/s':>9}")
    print(f"{'1, on one core':36} {images / one:9.0f}")
    print(f"{'2, on a core each':36} {images / two:9.0f}")
    print(f"two beside one: {ratio:.2f} times as fast (wanted: at least 1.6); every image computed once")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        worker(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    else:
        main()
