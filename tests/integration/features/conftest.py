from __future__ import annotations

import hashlib
import io
import uuid
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image
from pymongo import MongoClient
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from trainingsession_trainer import config, feature_catalog, feature_sets, features
from trainingsession_trainer.datasets import Dataset
from trainingsession_trainer.datasets.splits import Images, make_split, reduced
from trainingsession_trainer.recipe import recipe_digest
from trainingsession_trainer.reporting import Reporter
from trainingsession_trainer.spec import Session


class CountedImages(Images):
    """Images in memory that count how often they were decoded, for features and only to compare them."""

    def __init__(self, images):
        self.images = images
        self.decoded = self.compared = 0

    def read(self, index):
        self.decoded += 1
        return self.images[index]

    def grey(self, index):
        self.compared += 1
        return reduced(Image.fromarray(self.images[index]))

    def shape(self, index):
        return self.images[index].shape


def counted_split(name, count, seed, sizes=((32, 32),)):
    rng = np.random.default_rng(seed)
    images = []
    for index in range(count):
        height, width = sizes[index % len(sizes)]
        image = rng.integers(0, 120, (height, width, 3)).astype(np.uint8)
        image[:, :, index % 2] += 100  # the class is a colour
        images.append(image)
    digests = [hashlib.sha256(image.tobytes()).digest() for image in images]
    labels = np.arange(count, dtype=np.int32) % 2
    source = CountedImages(images)
    return make_split(name, ("red", "green"), labels, digests, source), source


class Case:
    """A data set in memory, a database, and a way to prepare features."""

    def __init__(self, database, monkeypatch, work, sizes=((32, 32),)):
        self.database = database
        self.work = work
        self.sizes = sizes
        train, self.train_images = counted_split("train", 60, 1, sizes)
        test, self.test_images = counted_split("test", 20, 2, sizes)
        self.dataset = Dataset(("red", "green"), train, test)
        self.source = {"name": "digits"}
        self.opened = 0
        self.validated = []
        self.out = io.StringIO()
        monkeypatch.setattr(features, "open_dataset", self._open)

    def _open(self, spec, work, reporter, stop, disk, memory):
        self.opened += 1
        return self.dataset

    @property
    def decoded(self):
        return self.train_images.decoded + self.test_images.decoded

    def session(self, subset=1, known=False, **base):
        base_model = {"name": "MobileNet", "arguments": {"alpha": 0.25}, "weights": "none", "inputSize": [32, 32]}
        spec = {"dataset": {**self.source, "subset": subset, "testSubset": 1}, "baseModel": {**base_model, **base}}
        return Session("ns", "name", "uid", config.parse_spec(spec), recipe_digest(spec) if known else None)

    def prepare(self, subset=1, stop=lambda: False, memory_limit=None, stored_only=False, known=False, **base):
        """Prepare features, of images whose content only their digests tell, or of `known` ones."""
        with self.features(subset, stop, memory_limit, known=known, **base) as found:
            return found.prepare(self.validate, stored_only=stored_only)

    @contextmanager
    def features(self, subset=1, stop=lambda: False, memory_limit=None, known=False, **base):
        with feature_catalog.Use(self.database, "uid", uuid.uuid4().hex) as use:
            session = self.session(subset, known, **base)
            reporter = Reporter(self.out)
            yield features.SessionFeatures(session, self.database, use, self.work, reporter, stop, memory_limit)

    def validate(self, shape, classes):
        self.validated.append((shape, len(classes), self.decoded))


@pytest.fixture
def database(mongod):
    with MongoClient(mongod.uri) as client:
        name = f"features_{uuid.uuid4().hex[:8]}"
        yield client.get_database(name, write_concern=WriteConcern("majority"), read_concern=ReadConcern("majority"))
        client.drop_database(name)


@pytest.fixture
def case(database, monkeypatch, tmp_path):
    """60 training and 20 test images of 32 x 32, in shards of 16."""
    monkeypatch.setattr(feature_sets, "SHARD_BYTES", 1)
    return Case(database, monkeypatch, tmp_path)


@pytest.fixture
def mixed_case(database, monkeypatch, tmp_path):
    """The same with images of three sizes."""
    monkeypatch.setattr(feature_sets, "SHARD_BYTES", 1)
    return Case(database, monkeypatch, tmp_path, sizes=((32, 32), (20, 48), (64, 40)))
