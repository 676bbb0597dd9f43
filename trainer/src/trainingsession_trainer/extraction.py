"""From images to stored features: claim a shard, decode its images, run the base model, store; until none is left."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from .base_models import BaseModel
from .datasets import Split
from .errors import DataError, SpecError, Stopped
from .feature_sets import FeatureSet
from .feature_store import FeatureStore

Floats = npt.NDArray[np.float32]
Told = Callable[[int, int, float | None], None]  # images there by now, those computed here, images per second

FLOAT16_LARGEST = 6e4
FLOAT16_SMALLEST_MEDIAN = 1e-4
MOSTLY_ZERO = 0.999
POLL_SECONDS = 0.5
_BATCH_PIXELS = 32 * 224 * 224
_LARGEST_BATCH = 64
_LARGEST_AREA = 4  # of an image, in areas of the input size, at which batches hold whole images
_RENEWALS_PER_LEASE = 4


class Extractor:
    """The base model as a compiled function over batches of one size; memory does not grow with the images."""

    def __init__(self, base: BaseModel, stop: Callable[[], bool]) -> None:
        height, width = base.input_size
        self._stop = stop
        # One size for all lets a batch be resized at once; large images are resized one by one, to bound the memory.
        small = base.image_shape is not None and math.prod(base.image_shape[:2]) <= _LARGEST_AREA * height * width
        self._uniform = base.image_shape if small else None
        self._feature_shape = base.feature_shape
        self._batch = max(1, min(_LARGEST_BATCH, _BATCH_PIXELS // (height * width)))
        # By the layer that is exported.
        self._resizing = None if self._uniform else base.resizing()
        self._input_shape = self._uniform or (height, width, 3)
        model = base.pixels_model() if self._uniform else base.resized_model()
        spec = tf.TensorSpec((self._batch, *self._input_shape), tf.uint8 if self._uniform else tf.float32)
        self._run = tf.function(
            lambda pixels: model(tf.cast(pixels, tf.float32), training=False), input_signature=[spec]
        )

    def features(self, split: Split, low: int, high: int, tick: Callable[[int, int], None]) -> Floats:
        """Compute the features of images [low, high) as float32 [high - low, *feature_shape]; raises Stopped.

        `tick` hears after each batch how many are done, and how many of them were in the batch.
        """
        result: Floats = np.empty((high - low, *self._feature_shape), np.float32)
        done = 0
        dtype = np.uint8 if self._uniform else np.float32
        batch = np.zeros((self._batch, *self._input_shape), dtype)
        for count in self._batches(split, low, high, batch):
            if self._stop():
                raise Stopped("Stopped while features were computed; the next attempt goes on with those stored.")
            result[done : done + count] = self._run(tf.constant(batch)).numpy()[:count]
            done += count
            tick(done, count)
        return result

    def _batches(self, split: Split, low: int, high: int, batch: npt.NDArray[Any]) -> Iterator[int]:
        """Fill `batch` again and again; gives how many of its images count."""
        count = 0
        for image in _ahead(lambda index: self._prepared(split, index), low, high, 2 * self._batch):
            batch[count] = image
            count += 1
            if count == self._batch:
                yield count
                count = 0
        if count:
            yield count

    def _prepared(self, split: Split, index: int) -> npt.NDArray[Any]:
        image = split.image(index)
        if self._resizing is None:
            return image
        resized: npt.NDArray[Any] = np.asarray(self._resizing(tf.cast(image[np.newaxis], tf.float32)))[0]
        return resized


class Extraction:
    """Completes feature sets: computes what is missing, waits for what other sessions compute."""

    def __init__(self, store: FeatureStore, base: BaseModel, stop: Callable[[], bool]) -> None:
        self._store = store
        self._base = base
        self._stop = stop
        self._seconds = 0.0
        self._images = 0

    @cached_property
    def _extractor(self) -> Extractor:
        # Made when the first shard is missing: compiling takes seconds.
        return Extractor(self._base, self._stop)

    def complete(self, split: Split, found: FeatureSet, shards: int, told: Told) -> dict[int, int]:
        """Have the first `shards` shards in the store; gives those computed here, as images by shard.

        Raises SpecError or DataError when the features are useless, StorageError, Stopped.
        """
        ours: dict[int, int] = {}
        while True:
            there = self._store.finished(found, shards)
            stored = sum(int(document["images"]) for document in there.values())
            told(stored, sum(ours.values()), self._rate())
            missing = [index for index in range(shards) if index not in there]
            if not missing:
                return ours
            if self._stop():
                raise Stopped("Stopped before all features were computed; the next attempt goes on with those stored.")
            claimed = next((index for index in missing if self._store.claim(found, index)), None)
            if claimed is None:  # all are leased: by a session that computes, or that died and whose lease will pass
                time.sleep(POLL_SECONDS)
                continue
            low, high = found.bounds(claimed)
            before = sum(ours.values())
            if self._compute(split, found, claimed, lambda done: told(stored + done, before + done, self._rate())):  # noqa: B023 - called within this turn
                ours[claimed] = high - low

    def _compute(self, split: Split, found: FeatureSet, index: int, told: Callable[[int], None]) -> bool:
        """Compute and store a claimed shard; False when the claim was lost."""
        renewed = counted = time.monotonic()

        def tick(done: int, images: int) -> None:
            nonlocal renewed, counted
            now = time.monotonic()
            self._seconds, self._images, counted = self._seconds + now - counted, self._images + images, now
            told(done)
            if now - renewed > self._store.lease_seconds / _RENEWALS_PER_LEASE:
                self._store.renew(found, index)
                renewed = now

        try:
            features = self._extractor.features(split, *found.bounds(index), tick)
            check_finite(features, self._base.precision)
            dtype = self._store.stored_type(found.key)
            if dtype is None:
                check_useful(features)
                dtype = self._store.fix_stored_type(found.key, choose_type(features))
            # A later shard may hold what float16 cannot; it is then stored wider, and the set is read as float32.
            wide = float(np.abs(features).max(initial=0)) > FLOAT16_LARGEST
            self._store.renew(found, index)
            facts = {"tensorflow": tf.__version__, "keras": keras.__version__}
            return self._store.finish(found, index, features.astype(np.float32 if wide else dtype), facts)
        except BaseException:
            self._store.release(found, index)
            raise

    def _rate(self) -> float | None:
        return self._images / self._seconds if self._seconds else None


def choose_type(features: Floats) -> np.dtype[Any]:
    """Store as float16 where that loses nothing that matters: neither overflow nor a network of tiny values."""
    magnitudes = np.abs(features)
    present = magnitudes[magnitudes > 0]
    if not np.isfinite(features).all() or magnitudes.max(initial=0) > FLOAT16_LARGEST:
        return np.dtype(np.float32)
    if present.size and float(np.median(present)) < FLOAT16_SMALLEST_MEDIAN:
        return np.dtype(np.float32)
    return np.dtype(np.float16)


def check_finite(features: Floats, precision: str) -> None:
    """Refuse infinite and undefined features; raises SpecError, DataError."""
    if np.isfinite(features).all():
        return
    if precision == "float32":
        raise DataError("The base model's features are not finite; the weights are damaged, give others.")
    raise SpecError(f"spec.baseModel.precision is '{precision}', in which the features overflow; use float32.")


def check_useful(features: Floats) -> None:
    """Refuse features from which nothing can be learned; raises SpecError."""
    zeros = 1 - np.count_nonzero(features) / max(features.size, 1)
    constant = len(features) > 1 and bool((features == features[:1]).all())
    if not constant and zeros <= MOSTLY_ZERO:
        return
    what = "the same for every image" if constant else f"zero by {100 * zeros:.1f} %"
    raise SpecError(
        f"spec.baseModel gives features that are {what}, from which nothing can be learned; "
        "use other weights, a larger inputSize or another base model."
    )


def _ahead(read: Callable[[int], npt.NDArray[Any]], low: int, high: int, limit: int) -> Iterator[npt.NDArray[Any]]:
    """Read images in a thread of their own, at most `limit` before they are needed; passes on its errors."""
    images: queue.Queue[npt.NDArray[Any] | BaseException | None] = queue.Queue(limit)
    closed = threading.Event()

    def offer(item: npt.NDArray[Any] | BaseException | None) -> bool:
        while not closed.is_set():
            try:
                images.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for index in range(low, high):
                if not offer(read(index)):
                    return
            offer(None)
        except BaseException as error:  # noqa: BLE001 - raised again by the reader
            offer(error)

    thread = threading.Thread(target=work, name="images", daemon=True)
    thread.start()
    try:
        while (item := images.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        closed.set()
        thread.join()
