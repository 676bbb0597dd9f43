"""The base model as a function over images: read ahead in a thread, resized and run in batches of one size."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from .base_models import BaseModel
from .datasets import Split
from .errors import Stopped

Floats = npt.NDArray[np.float32]

_BATCH_PIXELS = 32 * 224 * 224
_LARGEST_BATCH = 64
_LARGEST_AREA = 4  # of an image, in areas of the input size, at which batches hold whole images


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
