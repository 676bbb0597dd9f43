"""A first session beside a second one on the same features: seconds to the accuracy, real images, real mongod.

CIFAR-10 as a folder data set (5,000 training and 1,000 test images as JPEG), InceptionV3 with random weights at
139 x 139 pixels, 20 epochs of a head on the pooled features, which are pooled by the base model (`pooling: avg`, 2,048
values an image) or by the head (3 x 3 x 2,048). Seconds count from the start of an attempt, with TensorFlow imported,
to the line that tells the accuracy. The second session has another head and finds its features by its spec alone; what
it takes is the training of the head, which is the same for both.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import statistics
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from pymongo.database import Database

from trainingsession_trainer.config import parse_identity
from trainingsession_trainer.embedded import embedded_mongod
from trainingsession_trainer.mongodb import Document, connect
from trainingsession_trainer.records import create_record
from trainingsession_trainer.reporting import Reporter
from trainingsession_trainer.run import run_attempt
from trainingsession_trainer.spec import API_VERSION, KIND

ROUNDS = 3
ARCHIVE = Path(os.environ.get("TS_SHARED_DATA", ".")) / "cifar10.tar.gz"


def document(archive: Path, pooling: str, dropout: float) -> dict[str, Any]:
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    layers: list[dict[str, Any]] = [{"type": "Dropout", "config": {"rate": dropout}}]
    if pooling == "none":
        layers.insert(0, {"type": "GlobalAveragePooling2D"})
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"namespace": "default", "name": "benchmark", "uid": str(uuid.uuid4())},
        "spec": {
            "dataset": {"uri": archive.resolve().as_uri(), "sha256": digest, "subset": 0.1, "testSubset": 0.2},
            "baseModel": {"name": "InceptionV3", "inputSize": [139, 139], "weights": "none", "pooling": pooling},
            "head": {"layers": layers},
            "training": {"optimizer": {"name": "adam"}, "epochs": 20, "batchSize": 128},
        },
    }


class Watch(io.StringIO):
    """Notes when training begins and when the accuracy is told."""

    def __init__(self) -> None:
        super().__init__()
        self.times: dict[str, float] = {}

    def write(self, text: str) -> int:
        for word in ("Training the head", "Accuracy", "Building"):
            if f" {word} " in text:
                self.times.setdefault(word, time.perf_counter())
        return len(text)


def session(database: Database[Document], work: Path, pooling: str, dropout: float) -> tuple[float, float, bool]:
    """Give the seconds to the head, those to the accuracy, and whether the base model was built before it."""
    found = document(ARCHIVE, pooling, dropout)
    identity = parse_identity(found)
    create_record(database, identity.uid, identity.namespace, identity.name)
    watch, started = Watch(), time.perf_counter()
    run_attempt(
        found, database, "benchmark", work=work, reporter=Reporter(watch), stop=lambda: False, gpus_required=False
    )
    times = {word: moment - started for word, moment in watch.times.items()}
    return times["Training the head"], times["Accuracy"], times["Building"] < times["Accuracy"]


def measure(uri: str, work: Path, pooling: str) -> tuple[tuple[float, float, bool], tuple[float, float, bool]]:
    """Run a first and a second session on an empty store."""
    database = connect(uri, f"benchmark_{uuid.uuid4().hex[:8]}")
    first, second = session(database, work, pooling, 0.3), session(database, work, pooling, 0.5)
    assert first[2], "the first builds the base model first"
    assert not second[2], "the second builds it after the accuracy"
    database.client.drop_database(database.name)
    return first, second


def main() -> int:
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    if not ARCHIVE.is_file():
        print(f"A first and a second session: not measured; set TS_SHARED_DATA to the folder with {ARCHIVE.name}.")
        return 0
    print(f"{'CIFAR-10 5,000 + 1,000, InceptionV3 139x139':52} {'first':>7} {'second':>7} {'ratio':>6}")
    with tempfile.TemporaryDirectory() as folder, embedded_mongod(Path(folder)) as uri:
        for pooling, title in (("avg", "pooled by the base model"), ("none", "pooled by the head")):
            rounds = [measure(uri, Path(folder), pooling) for _ in range(ROUNDS)]
            for column, name in enumerate(("seconds until the head is trained", "seconds to the accuracy")):
                first = statistics.median(one[column] for one, _ in rounds)
                second = statistics.median(other[column] for _, other in rounds)
                ratio = statistics.median(one[column] / other[column] for one, other in rounds)
                print(f"{f'{title}: {name}':52} {first:7.1f} {second:7.1f} {ratio:6.1f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
