"""The forms of the complete model: SavedModel and ONNX say what Keras says, for images as their users have them."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from PIL import Image

from trainingsession_trainer.artifacts import complete_model, write_models
from trainingsession_trainer.base_models import open_base_model
from trainingsession_trainer.exports import ExportError, onnx_model
from trainingsession_trainer.head import Standardization, build_head
from trainingsession_trainer.spec import Head

CLASSES = ["cat", "dög", "bird"]


def build(make_spec, reporter, work: Path, name: str, size: int, image_shape=None, **arguments) -> keras.Model:
    """A complete model with random weights, of images of `image_shape` or any."""
    base = {"name": name, "weights": "none", "inputSize": [size, size], "arguments": arguments}
    opened = open_base_model(make_spec(baseModel=base).base_model, work, reporter, lambda: False)
    channels = opened.feature_shape[-1]
    measured = Standardization(np.full(channels, 0.1), np.full(channels, 0.01))
    head = build_head(Head(), opened.feature_shape, len(CLASSES), measured)
    return complete_model(opened.for_images(image_shape).pixels_model(), head)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Smooth pictures of 40 x 50 pixels, uint8."""
    small = np.random.default_rng(1).uniform(0, 255, (6, 8, 10, 3))
    return np.asarray(tf.image.resize(small, (40, 50), "bicubic")).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def mobile_net(make_spec, kept_reporter, tmp_path_factory) -> keras.Model:
    return build(make_spec, kept_reporter, tmp_path_factory.mktemp("base"), "MobileNet", 32, alpha=0.25)


def test_a_session_that_exports_no_onnx_does_not_import_it() -> None:
    program = (
        "import sys, trainingsession_trainer.run as run; print({'onnx', 'tf2onnx', 'onnxruntime'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_saved_model_gives_probabilities_and_names_for_images_of_any_size(mobile_net, images, tmp_path) -> None:
    (path,) = write_models(tmp_path, lambda: mobile_net, CLASSES, ["savedModel"], print)
    assert path.name == "saved_model.tar"
    with tarfile.open(path) as archive:
        assert archive.getnames()[:1] == ["1"]
        assert {member.mtime for member in archive} == {0}
        archive.extractall(tmp_path / "models", filter="data")
    loaded = tf.saved_model.load(tmp_path / "models" / "1")
    serve = loaded.signatures["serving_default"]
    (_, given) = serve.structured_input_signature
    assert given == {"images": tf.TensorSpec((None, None, None, 3), tf.uint8, name="images")}
    for pictures in (images, images[:1, :20, :16]):  # shrunk, enlarged
        found = serve(images=tf.constant(pictures))
        wanted = mobile_net.predict(pictures.astype(np.float32), verbose=0)
        np.testing.assert_allclose(found["probabilities"], wanted, atol=1e-5)
        best = [CLASSES[index].encode() for index in wanted.argmax(axis=1)]
        assert found["class_name"].numpy().tolist() == best
    names = loaded.signatures["class_names"]()["class_names"].numpy()
    assert [name.decode() for name in names] == CLASSES


def pillow_resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """What docs/artifacts.md says: bilinear with antialiasing, in floats, channel by channel."""
    channels = [Image.fromarray(channel.astype(np.float32)) for channel in np.moveaxis(image, -1, 0)]
    resized = [np.asarray(channel.resize(size[::-1], Image.Resampling.BILINEAR)) for channel in channels]
    return np.stack(resized, axis=-1)


def test_onnx_runtime_gives_what_keras_gives_after_the_documented_resize(mobile_net, images, tmp_path) -> None:
    model, size, told = mobile_net, 32, list[str]()
    (path,) = write_models(tmp_path, lambda: model, CLASSES, ["onnx"], told.append)
    assert "model.onnx gives Keras's probabilities within" in told[0]
    session = onnxruntime.InferenceSession(path)
    (given,), (taken,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape, given.type) == ("images", ["n", size, size, 3], "tensor(float)")
    assert (taken.name, taken.shape) == ("probabilities", ["n", 3])
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["class_names"]) == CLASSES
    assert json.loads(metadata["input_size"]) == [size, size]
    for pictures in (images, images[:, :16, :20]):
        resized = np.stack([pillow_resize(image, (size, size)) for image in pictures])
        (found,) = session.run(None, {"images": resized})
        np.testing.assert_allclose(found, model.predict(pictures.astype(np.float32), verbose=0), atol=1e-4)
    onnx.checker.check_model(onnx.load(path), full_check=True)


def all_kinds() -> keras.Model:
    """A small network with what is hard to convert: exact GELU, grouped and depthwise convolutions, normalisation."""
    keras.utils.set_random_seed(0)
    pixels = keras.Input((None, None, 3))
    flow = keras.layers.Resizing(16, 16, name="resize")(pixels)
    flow = keras.layers.Normalization(mean=[100.0, 120.0, 90.0], variance=[900.0] * 3)(flow)
    flow = keras.layers.Conv2D(8, 3)(flow)
    flow = keras.layers.DepthwiseConv2D(7, padding="same")(flow)
    flow = keras.layers.LayerNormalization()(flow)
    flow = keras.activations.gelu(keras.layers.Conv2D(8, 3, groups=4)(flow))
    flow = keras.layers.GlobalAveragePooling2D()(flow)
    return keras.Model(pixels, keras.layers.Dense(3, activation="softmax")(flow))


def test_what_is_hard_to_convert_is_converted(tmp_path) -> None:
    assert onnx_model.write_onnx(all_kinds(), CLASSES, tmp_path / "model.onnx") < 1e-5


def test_a_converted_model_that_differs_is_not_kept(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(onnx_model, "TOLERANCE", -1.0)
    told: list[str] = []
    model = all_kinds()
    assert write_models(tmp_path, lambda: model, CLASSES, ["onnx"], told.append) == []
    assert told[0].startswith("No model.onnx is made. The ONNX model's probabilities differ from Keras's by up to")
    with pytest.raises(ExportError):
        onnx_model.write_onnx(model, CLASSES, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()
