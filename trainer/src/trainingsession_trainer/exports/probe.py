"""A linear probe: a classifier on pooled features that is solved in closed form, for questions about the data.

Ridge regression on one-hot labels (Hoerl and Kennard (1970)) needs one pass over the images and the inverse of one
matrix, so folds and parts of the data cost seconds where heads would cost minutes. Memory is bounded whatever the
features' size: they are averaged over positions, and more than 1,024 channels are mixed into as many by a random
projection, which keeps distances (Johnson and Lindenstrauss (1984)).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from ..batches import Examples

Array = npt.NDArray[Any]

MOST_CHANNELS = 1024
MOST_BYTES = 32 << 20
"""Of pooled features, which are float16."""
RIDGE = 0.1
"""Strength of the regularisation, as a part of the number of images."""
_ROWS = 2048


@dataclass(frozen=True)
class Pooled:
    """Features float16 [n, channels] and labels int32 [n] of the first images of a part."""

    features: Array
    labels: npt.NDArray[np.int32]


def pool(examples: Examples) -> Pooled:
    """Average features over positions; of the first images, as many as memory is set aside for."""
    filled, kept, mix = 0, np.empty((0, 0), np.float16), None
    for block in examples.blocks():
        for low in range(0, len(block), _ROWS):
            rows = block[low : low + _ROWS]
            rows = rows.reshape(len(rows), -1, rows.shape[-1]).mean(axis=1, dtype=np.float32)
            channels = min(rows.shape[-1], MOST_CHANNELS)
            if rows.shape[-1] > MOST_CHANNELS:
                if mix is None:
                    random = np.random.default_rng(0)
                    mix = random.standard_normal((rows.shape[-1], channels), np.float32) / np.float32(channels**0.5)
                rows = rows @ mix
            if filled == 0:
                kept = np.empty((min(len(examples), MOST_BYTES // (2 * channels)), channels), np.float16)
            taken = rows[: len(kept) - filled]
            kept[filled : filled + len(taken)] = np.clip(taken, -6e4, 6e4)
            filled += len(taken)
            if filled == len(kept):
                return Pooled(kept, examples.labels[:filled])
    return Pooled(kept[:filled], examples.labels[:filled])


class Probe:
    """Sums over images from which probes are solved; sums of parts can be added and taken away."""

    def __init__(self, channels: int, classes: int) -> None:
        self.count = 0
        self.gram = np.zeros((channels + 1, channels + 1))
        self.answers = np.zeros((channels + 1, classes))

    def add(self, rows: Array, labels: npt.NDArray[np.int32]) -> None:
        """Take in standardised features [n, channels] with their labels."""
        for low in range(0, len(rows), _ROWS):
            part = _with_one(rows[low : low + _ROWS])
            named = labels[low : low + _ROWS]
            self.gram += part.T @ part
            for label in np.unique(named):
                self.answers[:, label] += part[named == label].sum(axis=0)
        self.count += len(rows)

    def without(self, other: Probe) -> Probe:
        """Give the sums without those of another."""
        rest = Probe(len(self.gram) - 1, self.answers.shape[1])
        rest.count = self.count - other.count
        rest.gram, rest.answers = self.gram - other.gram, self.answers - other.answers
        return rest

    def solve(self) -> Array:
        """Give weights [channels + 1, classes]."""
        penalty = np.full(len(self.gram), max(1e-6, RIDGE * self.count))
        penalty[-1] = 1e-6  # the constant is not held down
        return np.linalg.solve(self.gram + np.diag(penalty), self.answers)


def standardize(features: Array, mean: Array, deviation: Array) -> Array:
    """Bring features [n, channels] to mean 0 and deviation 1."""
    return (features.astype(np.float32) - mean) / deviation


def moments(features: Array) -> tuple[Array, Array]:
    """Measure mean and deviation of each channel; one that never changes has the deviation 1."""
    total, squares = np.zeros(features.shape[1]), np.zeros(features.shape[1])
    for low in range(0, len(features), _ROWS):
        rows = features[low : low + _ROWS].astype(np.float64)
        total += rows.sum(axis=0)
        squares += np.square(rows).sum(axis=0)
    mean = total / len(features)
    deviation = np.sqrt(np.maximum(squares / len(features) - np.square(mean), 0))
    return mean.astype(np.float32), np.where(deviation > 1e-6, deviation, 1).astype(np.float32)


def scores(features: Array, mean: Array, deviation: Array, weights: Array) -> Array:
    """Give each class's score [n, classes], which estimates its probability, a part at a time."""
    found = np.empty((len(features), weights.shape[1]), np.float32)
    for low in range(0, len(features), _ROWS):
        rows = standardize(features[low : low + _ROWS], mean, deviation)
        found[low : low + _ROWS] = _with_one(rows) @ weights
    return found


def doubtful(pooled: Pooled, classes: int, most: int, folds: int = 5) -> list[tuple[int, int, float]]:
    """Find training images whose label probes trained without them contradict.

    Gives (image, the class that they name, by how much its score is above the label's), the clearest first.
    """
    features, labels = pooled.features, pooled.labels
    if len(labels) < 2 * folds:
        return []
    mean, deviation = moments(features)
    # Each class is dealt out over all folds. The stored order cycles through the classes, so that every fifth image of
    # five or ten classes would be of the same ones, which the probe that judges them had never seen.
    fold = np.empty(len(labels), np.int64)
    fold[np.argsort(labels, kind="stable")] = np.arange(len(labels)) % folds
    parts = []
    for number in range(folds):
        part = Probe(features.shape[1], classes)
        rows = np.flatnonzero(fold == number)
        for low in range(0, len(rows), _ROWS):
            chosen = rows[low : low + _ROWS]
            part.add(standardize(features[chosen], mean, deviation), labels[chosen])
        parts.append(part)
    whole = _sum(parts)
    found: list[tuple[int, int, float]] = []
    for number, part in enumerate(parts):
        weights = whole.without(part).solve()
        rows = np.flatnonzero(fold == number)
        for low in range(0, len(rows), _ROWS):
            chosen = rows[low : low + _ROWS]
            given = scores(features[chosen], mean, deviation, weights)
            named, label = given.argmax(axis=1), labels[chosen]
            there = np.arange(len(chosen))
            margin = given[there, named] - given[there, label]
            found += [(int(row), int(name), float(gap)) for row, name, gap in zip(chosen, named, margin) if gap > 0]
        found = sorted(found, key=lambda one: (-one[2], one[0]))[:most]
    return found


def learning_curve(train: Pooled, test: Pooled, classes: int, parts: Sequence[float]) -> list[tuple[int, int]]:
    """Count, for growing parts of the training images, how many test images a probe gets right.

    Gives (training images, test images right); every part holds the ones before.
    """
    mean, deviation = moments(train.features)
    probe, done, found = Probe(train.features.shape[1], classes), 0, []
    for part in parts:
        count = max(1, round(part * len(train.labels)))
        for low in range(done, count, _ROWS):
            high = min(count, low + _ROWS)
            probe.add(standardize(train.features[low:high], mean, deviation), train.labels[low:high])
        done = max(done, count)
        weights, right = probe.solve(), 0
        for low in range(0, len(test.labels), _ROWS):
            given = scores(test.features[low : low + _ROWS], mean, deviation, weights)
            right += int((given.argmax(axis=1) == test.labels[low : low + _ROWS]).sum())
        found.append((count, right))
    return found


def _with_one(rows: Array) -> Array:
    return np.concatenate([rows, np.ones((len(rows), 1), rows.dtype)], axis=1)


def _sum(parts: Sequence[Probe]) -> Probe:
    whole = Probe(len(parts[0].gram) - 1, parts[0].answers.shape[1])
    for part in parts:
        whole.count += part.count
        whole.gram += part.gram
        whole.answers += part.answers
    return whole
