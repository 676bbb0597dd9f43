"""An epoch of head training beside a bare loop over the same arrays, and beside what one would write first.

5,000 samples of 3x3x2048 float16, batches of 32, the seed's head and rmsprop. The bare loop takes shuffled batches from
the arrays and calls a tf.function: forward, loss, gradients, update; no metrics, no checks, no snapshot. The naive peer
is tf.data.Dataset.from_tensor_slices with shuffle and batch, and model.fit. Epochs of the three alternate in one
process, so that a machine that slows down slows all; what is compared are the ratios within one turn.
"""

from __future__ import annotations

import contextlib
import io
import logging
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from trainingsession_trainer.batches import LabelledFeatures
from trainingsession_trainer.checkpoints import Checkpoints
from trainingsession_trainer.embedded import embedded_mongod
from trainingsession_trainer.head import Standardization, build_head, standardize_from
from trainingsession_trainer.mongodb import connect
from trainingsession_trainer.records import SessionRecord, create_record
from trainingsession_trainer.reporting import Reporter
from trainingsession_trainer.spec import Head, Training
from trainingsession_trainer.training import fit_head

ROUNDS = 7
SAMPLES, SHAPE, CLASSES, BATCH = 5_000, (3, 3, 2048), 10, 32


class Bench:
    """Noise in the shape of features, with the zeros of a ReLU, and the ways to train on it."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        features = np.maximum(rng.standard_normal((SAMPLES, *SHAPE), np.float32), 0).astype(np.float16)
        self.examples = LabelledFeatures(features, rng.integers(0, CLASSES, SAMPLES).astype(np.int32))
        self.standardization: Standardization = standardize_from(self.examples)

    def head(self) -> keras.Model:
        keras.utils.set_random_seed(0)
        return build_head(Head(), SHAPE, CLASSES, self.standardization)

    def bare(self) -> Callable[[int], None]:
        """One epoch of the bare loop."""
        head, optimizer = self.head(), keras.optimizers.RMSprop()
        loss = keras.losses.SparseCategoricalCrossentropy()
        optimizer.build(head.trainable_variables)

        @tf.function(reduce_retracing=True)
        def step(features, labels):
            with tf.GradientTape() as tape:
                value = loss(labels, head(features, training=True))
            optimizer.apply(tape.gradient(value, head.trainable_variables), head.trainable_variables)
            return value

        features, labels = self.examples.features, self.examples.labels

        def epoch(number: int) -> None:
            order = np.random.default_rng([0, number]).permutation(SAMPLES)
            for start in range(0, SAMPLES, BATCH):
                rows = order[start : start + BATCH]
                value = step(features[rows], labels[rows])
            value.numpy()

        return epoch

    def naive(self) -> Callable[[int], None]:
        """One epoch of the peer: tf.data and model.fit."""
        head = self.head()
        head.compile(optimizer="rmsprop", loss="categorical_crossentropy", metrics=["accuracy"])
        truth = keras.utils.to_categorical(self.examples.labels, CLASSES)
        data = tf.data.Dataset.from_tensor_slices((self.examples.features, truth))
        data = data.shuffle(SAMPLES).batch(BATCH).prefetch(tf.data.AUTOTUNE)
        return lambda number: head.fit(data, initial_epoch=number, epochs=number + 1, verbose=0)


class Turns(Reporter):
    """Lets the others have their epochs after each of the trainer's."""

    def __init__(self, others: Mapping[str, Callable[[int], None]]) -> None:
        super().__init__(io.StringIO())
        self._others = others
        self.seconds: dict[str, list[float]] = {name: [] for name in ("trainer", *others)}

    def epoch(self, epoch: int, epochs: int, figures: Mapping[str, float], seconds: float, images: int) -> None:
        del epochs, figures, images
        self.seconds["trainer"].append(seconds)
        for name, run in self._others.items():
            started = time.perf_counter()
            run(epoch - 1)
            self.seconds[name].append(time.perf_counter() - started)


@contextlib.contextmanager
def new_checkpoints(reporter: Reporter) -> Iterator[Checkpoints]:
    """Checkpoints as in a session, every 10 s, into a real MongoDB."""
    with tempfile.TemporaryDirectory() as folder, embedded_mongod(Path(folder)) as uri:
        database, uid = connect(uri, "benchmark"), str(uuid.uuid4())
        create_record(database, uid, "default", "benchmark")
        record = SessionRecord(database, uid, "benchmark")
        record.claim({})
        yield Checkpoints(database, record, {"session": uid}, reporter, lambda: False)


def main() -> None:
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    bench = Bench()
    turns = Turns({"bare loop": bench.bare(), "tf.data and fit": bench.naive()})
    nothing = LabelledFeatures(bench.examples.features[:0], bench.examples.labels[:0])
    with new_checkpoints(turns) as checkpoints:
        fit_head(
            bench.head(),
            Training(epochs=ROUNDS + 1),
            bench.examples,
            nothing,
            class_names=[str(number) for number in range(CLASSES)],
            checkpoints=checkpoints,
            reporter=turns,
            stop=lambda: False,
        )
    # In the first turn everything is compiled.
    seconds = {name: found[1:] for name, found in turns.seconds.items()}
    print(f"{f'seconds per epoch, median of {ROUNDS}':36} {'seconds':>8} {'ratio':>6}")
    for name, found in seconds.items():
        ratio = statistics.median(one / bare for one, bare in zip(found, seconds["bare loop"]))
        print(f"{name:36} {statistics.median(found):8.2f} {ratio:6.2f}")


if __name__ == "__main__":
    main()
