"""The base model as a compiled function over images, at the model's own speed.

What keeps a fast device busy: threads read ahead, as many as there are processors; images that are not larger than the
input are resized on the device, a batch at a time; and a batch is handed over before the one before it is fetched. What
bounds the memory: few batches of a bounded number of pixels, and a bounded number of pixels that are decoded at once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from .base_models import BaseModel
from .batch_size import SMALLEST, BatchSize, batch_sizes
from .datasets import Split
from .errors import SpecError, Stopped
from .read_ahead import DECODED_PIXELS, ReadAhead, Room, processors

Floats = npt.NDArray[np.float32]
Array = npt.NDArray[Any]
Function = Callable[[Any], Any]
"""From an array or tensor to a tensor."""
See = Callable[[int, npt.NDArray[np.uint8]], None]
"""Called with an image's place in the split's order and the image [h, w, 3]."""

_STOPPED = "Stopped while features were computed; the next attempt goes on with those stored."
_BATCH_PIXELS = 1_250_000
"""Of the input, in a batch at most: VGG16 at 224 x 224 then stays below 1.5 GB, and more is hardly faster."""
_BATCH_PIXELS_GPU = 1 << 23
_CONSTANT_BYTES = 32 << 20


class Extractor:
    """Computes features; memory does not grow with the number of images."""

    def __init__(
        self, base: BaseModel, stop: Callable[[], bool], say: Callable[[str], None], batch: int | None = None
    ) -> None:
        """Take a base model and a line's way into the log; without `batch`, its size is found while working."""
        self._base = base
        self._stop = stop
        self._say = say
        pixels = math.prod(base.input_size)
        at_once = _BATCH_PIXELS_GPU if tf.config.list_physical_devices("GPU") else _BATCH_PIXELS
        self._size = BatchSize((batch,) if batch else batch_sizes(pixels, at_once))
        self._room = Room(DECODED_PIXELS)
        # Shrinking has a kernel for processors only, so the threads do it; it is the same for one image and for many.
        self._whole = base.image_shape is not None and not base.antialias
        self._shape = base.image_shape if base.image_shape and self._whole else (*base.input_size, 3)
        self._dtype: type[np.generic] = np.uint8 if self._whole else np.float32
        model = base.pixels_model() if self._whole else base.resized_model()
        self._run = compiled(model, tf.TensorSpec((None, *self._shape), self._dtype))
        self._resize = resize_function(base)

    def features(
        self, split: Split, low: int, high: int, tick: Callable[[int, int], None], see: See = lambda index, image: None
    ) -> Floats:
        """Compute the features of images [low, high) as float32 [high - low, *feature_shape].

        `tick` hears after each batch how many are done, and how many of them were in the batch. `see` is shown every
        image while it is in memory, by several threads. Raises DataError for an image, SpecError when memory is too
        small for one image, Stopped.
        """
        result: Floats = np.empty((high - low, *self._base.feature_shape), np.float32)
        done = 0
        fill = partial(self._read_whole if self._whole else self._read_resized, split, see)
        ahead = ReadAhead(fill, self._shape, self._dtype, processors())
        with closing(ahead.batches(low, high, self._size.next)) as batches:
            for values in self._computed(batches):
                result[done : done + len(values)] = values
                done += len(values)
                tick(done, len(values))
        return result

    def _computed(self, batches: Iterator[tuple[Array, int]]) -> Iterator[Floats]:
        """Give each batch's features; one is fetched when the next is under way, so that a GPU does not wait for us."""
        running: tuple[Array, int, tf.Tensor | None] | None = None
        for array, count in batches:
            if self._stop():
                raise Stopped(_STOPPED)
            # Few sizes in all: a GPU's library looks for the best kernels for each.
            images = array[: max(SMALLEST, 1 << (count - 1).bit_length())]
            if not self._size.found:
                yield self._timed(images, count)
                continue
            started = (images, count, self._start(images))
            if running is not None:
                yield self._fetch(*running)
            running = started
        if running is not None:
            yield self._fetch(*running)

    def _timed(self, images: Array, count: int) -> Floats:
        before = time.perf_counter()
        features = self._fetch(images, count, self._start(images))
        if line := self._size.observe(count, time.perf_counter() - before):
            self._say(line)
        return features

    def _start(self, images: Array) -> tf.Tensor | None:
        """Hand images over, which are not copied where the device is the processor; None when memory runs out."""
        try:
            return self._run(tf.convert_to_tensor(images))
        except tf.errors.ResourceExhaustedError:
            return None

    def _fetch(self, images: Array, count: int, features: tf.Tensor | None) -> Floats:
        """Wait for the features of the first `count` images; where memory ran out, compute them in halves."""
        if features is not None:
            try:
                found: Floats = features.numpy()[:count]
            except tf.errors.ResourceExhaustedError:
                pass
            else:
                return found
        half = len(images) // 2
        if half == 0:
            raise SpecError(_too_large(self._base))
        if self._size.limit(half):
            self._say(f"Memory is too small for batches of {len(images)} images; going on with {half}")
        parts = [images[start : start + half] for start in range(0, count, half)]
        return np.concatenate([self._fetch(part, len(part), self._start(part)) for part in parts])[:count]

    def _read_whole(self, split: Split, see: See, low: int, out: Array) -> None:
        split.read(low, out)
        for place, image in enumerate(out):
            see(low + place, image)

    def _read_resized(self, split: Split, see: See, low: int, out: Array) -> None:
        for place, index in enumerate(range(low, low + len(out))):
            if self._stop():
                raise Stopped(_STOPPED)
            with self._room.of(math.prod((self._base.image_shape or split.shape(index))[:2])):
                image = split.image(index)
                out[place] = self._resize(image).numpy()
                see(index, image)


def compiled(model: keras.Model, images: tf.TensorSpec) -> Function:
    """Compile a model [n, h, w, 3] -> float32 features for images of this shape and type.

    Weights become constants where they are small: TensorFlow then folds every scale into its convolution, which makes
    MobileNet 1.6 times as fast. While it does so it needs ten times their size; and networks with large weights gain
    little, as their time goes into the convolutions themselves.
    """
    small = sum(math.prod(weight.shape) * 4 for weight in model.variables) <= _CONSTANT_BYTES
    values = [(weight, weight.numpy()) for weight in model.variables] if small else []

    def run(pixels: tf.Tensor) -> tf.Tensor:
        with keras.StatelessScope(state_mapping=[(weight, tf.constant(value)) for weight, value in values]):
            return model(tf.cast(pixels, tf.float32), training=False)

    function: Function = tf.function(run, input_signature=[images], autograph=False)
    return function


def resize_function(base: BaseModel) -> Function:
    """Make the function uint8 [h, w, 3] -> float32 [*input_size, 3]: the bits of the exported model's own layer.

    On pixels as they are, not on a copy as float32, which would be four times as large.
    """

    def resize(image: tf.Tensor) -> tf.Tensor:
        with tf.device("/CPU:0"):
            return tf.image.resize(image, base.input_size, antialias=base.antialias)

    function: Function = tf.function(resize, input_signature=[tf.TensorSpec((None, None, 3), tf.uint8)])
    return function


def _too_large(base: BaseModel) -> str:
    height, width = base.input_size
    return (
        f"spec.baseModel.inputSize is [{height}, {width}], at which memory is too small to compute {base.name} for a "
        "single image; lower inputSize, or use a GPU with more memory."
    )
