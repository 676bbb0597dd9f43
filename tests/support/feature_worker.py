"""A trainer's extraction as a process of its own, which can be killed at every stage of a shard's life.

    python feature_worker.py <uri> <database> [--die STAGE] [--clock SECONDS]

It says "ready", waits for a line on its standard input, and says at the end how many images it computed and read.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import signal
import time
from pathlib import Path

import numpy as np

from trainingsession_trainer import config, feature_store, shard_files
from trainingsession_trainer.base_models import open_base_model
from trainingsession_trainer.datasets.splits import Images, make_split
from trainingsession_trainer.extraction import Extraction
from trainingsession_trainer.feature_sets import FeatureSet
from trainingsession_trainer.feature_store import FeatureStore
from trainingsession_trainer.mongodb import connect
from trainingsession_trainer.reporting import Reporter

SHARD = 16
SHARDS = 21
STAGES = ("claimed", "computed", "chunks half written", "file written", "finished")


class CountedImages(Images):
    """Noise, made when it is asked for."""

    def __init__(self, count):
        self.count = count
        self.decoded = 0

    def read(self, index):
        self.decoded += 1
        return picture(index)

    def shape(self, index):
        return (32, 32, 3)


def picture(index):
    return np.random.default_rng(index).integers(0, 256, (32, 32, 3), np.uint8)


class Work:
    """The first shards of one set, to be completed by one process."""

    def __init__(self, database, shards, lease_seconds=feature_store.LEASE_SECONDS):
        count = SHARD * SHARDS
        self.images = CountedImages(count)
        digests = [hashlib.sha256(picture(index).tobytes()).digest() for index in range(count)]
        self.split = make_split("train", ("noise",), np.zeros(count, np.int32), digests, self.images)
        document = {"name": "MobileNet", "arguments": {"alpha": 0.25}, "weights": "none", "inputSize": [32, 32]}
        spec = config.parse_spec({"dataset": {"name": "digits"}, "baseModel": document}).base_model
        base = open_base_model(spec, Path(), Reporter(io.StringIO()), lambda: False)
        self.base = base.for_images((32, 32, 3))
        self.store = FeatureStore(database, lambda: False, lease_seconds)
        self.found = FeatureSet("key", "train", count, SHARD, self.base.feature_shape)
        self.shards = shards

    def complete(self, told=lambda *_: None):
        """Give the images computed here."""
        extraction = Extraction(self.store, self.base, lambda: False, lambda _: None)
        return sum(extraction.complete(self.split, self.found, self.shards, told).values())

    def stored(self):
        """Give all features as they are in the store."""
        parts = []
        for index in range(self.shards):
            part = self.store.read(self.found, index, self.store.find(self.found, index))
            assert part is not None, index
            parts.append(part)
        return np.concatenate(parts)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(stage):
    """Have this process killed by itself, at exactly this stage of its first shard."""
    if stage == "claimed":
        Extraction._compute = lambda *_: die()
    elif stage == "computed":
        Extraction._store_shard = lambda *_: die()
    elif stage == "chunks half written":

        class HalfWritten:
            def __init__(self, chunks):
                self.chunks = chunks

            def create_index(self, *arguments, **options):
                self.chunks.create_index(*arguments, **options)

            def insert_many(self, documents, **options):
                documents = list(documents)
                self.chunks.insert_many(documents[: len(documents) // 2], **options)
                die()

        def half(self, file_id, name, data):
            self._chunks = HalfWritten(self._chunks)
            write(self, file_id, name, data)

        shard_files.CHUNK_BYTES = 1024
        write, shard_files.ShardFiles.write = shard_files.ShardFiles.write, half
    elif stage == "file written":

        def whole(self, file_id, name, data):
            write(self, file_id, name, data)
            die()

        write, shard_files.ShardFiles.write = shard_files.ShardFiles.write, whole
    elif stage == "finished":

        def finished(self, *arguments):
            finish(self, *arguments)
            die()

        finish, FeatureStore.finish = FeatureStore.finish, finished


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("uri")
    parser.add_argument("database")
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--die", choices=STAGES)
    parser.add_argument("--clock", type=float, default=0)
    arguments = parser.parse_args()
    die_at(arguments.die)
    now = time.time
    time.time = lambda: now() + arguments.clock
    work = Work(connect(arguments.uri, arguments.database), arguments.shards)
    print("ready", flush=True)
    input()
    print(work.complete(), work.images.decoded, flush=True)


if __name__ == "__main__":
    main()
