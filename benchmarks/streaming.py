"""Training from features that are read again for every epoch, beside the same from memory.

The seed's head on 5,000 training images of 3 x 3 x 2048 with 55 % zeros, as a ReLU leaves them, in shards as they are
stored; a budget of a quarter of the features forces the reading. Whole epochs after the first one, alternating.
"""

from __future__ import annotations

import statistics
import tempfile
import uuid
from decimal import Decimal
from pathlib import Path

import numpy as np
from features import never, quiet
from training import new_checkpoints

from trainingsession_trainer import config
from trainingsession_trainer.batches import Examples
from trainingsession_trainer.embedded import embedded_mongod
from trainingsession_trainer.feature_sets import FeatureSet, images_per_shard
from trainingsession_trainer.feature_store import FeatureStore
from trainingsession_trainer.head import build_head, standardize_from
from trainingsession_trainer.loading import Loader, Part
from trainingsession_trainer.mongodb import connect
from trainingsession_trainer.spec import Spec
from trainingsession_trainer.streaming import StreamedExamples
from trainingsession_trainer.training import fit_head

ROUNDS, EPOCHS = 3, 4
IMAGES, SHAPE = 6250, (3, 3, 2048)


def store_features(store: FeatureStore, split: str, images: int) -> Part:
    random = np.random.default_rng(0)
    shard = images_per_shard(SHAPE)
    found = FeatureSet(uuid.uuid4().hex, split, images, shard, SHAPE)
    for index in range(found.shards_for(images)):
        features = np.maximum(random.normal(-0.125, 1, found.shape(index)), 0).astype(np.float16)
        assert store.claim(found, index)
        assert store.finish(found, index, features, {})
    return Part(found, random.integers(0, 10, images).astype(np.int32))


def seconds_per_epoch(spec: Spec, training: Examples, validation: Examples) -> float:
    head = build_head(spec.head, SHAPE, 10, standardize_from(training))
    with new_checkpoints(quiet()) as checkpoints:
        history = fit_head(
            head,
            spec.training,
            training,
            validation,
            class_names=[str(number) for number in range(10)],
            checkpoints=checkpoints,
            reporter=quiet(),
            stop=never,
        )
    return statistics.median(epoch.seconds for epoch in history.epochs[1:])


def main() -> None:
    session = {"dataset": {"name": "digits"}, "baseModel": {"name": "InceptionV3"}, "training": {"epochs": EPOCHS}}
    spec = config.parse_spec(session)
    with tempfile.TemporaryDirectory() as folder, embedded_mongod(Path(folder)) as uri:
        store = FeatureStore(connect(uri, "benchmark"), never)
        train, test = store_features(store, "train", IMAGES), store_features(store, "test", 64)
        memory, streamed = [], []
        for _ in range(ROUNDS):
            for budget, times in ((1 << 40, memory), (IMAGES * 3 * 3 * 2048 * 2 // 4, streamed)):
                training, validation, _ = Loader(store, budget, quiet()).load(train, test, Decimal("0.2"))
                assert isinstance(training, StreamedExamples) == (times is streamed)
                times.append(seconds_per_epoch(spec, training, validation))
    ratio = statistics.median(one / other for one, other in zip(memory, streamed))
    print(f"{'an epoch of the default head, 5,000 x 3x3x2048':48} {'seconds':>8}")
    print(f"{'features in memory':48} {statistics.median(memory):8.2f}")
    print(f"{'read from MongoDB again':48} {statistics.median(streamed):8.2f}")
    print(f"streamed at {100 * ratio:.0f} % of the speed in memory (wanted: at least 60 %)")


if __name__ == "__main__":
    main()
