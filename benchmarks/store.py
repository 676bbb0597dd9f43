"""Shards in the feature store beside plain GridFS: upload and download of the same arrays with PyMongo's bucket.

Against a real mongod on this machine, with the write concern of the trainer (majority, journal). Rounds alternate and
their medians count, so that a machine that slows down slows all. The peers get the float16 array that is stored and
the float32 array that the base model gives. "On disk" is what mongod says of the chunks after a checkpoint: it
compresses them with snappy, whoever they belong to. Values are ReLU-like: log-normal, with zeros at random.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gridfs import GridFSBucket
from pymongo.database import Database

from trainingsession_trainer.embedded import embedded_mongod
from trainingsession_trainer.feature_sets import FeatureSet
from trainingsession_trainer.feature_store import BUCKET, FeatureStore
from trainingsession_trainer.mongodb import Document, connect

Array = npt.NDArray[Any]

ROUNDS = 7
IMAGES = 1024
SHAPE = (4, 4, 1024)  # 32 MiB of float16
ZEROS = (0.0, 0.6, 0.67, 0.8)


class Plain:
    """PyMongo's own bucket, as it is by default."""

    def __init__(self, database: Database[Document]) -> None:
        self.chunks = f"p{uuid.uuid4().hex[:8]}"
        self._bucket = GridFSBucket(database, self.chunks)
        self._last: Any = None

    def write(self, array: Array) -> None:
        self._last = self._bucket.upload_from_stream("shard", array.tobytes())

    def read(self, array: Array) -> Array:
        with self._bucket.open_download_stream(self._last) as stream:
            return np.frombuffer(stream.read(), array.dtype).reshape(array.shape)


class Ours:
    """The feature store: encode, hash and store; fetch, verify and decode."""

    def __init__(self, database: Database[Document]) -> None:
        self.chunks = BUCKET
        self.store = FeatureStore(database, lambda: False)
        self.found = FeatureSet(uuid.uuid4().hex, "train", 1000 * IMAGES, IMAGES, SHAPE)
        self.shards = 0

    def claim(self) -> None:
        """Done before a shard is computed, so no part of storing it."""
        assert self.store.claim(self.found, self.shards)

    def write(self, array: Array) -> None:
        assert self.store.finish(self.found, self.shards, array, {})
        self.shards += 1

    def read(self, array: Array) -> Array:
        document = self.store.find(self.found, self.shards - 1)
        assert document is not None
        features = self.store.read(self.found, self.shards - 1, document)
        assert features is not None
        return features


def features(zeros: float) -> Array:
    rng = np.random.default_rng(0)
    values = np.exp(0.7 * rng.standard_normal((IMAGES, *SHAPE), np.float32))
    values[rng.random(values.shape, np.float32) < zeros] = 0
    return values


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def on_disk(database: Database[Document], bucket: str) -> float:
    database.client.admin.command("fsync")
    return float(database.command("collStats", f"{bucket}.chunks")["storageSize"])


def measure(uri: str, zeros: float) -> None:
    wide = features(zeros)
    array = wide.astype(np.float16)
    database = connect(uri, f"store_{uuid.uuid4().hex[:8]}")
    ours = Ours(database)
    ways: dict[str, tuple[Any, Array]] = {
        "GridFS float16": (Plain(database), array),
        "GridFS float32": (Plain(database), wide),
        "feature store": (ours, array),
    }
    write: dict[str, list[float]] = {name: [] for name in ways}
    read: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(ROUNDS + 1):
        ours.claim()
        for name, (way, data) in ways.items():
            times = seconds(lambda: way.write(data)), seconds(lambda: way.read(data))  # noqa: B023 - called at once
            if turn:  # the first one makes collections and indexes
                write[name].append(times[0])
                read[name].append(times[1])
        assert np.array_equal(ours.read(array), array)

    sizes = {name: on_disk(database, way.chunks) / (ROUNDS + 1) for name, (way, _) in ways.items()}
    base = "GridFS float16"
    print(
        f"\n{zeros:.0%} zeros{'':10} {'write ms':>9} {'read ms':>9} {'on disk MB':>11}   write x  read x  of its disk"
    )
    for name in ways:
        w, r = statistics.median(write[name]), statistics.median(read[name])
        line = f"{name:19} {1e3 * w:9.0f} {1e3 * r:9.0f} {sizes[name] / 1e6:11.1f}"
        print(f"{line}   {compared(name, base, write, read, sizes) if name != base else ''}")
    print(
        f"{'  beside float32':19} {'':31}   {compared('feature store', 'GridFS float32', write, read, sizes)}",
        flush=True,
    )
    database.client.drop_database(database.name)


def compared(
    name: str, base: str, write: dict[str, list[float]], read: dict[str, list[float]], sizes: dict[str, float]
) -> str:
    """How many times as fast as `base`, round by round, and the share of its disk."""
    faster = [statistics.median(b / a for a, b in zip(times[name], times[base])) for times in (write, read)]
    return f"{faster[0]:6.2f} {faster[1]:6.2f} {sizes[name] / sizes[base]:12.0%}"


def main() -> None:
    print(f"One shard of {IMAGES:,} x {SHAPE} float16 (32 MiB), medians of {ROUNDS}")
    with tempfile.TemporaryDirectory() as folder, embedded_mongod(Path(folder)) as uri:
        for zeros in ZEROS:
            measure(uri, zeros)


if __name__ == "__main__":
    main()
