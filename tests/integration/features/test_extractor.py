"""The extractor on real TensorFlow: the same bits however images are read and batched; what it does without memory."""

from __future__ import annotations

import hashlib
import io
import threading
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainingsession_trainer import batch_size, config
from trainingsession_trainer.base_models import open_base_model
from trainingsession_trainer.datasets.splits import ArrayImages, Images, make_split
from trainingsession_trainer.errors import DataError, SpecError, Stopped
from trainingsession_trainer.extractor import Extractor, resize_function
from trainingsession_trainer.reporting import Reporter

SIZE = (48, 48)


class DifferentImages(Images):
    """Noise of three sizes: larger, smaller, and longer than the input."""

    SIZES = ((64, 50), (32, 32), (20, 90))

    def read(self, index):
        return np.random.default_rng(index).integers(0, 256, self.shape(index), np.uint8)

    def shape(self, index):
        return (*self.SIZES[index % len(self.SIZES)], 3)


class BrokenImages(DifferentImages):
    def read(self, index):
        if index == 70:
            raise DataError("train/red/70.jpg cannot be read; repair or remove it.")
        return super().read(index)


class LimitedMemory(keras.layers.Layer):
    """Fails as a device does that has no memory for larger batches."""

    def __init__(self, most):
        super().__init__()
        self.most = most

    def call(self, features):
        def check(values):
            if len(values) > self.most:
                raise MemoryError("OOM when allocating tensor")  # TensorFlow makes it a ResourceExhaustedError
            return values

        checked = tf.numpy_function(check, [features], features.dtype, stateful=False)
        return tf.ensure_shape(checked, features.shape)

    def compute_output_shape(self, shape):
        return shape


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    spec = {"name": "MobileNet", "arguments": {"alpha": 0.25}, "weights": "none", "inputSize": list(SIZE)}
    parsed = config.parse_spec({"dataset": {"name": "digits"}, "baseModel": spec}).base_model
    return open_base_model(parsed, tmp_path_factory.mktemp("base"), Reporter(io.StringIO()), bool)


def split_of(images, count):
    digests = [hashlib.sha256(b"%d" % index).digest() for index in range(count)]
    return make_split("train", ("red", "green"), np.arange(count, dtype=np.int32) % 2, digests, images)


def noise(count, height, width):
    return split_of(ArrayImages(np.random.default_rng(1).integers(0, 256, (count, height, width, 3), np.uint8)), count)


def extracted(base, split, low=0, high=None, stop=bool, **options):
    lines, ticks = [], []
    extractor = Extractor(base, stop, lines.append, **options)
    features = extractor.features(split, low, high or len(split), lambda done, images: ticks.append((done, images)))
    return features, lines, ticks


def reference(base, split):
    """What the model that is exported gives for each image alone."""
    model = base.pixels_model()
    return np.concatenate(
        [model(split.image(index)[np.newaxis].astype(np.float32)).numpy() for index in range(len(split))]
    )


def same(features, wanted):
    scale = np.abs(wanted).max()
    assert np.abs(wanted - wanted[0]).max() > 0.01 * scale
    return np.allclose(features / scale, wanted / scale, atol=1e-5)


@pytest.mark.parametrize("batch", [16, 32, 100, None])
def test_a_batch_of_any_size_gives_the_same_features(base, batch):
    split, base = noise(230, 32, 32), base.for_images((32, 32, 3))
    wanted, _, _ = extracted(base, split, batch=64)
    features, _, ticks = extracted(base, split, batch=batch)
    # Some processors compute batches of another size by other routines, which round otherwise.
    assert same(features, wanted)
    assert ticks[-1][0] == sum(images for _, images in ticks) == 230


def test_features_stand_in_the_order_of_the_images(base):
    for images in (DifferentImages(), ArrayImages(np.random.default_rng(2).integers(0, 256, (14, 8, 8), np.uint8))):
        split = split_of(images, 14)
        shaped = base.for_images(split.common_shape(bool))
        features, _, _ = extracted(shaped, split, batch=4)
        assert same(features, reference(shaped, split))
        assert np.array_equal(extracted(shaped, split, 4, 11, batch=4)[0], features[4:11])


@pytest.mark.parametrize("shape", [(90, 50, 3), (300, 200, 3), (48, 49, 3), (64, 64, 3)])
def test_an_image_that_is_shrunk_has_the_bits_of_the_exported_models_layer(base, shape):
    shaped = base.for_images(shape)
    image = np.random.default_rng(3).integers(0, 256, shape, np.uint8)
    wanted = shaped.resizing()(image[np.newaxis].astype(np.float32))[0].numpy()
    assert np.array_equal(resize_function(shaped)(image).numpy(), wanted)


def test_without_memory_for_a_batch_it_goes_on_with_smaller_ones(base):
    shaped = base.for_images((32, 32, 3))
    limited = replace(
        shaped, network=keras.Model(base.network.inputs, LimitedMemory(20)(base.network.outputs[0]), name="limited")
    )
    split = noise(150, 32, 32)
    wanted, _, _ = extracted(shaped, split, batch=64)
    features, lines, ticks = extracted(limited, split, batch=64)
    assert np.array_equal(features, wanted)
    assert lines == [
        "Memory is too small for batches of 64 images; going on with 32",
        "Memory is too small for batches of 32 images; going on with 16",
    ]
    assert ticks[-1][0] == sum(images for _, images in ticks) == 150


def test_without_memory_for_one_image_the_session_ends_with_advice(base):
    shaped = base.for_images((32, 32, 3))
    limited = replace(
        shaped, network=keras.Model(base.network.inputs, LimitedMemory(0)(base.network.outputs[0]), name="none")
    )
    with pytest.raises(SpecError, match=r"inputSize is \[48, 48\], at which memory is too small to compute MobileNet"):
        extracted(limited, noise(40, 32, 32), batch=16)


def test_the_size_is_found_on_the_images_themselves(base, monkeypatch):
    monkeypatch.setattr(batch_size, "_SECONDS", 0)
    split = noise(9_000, 1, 1)
    _, lines, ticks = extracted(base.for_images((1, 1, 3)), split)
    (line,) = lines
    size = int(line.split("of ")[1].split()[0])
    assert line.startswith(f"Computing batches of {size} images (images/s: ")
    assert {images for _, images in ticks[-5:-1]} == {size}
    assert ticks[-1][0] == sum(images for _, images in ticks) == 9_000


def test_an_image_that_cannot_be_read_ends_it_and_its_threads(base):
    before = threading.active_count()
    split = split_of(BrokenImages(), 100)
    with pytest.raises(DataError, match=r"train/red/70\.jpg"):
        extracted(base.for_images(None), split, batch=16)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("images")]
    assert threading.active_count() <= before


def test_a_stopped_session_reads_no_further(base):
    asked = iter([False] * 30)
    with pytest.raises(Stopped, match="Stopped while features were computed"):
        extracted(base.for_images(None), split_of(DifferentImages(), 1000), batch=16, stop=lambda: next(asked, True))
