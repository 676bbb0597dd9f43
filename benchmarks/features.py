"""Extraction beside the bare base model and beside the usual way.

Extraction is timed from images (an array in memory, or JPEG files) to features in GridFS on a real mongod: decoding,
resizing, computing, encoding, storing. Its peers, in the same process:

- the bare model: the Keras model in a tf.function, fed again and again with one float32 batch of the input's size that
  is in memory already, as large as the batches of the extraction; it reads, resizes and stores nothing;
- the usual way: decode everything, resize everything to float32 in memory, `model.predict`, one npz file.

Rounds alternate, so that a machine that slows down slows all of them. With the CIFAR-10 JPEG files and the ImageNet
weights of MobileNet where the folder TS_SHARED_DATA has them, else with arrays of noise and random weights
only: those of MobileNet give features so small that they are stored as float32.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from pymongo.database import Database

from trainingsession_trainer import config
from trainingsession_trainer.base_models import BaseModel, open_base_model
from trainingsession_trainer.datasets import Split
from trainingsession_trainer.datasets.folder import open_folder
from trainingsession_trainer.datasets.splits import ArrayImages, make_split
from trainingsession_trainer.embedded import embedded_mongod
from trainingsession_trainer.extraction import Extraction
from trainingsession_trainer.extractor import Extractor
from trainingsession_trainer.feature_sets import FeatureSet, images_per_shard
from trainingsession_trainer.feature_store import FeatureStore
from trainingsession_trainer.mongodb import Document, connect
from trainingsession_trainer.reporting import Reporter

ROUNDS = 3
BARE_SECONDS = 4
DATA = Path(os.environ.get("TS_SHARED_DATA", "."))
JPEGS = DATA / "cifar10.tar.gz"
MOBILENET = DATA / "weights" / "mobilenet-0.25-imagenet.weights.h5"


@dataclass(frozen=True)
class Case:
    """A base model; how many images are extracted, and how many go the usual way."""

    base: dict[str, Any]
    images: int
    usual: int

    @property
    def spec(self) -> dict[str, Any]:
        if self.base["name"] == "MobileNet" and MOBILENET.is_file():
            return {**self.base, "weightsFrom": {"uri": f"file://{MOBILENET.resolve()}"}}
        return {**self.base, "weights": "none"}


CASES = {
    "InceptionV3 139x139": Case({"name": "InceptionV3", "inputSize": [139, 139]}, 4_096, 1_024),
    "MobileNet 0.25 96x96": Case(
        {"name": "MobileNet", "arguments": {"alpha": 0.25}, "inputSize": [96, 96]}, 16_384, 4_096
    ),
}


def opened(case: Case) -> BaseModel:
    spec = config.parse_spec({"dataset": {"name": "digits"}, "baseModel": case.spec}).base_model
    return open_base_model(spec, Path(), quiet(), never).for_images((32, 32, 3))


def noise(count: int) -> Split:
    images = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)
    digests = [hashlib.sha256(image.tobytes()).digest() for image in images]
    return make_split("train", ("noise",), np.zeros(count, np.int32), digests, ArrayImages(images))


def first(split: Split, count: int) -> Split:
    """Take the first images; a data set's order makes that a fair sample."""
    return replace(split, labels=split.labels[:count], digests=split.digests[:count], places=split.places[:count])


class Bench:
    """Images per second of one base model on one split, in three ways."""

    def __init__(self, base: BaseModel, split: Split, usual: int, work: Path) -> None:
        self._base, self._split, self._usual, self._work = base, split, usual, work
        self.size = self._find_size()
        model = base.resized_model()
        shape = (self.size, *base.input_size, 3)
        self._bare = tf.function(lambda images: model(images, training=False), input_signature=[tf.TensorSpec(shape)])
        self._batch = tf.constant(np.random.default_rng(0).integers(0, 256, shape).astype(np.float32))
        self._bare(self._batch)

    def _find_size(self) -> int:
        sizes: list[int] = []
        extractor = Extractor(self._base, never, lambda line: sizes.append(int(line.split(" of ")[1].split()[0])))
        while not sizes:
            extractor.features(self._split, 0, len(self._split), lambda *_: None)
        return sizes[0]

    def bare(self) -> float:
        images, started = 0, time.perf_counter()
        while time.perf_counter() - started < BARE_SECONDS:
            self._bare(self._batch).numpy()
            images += self.size
        return images / (time.perf_counter() - started)

    def extraction(self, database: Database[Document]) -> float:
        extraction = Extraction(FeatureStore(database, never), self._base, never, lambda _: None, batch=self.size)
        shard = images_per_shard(self._base.feature_shape)
        self._extract(extraction, "compiled", first(self._split, 64), shard)
        started = time.perf_counter()
        self._extract(extraction, "timed", self._split, shard)
        return len(self._split) / (time.perf_counter() - started)

    def _extract(self, extraction: Extraction, key: str, split: Split, shard: int) -> None:
        found = FeatureSet(key, "train", len(split), shard, self._base.feature_shape)
        done = extraction.complete(split, found, found.shards_for(len(split)), lambda *_: None)
        assert sum(done.values()) == len(split)

    def usual(self) -> float:
        model = self._base.resized_model()
        model.predict(np.zeros((32, *self._base.input_size, 3), np.float32), verbose=0)
        started = time.perf_counter()
        images = np.stack([self._split.image(index) for index in range(self._usual)])
        resized = tf.image.resize(images.astype(np.float32), self._base.input_size).numpy()
        np.savez(self._work / "features.npz", model.predict(resized, verbose=0))
        return self._usual / (time.perf_counter() - started)


def compare_speeds(fresh: Callable[[], Database[Document]], jpegs: Split | None, work: Path) -> None:
    head = ("batch", "bare model", "extraction", "of bare", "usual way", "x usual")
    print(f"{'images/s, median of ' + str(ROUNDS):28}" + "".join(f"{word:>12}" for word in head))
    for name, case in CASES.items():
        base = opened(case)
        for kind, split in {"array": noise(case.images), "JPEG": jpegs and first(jpegs, case.images)}.items():
            if split is None:
                print(f"{name + ' ' + kind:28} left out: {JPEGS} is not there")
                continue
            bench = Bench(base, split, case.usual, work)
            speeds = [(bench.bare(), bench.extraction(fresh()), bench.usual()) for _ in range(ROUNDS)]
            bare, ours, usual = (statistics.median(column) for column in zip(*speeds))
            of_bare = statistics.median(row[1] / row[0] for row in speeds)
            of_usual = statistics.median(row[1] / row[2] for row in speeds)
            print(
                f"{name + ' ' + kind:28}{bench.size:12}{bare:12.0f}{ours:12.0f}{of_bare:12.2f}"
                f"{usual:12.0f}{of_usual:12.2f}",
                flush=True,
            )


def never() -> bool:
    return False


def quiet() -> Reporter:
    return Reporter(io.StringIO())


def main() -> None:
    # Every session makes functions of its own; that is no news here.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder, embedded_mongod(Path(folder)) as uri:
        work = Path(folder)

        def fresh() -> Database[Document]:
            return connect(uri, f"benchmark_{uuid.uuid4().hex[:8]}")

        jpegs = open_folder(JPEGS, JPEGS.name, work, quiet(), never).train if JPEGS.is_file() else None
        compare_speeds(fresh, jpegs, work)


if __name__ == "__main__":
    main()
