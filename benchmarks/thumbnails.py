"""What it costs to make and keep thumbnails while features are extracted, beside the same extraction without them.

Every image of the split gets one here; in a session only the first of a split do (`thumbnails.MOST`). The base model is
the fastest one, MobileNet with alpha .25, so that is the most that they can cost. Processor time counts all threads and
does not depend on what else the machine does; rounds alternate.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from features import CASES, JPEGS, first, never, noise, opened, quiet
from pymongo.database import Database

from trainingsession_trainer import thumbnails
from trainingsession_trainer.base_models import BaseModel
from trainingsession_trainer.datasets import Split
from trainingsession_trainer.datasets.folder import open_folder
from trainingsession_trainer.embedded import embedded_mongod
from trainingsession_trainer.extraction import Extraction
from trainingsession_trainer.feature_sets import FeatureSet, images_per_shard
from trainingsession_trainer.feature_store import FeatureStore
from trainingsession_trainer.mongodb import Document, connect

ROUNDS = 5
IMAGES = 8_192
BATCH = 128


def extract(base: BaseModel, split: Split, database: Database[Document], most: int) -> tuple[float, float, int]:
    """Give images per second, microseconds of processor time per image, and bytes of the thumbnails."""
    thumbnails.MOST = {"test": most}
    extraction = Extraction(FeatureStore(database, never), base, never, lambda _: None, batch=BATCH)
    shard = images_per_shard(base.feature_shape)

    def complete(key: str, some: Split) -> None:
        found = FeatureSet(key, "test", len(some), shard, base.feature_shape)
        extraction.complete(some, found, found.shards_for(len(some)), lambda *_: None)

    complete("compiled", first(split, 64))
    started, busy = time.perf_counter(), time.process_time()
    complete("timed", split)
    seconds, busy = time.perf_counter() - started, time.process_time() - busy
    shards = database.feature_shards.find({"set": "timed"})
    kept = sum(shard["thumbnails"]["bytes"] for shard in shards if "thumbnails" in shard)
    return len(split) / seconds, 1e6 * busy / len(split), kept


def compare(fresh: Callable[[], Database[Document]], jpegs: Split | None) -> None:
    base = opened(CASES["MobileNet 0.25 96x96"])
    print(f"median of {ROUNDS}              images/s   CPU us/image   bytes/image")
    for kind, split in {"array": noise(IMAGES), "JPEG": jpegs and first(jpegs, IMAGES)}.items():
        if split is None:
            print(f"{kind} left out: {JPEGS} is not there")
            continue
        tested = replace(split, name="test")
        rows = [[extract(base, tested, fresh(), most) for most in (0, IMAGES)] for _ in range(ROUNDS)]
        for place, name in enumerate(("without", "with")):
            speed, busy, kept = (statistics.median(column) for column in zip(*(row[place] for row in rows)))
            print(f"{kind + ' ' + name:22}{speed:12.0f}{busy:15.0f}{kept / IMAGES:14.0f}", flush=True)


def main() -> None:
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder, embedded_mongod(Path(folder)) as uri:
        jpegs = open_folder(JPEGS, JPEGS.name, Path(folder), quiet(), never).train if JPEGS.is_file() else None
        compare(lambda: connect(uri, f"benchmark_{uuid.uuid4().hex[:8]}"), jpegs)


if __name__ == "__main__":
    main()
