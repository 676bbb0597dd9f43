"""Many workers on one feature set and one mongod: does k times the workers mean k times the speed, and until when.

A worker is a process with a store of its own that goes the trainer's way (claim, compute, store, until none is left);
only its base model is a pause: as long as a GPU of the stated speed would need for a shard. All workers and mongod
share this machine, which pays for encoding and hashing too, so that the limit is found earlier than with nodes of
their own. Ideal is what the pauses alone allow; the efficiency is the measured speed beside it.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import random
import tempfile
import time
import uuid
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainingsession_trainer.datasets.splits import ArrayImages, Split, make_split
from trainingsession_trainer.embedded import embedded_mongod
from trainingsession_trainer.extraction import Extraction
from trainingsession_trainer.feature_sets import FeatureSet
from trainingsession_trainer.feature_store import FeatureStore
from trainingsession_trainer.mongodb import connect

IMAGES = 1024
SHAPES = {"MobileNet 0.25 96x96": (3, 3, 256), "InceptionV3 139x139": (3, 3, 2048)}
ZEROS = 0.67
SHARDS_PER_WORKER = 6
SECONDS_PER_SHARD = 10.0


class Pausing:
    """An extractor that gives the same features after the time that a GPU would need."""

    def __init__(self, features: npt.NDArray[np.float32], seconds: float) -> None:
        self._features = features
        self._seconds = seconds

    def features(
        self, split: Split, low: int, high: int, tick: Callable[[int, int], None], see: object
    ) -> npt.NDArray[np.float32]:
        # Workers are never in step: they start at different times, and images take longer or shorter.
        time.sleep(self._seconds * random.uniform(0.8, 1.2))
        tick(high - low, high - low)
        return self._features[: high - low]


class PausingExtraction(Extraction):
    """The trainer's extraction with that in place of the base model."""

    def __init__(self, store: FeatureStore, extractor: Pausing) -> None:
        super().__init__(store, base=Float32(), stop=lambda: False, say=lambda _: None)  # type: ignore[arg-type]
        self.__dict__["_extractor"] = extractor


class Float32:
    """What the extraction asks a base model when it stores features."""

    precision = "float32"


def features(shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(0)
    values = np.exp(0.7 * rng.standard_normal((IMAGES, *shape), np.float32))
    values[rng.random(values.shape, np.float32) < ZEROS] = 0
    return values


def work(uri: str, database: str, found: FeatureSet, extractor: Pausing, split: Split, start: Barrier) -> None:
    random.seed(os.getpid())
    extraction = PausingExtraction(FeatureStore(connect(uri, database), lambda: False), extractor)
    start.wait()
    extraction.complete(split, found, found.shards_for(found.images), lambda *_: None)


def measure(uri: str, workers: int, values: npt.NDArray[np.float32], seconds: float) -> tuple[float, float]:
    """Give images per second of all workers together, and MB per second that mongod was sent."""
    shards = SHARDS_PER_WORKER * workers
    count = shards * IMAGES
    # No split that has thumbnails: there is no image here to see.
    found = FeatureSet("key", "noise", count, IMAGES, values.shape[1:])
    images = np.zeros((count, 1, 1, 3), np.uint8)
    digests = [hashlib.sha256(index.to_bytes(8, "big")).digest() for index in range(count)]
    split = make_split("train", ("noise",), np.zeros(count, np.int32), digests, ArrayImages(images))
    name = f"scale_{uuid.uuid4().hex[:8]}"
    # Forked: TensorFlow is imported once and used by none.
    context = multiprocessing.get_context("fork")
    start = context.Barrier(workers + 1)
    arguments = (uri, name, found, Pausing(values, seconds), split, start)
    processes = [context.Process(target=work, args=arguments) for _ in range(workers)]
    for process in processes:
        process.start()
    start.wait()
    started = time.perf_counter()
    for process in processes:
        process.join()
    elapsed = time.perf_counter() - started
    assert all(process.exitcode == 0 for process in processes)
    database = connect(uri, name)
    stored = list(database["feature_shards"].find({}, {"images": 1, "bytes": 1}))
    assert sum(shard["images"] for shard in stored) == count
    assert database["features.files"].count_documents({}) == shards, "a shard was computed twice"
    sent = sum(shard["bytes"] for shard in stored) / 1e6
    database.client.drop_database(name)
    return count / elapsed, sent / elapsed


def main(most: int) -> None:
    print(f"{SHARDS_PER_WORKER} shards of {IMAGES:,} images per worker, {ZEROS:.0%} zeros, {os.cpu_count()} cores\n")
    columns = ("workers", "each img/s", "ideal img/s", "img/s", "MB/s", "efficiency")
    header = f"{'features':22} " + " ".join(f"{column:>11}" for column in columns)
    print(header, flush=True)
    with tempfile.TemporaryDirectory() as folder, embedded_mongod(Path(folder)) as uri:
        for name, shape in SHAPES.items():
            values = features(shape)
            plan: list[tuple[int, float]] = [(k, SECONDS_PER_SHARD) for k in (1, 4, 16, 64) if k <= most]
            plan += [(most, SECONDS_PER_SHARD / faster) for faster in (2, 4, 8, 16)]
            for workers, seconds in plan:
                speed, sent = measure(uri, workers, values, seconds)
                ideal = workers * IMAGES / seconds
                cells = (f"{workers}", f"{IMAGES / seconds:.0f}", f"{ideal:.0f}", f"{speed:.0f}", f"{sent:.0f}")
                row = " ".join(f"{cell:>11}" for cell in (*cells, f"{speed / ideal:.2f}"))
                print(f"{name:22} {row}", flush=True)
                if speed < 0.4 * ideal:
                    break


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--most", type=int, default=64, help="workers at most (64)")
    main(parser.parse_args().most)
