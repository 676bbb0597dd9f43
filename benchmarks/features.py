"""Extraction beside the bare base model, and a first session beside a second one on the same features.

With random weights and a real mongod: speed does not depend on what the images show. The bare model is the same
compiled function, fed again and again with one batch that is in memory already: no reading, no encoding, no storage.
Extraction is timed over four shards, from images in memory to features in GridFS, after one small shard that has it
compiled. Rounds alternate, so that a machine that slows down slows both. The sessions are of the 1,797 digits.
"""

from __future__ import annotations

import hashlib
import io
import logging
import statistics
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from pymongo.database import Database

from trainingsession_trainer import config
from trainingsession_trainer.base_models import open_base_model
from trainingsession_trainer.datasets.splits import ArrayImages, make_split
from trainingsession_trainer.embedded import embedded_mongod
from trainingsession_trainer.extraction import Extraction
from trainingsession_trainer.extractor import Extractor
from trainingsession_trainer.feature_sets import FeatureSet, images_per_shard
from trainingsession_trainer.feature_store import FeatureStore
from trainingsession_trainer.mongodb import Document, connect
from trainingsession_trainer.records import create_record
from trainingsession_trainer.reporting import Reporter
from trainingsession_trainer.run import run_attempt

ROUNDS = 3
SHARDS = 4
CASES: dict[str, dict[str, Any]] = {
    "InceptionV3 139x139": {"name": "InceptionV3", "inputSize": [139, 139]},
    "ResNet50 64x64": {"name": "ResNet50", "inputSize": [64, 64]},
    "MobileNet 0.25 96x96": {"name": "MobileNet", "arguments": {"alpha": 0.25}, "inputSize": [96, 96]},
}


def document(base: dict[str, Any], subset: float) -> dict[str, Any]:
    return {
        "apiVersion": config.API_VERSION,
        "kind": config.KIND,
        "metadata": {"namespace": "default", "name": "benchmark", "uid": str(uuid.uuid4())},
        "spec": {
            "dataset": {"name": "digits", "subset": subset},
            "baseModel": {**base, "weights": "none"},
            "head": {"layers": [{"type": "GlobalAveragePooling2D"}]},
            "training": {"optimizer": {"name": "adam"}, "epochs": 20},
        },
    }


class Bench:
    """One base model, and noise of 32 x 32 pixels to feed it."""

    def __init__(self, base: dict[str, Any]) -> None:
        spec = config.parse_session(document(base, 1)).spec.base_model
        self.base = open_base_model(spec, Path(), quiet(), never).for_images((32, 32, 3))
        self.shard = images_per_shard(self.base.feature_shape)
        self.images = np.random.default_rng(0).integers(0, 256, (SHARDS * self.shard, 32, 32, 3), np.uint8)

    def bare_speed(self) -> float:
        """Images per second of the compiled model alone, after one call that compiles it."""
        extractor = Extractor(self.base, never)
        batch = tf.constant(self.images[: extractor._batch])
        extractor._run(batch)
        images, started = 0, time.perf_counter()
        while time.perf_counter() - started < 6:
            extractor._run(batch).numpy()
            images += extractor._batch
        return images / (time.perf_counter() - started)

    def extraction_speed(self, database: Database[Document]) -> float:
        """Images per second from images in memory to features in GridFS."""
        extraction = Extraction(FeatureStore(database, never), self.base, never)
        self._extract(extraction, "warm", 64, 64)
        started = time.perf_counter()
        self._extract(extraction, "timed", len(self.images), self.shard)
        return len(self.images) / (time.perf_counter() - started)

    def _extract(self, extraction: Extraction, key: str, count: int, shard: int) -> None:
        images = self.images[:count]
        digests = [hashlib.sha256(image.tobytes()).digest() for image in images]
        split = make_split("train", ("noise",), np.zeros(count, np.int32), digests, ArrayImages(images))
        found = FeatureSet(key, "train", count, shard, self.base.feature_shape)
        done = extraction.complete(split, found, found.shards_for(count), lambda *_: None)
        assert sum(done.values()) == count


def seconds_to_accuracy(base: dict[str, Any], database: Database[Document], work: Path) -> float:
    """Seconds from the start of an attempt to the line that tells the accuracy; TensorFlow is imported already."""
    found: list[float] = []

    class Watch(io.StringIO):
        def write(self, text: str) -> int:
            if " Accuracy " in text:
                found.append(time.perf_counter())
            return len(text)

    session = document(base, 1)
    identity = config.parse_identity(session)
    create_record(database, identity.uid, identity.namespace, identity.name)
    started = time.perf_counter()
    run_attempt(session, database, "benchmark", work=work, reporter=Reporter(Watch()), stop=lambda: False)
    return found[0] - started


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

        print(f"{'images/s, median of ' + str(ROUNDS):28} {'bare model':>11} {'extraction':>11} {'ratio':>6}")
        for name, base in CASES.items():
            bench, bare, stored = Bench(base), [], []
            for _ in range(ROUNDS):
                bare.append(bench.bare_speed())
                stored.append(bench.extraction_speed(fresh()))
            ratio = statistics.median(s / b for s, b in zip(stored, bare))
            print(
                f"{name:28} {statistics.median(bare):11.0f} {statistics.median(stored):11.0f} {ratio:6.2f}", flush=True
            )
        print(f"\n{'seconds to the accuracy':28} {'first':>11} {'second':>11} {'ratio':>6}")
        for name, base in CASES.items():
            first, second = [], []
            for _ in range(ROUNDS):
                database = fresh()
                first.append(seconds_to_accuracy(base, database, work))
                second.append(seconds_to_accuracy(base, database, work))
            ratio = statistics.median(a / b for a, b in zip(first, second))
            print(
                f"{name:28} {statistics.median(first):11.1f} {statistics.median(second):11.1f} {ratio:6.1f}", flush=True
            )


if __name__ == "__main__":
    main()
