"""What a module works on, written to the disk block by block: features of the base model, or images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trainingsession_trainer.base_models import check_base_model
from trainingsession_trainer.datasets import Split, open_dataset
from trainingsession_trainer.datasets.files import check_stop
from trainingsession_trainer.datasets.order import prefix, validation_mask
from trainingsession_trainer.errors import DataError
from trainingsession_trainer.evaluation import commonest_class

from . import handover
from .running import Handed, Running

if TYPE_CHECKING:
    from trainingsession_trainer.prepared import PreparedFeatures

_IMAGES_AT_ONCE = 1 << 23
"""Bytes of images that are decoded and written together."""


def hand_features(running: Running, prepared: PreparedFeatures) -> Handed:
    """Write the features for the module; raises DataError when they do not fit on the disk."""
    parts = (prepared.train, prepared.validation, prepared.test)
    samples = dict(zip(handover.PARTS, map(len, parts)))
    _check_room(running, sum(samples.values()) * math.prod(prepared.feature_shape) * 4)
    for name, part in zip(handover.PARTS, parts):
        labels = None if name == "test" else part.labels
        handover.write_part(running.files, name, _watched(part.blocks(), running.stop), len(part), labels)
    commonest = commonest_class(prepared.train.labels)
    truth = (prepared.test.labels, prepared.validation.labels)
    return Handed(
        prepared.class_names,
        *truth,
        samples,
        prepared.feature_shape,
        commonest,
        prepared.digests["test"],
        prepared.sets,
    )


def hand_images(running: Running) -> Handed:
    """Read, resize and write the images for the module; raises DataError naming an image, SpecError."""
    spec = running.session.spec
    _, _, size = check_base_model(spec.base_model)
    dataset = open_dataset(spec.dataset, running.folder, running.reporter, running.stop, running.disk)
    train_labels = dataset.train.labels[: prefix(len(dataset.train), spec.dataset.subset)]
    held = validation_mask(train_labels, spec.dataset.validation_split)
    test = np.arange(prefix(len(dataset.test), spec.dataset.test_subset))
    chosen = {"train": np.flatnonzero(~held), "validation": np.flatnonzero(held), "test": test}
    shape = (*size, 3)
    samples = {name: len(rows) for name, rows in chosen.items()}
    _check_room(running, sum(samples.values()) * math.prod(shape))
    running.reporter.info(f"Reading {sum(samples.values()):,} images at {size[0]}x{size[1]} for the module")
    for name, rows in chosen.items():
        split = dataset.test if name == "test" else dataset.train
        blocks = _images(split, rows.tolist(), shape, running.stop)
        labels = None if name == "test" else split.labels[rows]
        handover.write_part(running.files, name, blocks, len(rows), labels)
        running.reporter.extraction(name, len(rows), len(rows))
    commonest = commonest_class(train_labels[~held])
    truth = (dataset.test.labels[test], train_labels[held])
    digests = dataset.test.digests[: len(test)]
    return Handed(dataset.class_names, *truth, samples, shape, commonest, digests, {})


def _images(
    split: Split, rows: Sequence[int], shape: tuple[int, int, int], stop: Callable[[], bool]
) -> Iterator[npt.NDArray[np.uint8]]:
    """Decode images, and resize them as tf.image.resize does it for features; rounded to whole numbers."""
    import tensorflow as tf

    step = max(1, _IMAGES_AT_ONCE // math.prod(shape))
    for start in range(0, len(rows), step):
        check_stop(stop, "images were read")
        some = rows[start : start + step]
        block = np.empty((len(some), *shape), np.uint8)
        for place, row in enumerate(some):
            image = split.image(row)
            if image.shape != shape:
                shrinks = image.shape[0] > shape[0] or image.shape[1] > shape[1]
                with tf.device("/CPU:0"):
                    image = np.rint(tf.image.resize(image, shape[:2], antialias=shrinks).numpy()).astype(np.uint8)
            block[place] = image
        yield block


def _watched(blocks: Iterable[Any], stop: Callable[[], bool]) -> Iterator[Any]:
    for block in blocks:
        check_stop(stop, "features were written for the module")
        yield block


def _check_room(running: Running, size: int) -> None:
    room = running.disk.room()
    if size > room:
        raise DataError(
            f"The inputs of spec.module need up to {size:,} bytes on the disk, and {room:,} may be written; "
            f"lower spec.dataset.subset or spec.baseModel.inputSize, or {running.disk.remedy}."
        )
