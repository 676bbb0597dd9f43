"""Every classifier of keras.applications: sizes, preprocessing and weights are Keras's own."""

from __future__ import annotations

import io
import re

import keras
import numpy as np
import pytest

from trainingsession_trainer import config
from trainingsession_trainer.base_layers import cut, layers_by_name
from trainingsession_trainer.base_models import classifiers, find_classifier, open_base_model, preprocess
from trainingsession_trainer.errors import DataError, SpecError
from trainingsession_trainer.feature_sets import describe_set
from trainingsession_trainer.reporting import Reporter

NAMES = sorted(classifiers())


def opened(work, **base):
    spec = config.parse_spec({"dataset": {"name": "digits"}, "baseModel": base}).base_model
    return open_base_model(spec, work, Reporter(io.StringIO()), bool)


def refusal(name, **arguments) -> str:
    """What Keras says about a shape before it builds anything."""
    with pytest.raises(ValueError, match=r"size|shape") as found:
        classifiers()[name](weights=None, **arguments)
    return str(found.value)


@pytest.mark.parametrize("name", NAMES)
def test_the_sizes_are_those_of_keras(name):
    classifier = find_classifier(name)
    too_small = classifier.smallest_size - 1
    said = refusal(name, include_top=False, input_shape=(too_small, too_small, 3))
    assert f"at least {classifier.smallest_size}x{classifier.smallest_size}" in said
    if name.startswith("MobileNetV3"):
        return  # Keras asks for no size there; its documentation says 224
    with pytest.raises(ValueError, match="input_shape") as found:
        classifiers()[name](include_top=True, weights="imagenet", input_shape=(90, 90, 3))
    assert re.search(rf"\({classifier.default_size}, {classifier.default_size}, 3\)", str(found.value))


@pytest.mark.parametrize("name", NAMES)
def test_the_preprocessing_is_that_of_keras(name):
    classifier = find_classifier(name)
    pixels = np.random.default_rng(1).uniform(0, 255, (2, 5, 6, 3)).astype(np.float32)
    ours = np.asarray(preprocess(keras.ops.convert_to_tensor(pixels), classifier.preprocessing))
    assert np.allclose(ours, classifier.preprocess_input(pixels.copy()), atol=1e-4)


@pytest.fixture(scope="module")
def efficientnet(tmp_path_factory):
    """A file like the published one: deviations stand in the place of variances."""
    network = keras.applications.EfficientNetB0(include_top=False, weights=None, input_shape=(32, 32, 3))
    layer = next(layer for layer in network.layers if isinstance(layer, keras.layers.Normalization))
    layer.set_weights([np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]), *layer.get_weights()[2:]])
    file = tmp_path_factory.mktemp("weights") / "b0.weights.h5"
    network.save_weights(file)
    return file


def test_an_efficientnet_of_the_published_weights_normalizes_as_published(efficientnet, tmp_path):
    base = opened(tmp_path, name="EfficientNetB0", inputSize=[32, 32], weightsFrom={"uri": f"file://{efficientnet}"})
    layer = next(layer for layer in base.network.layers if isinstance(layer, keras.layers.Normalization))
    until = keras.Model(base.network.inputs, layer.output)
    pixels = np.random.default_rng(1).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    wanted = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert np.allclose(until(pixels), wanted, atol=1e-4)


def test_weights_of_another_model_are_refused(efficientnet, tmp_path):
    with pytest.raises(SpecError, match=r"^spec\.baseModel\.weightsFrom holds no weights of MobileNet without its top"):
        opened(tmp_path, name="MobileNet", inputSize=[32, 32], weightsFrom={"uri": f"file://{efficientnet}"})


def test_weights_of_only_a_part_of_the_model_are_refused(tmp_path):
    whole = keras.applications.MobileNet(include_top=False, weights=None, input_shape=(32, 32, 3))
    part = keras.Model(whole.inputs, whole.layers[20].output)
    file = tmp_path / "part.weights.h5"
    part.save_weights(file)
    with pytest.raises(SpecError, match=r"^spec\.baseModel\.weightsFrom holds no weights of MobileNet without its top"):
        opened(tmp_path, name="MobileNet", inputSize=[32, 32], weightsFrom={"uri": f"file://{file}"})


def test_a_file_that_is_no_weights_file_is_refused(tmp_path):
    file = tmp_path / "text.weights.h5"
    file.write_text("no HDF5")
    with pytest.raises(DataError, match=r"^spec\.baseModel\.weightsFrom is no readable HDF5 file"):
        opened(tmp_path, name="MobileNet", inputSize=[32, 32], weightsFrom={"uri": f"file://{file}"})


def test_weights_none_are_the_same_every_time(tmp_path):
    one, other = (opened(tmp_path, name="MobileNet", weights="none", inputSize=[32, 32]) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one.network.get_weights(), other.network.get_weights()))


# One of each of Keras's modules, whose other members differ in widths and depths; building all takes minutes.
FAMILIES = {
    "ConvNeXtTiny": {}, "DenseNet121": {}, "EfficientNetB0": {}, "EfficientNetV2B0": {},
    "InceptionResNetV2": {}, "InceptionV3": {}, "MobileNet": {"alpha": 0.25, "dropout": 0.1},
    "MobileNetV2": {"alpha": 0.35}, "MobileNetV3Small": {"minimalistic": True}, "NASNetMobile": {}, "ResNet50": {},
    "ResNet50V2": {}, "VGG16": {}, "VGG19": {}, "Xception": {},
}  # fmt: skip


def test_every_module_of_keras_has_one_that_is_built():
    module = lambda name: classifiers()[name].__module__  # noqa: E731
    assert {module(name) for name in FAMILIES} == {module(name) for name in NAMES}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_smallest_size_and_the_arguments_can_be_built(name, tmp_path):
    size = find_classifier(name).smallest_size
    base = opened(tmp_path, name=name, weights="none", inputSize=[size, size], arguments=FAMILIES[name])
    assert len(base.feature_shape) == 3
    assert base.arguments.items() >= FAMILIES[name].items()
    assert not base.network.trainable_weights


CUT = {"name": "InceptionV3", "weights": "none", "inputSize": [75, 75]}


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    keras.layers.Conv2D(1, 1)  # after which Keras numbers the first one of the network 1, or higher
    return opened(tmp_path_factory.mktemp("base"), **CUT)


def test_the_features_are_the_output_of_the_layer_that_is_named(inception, tmp_path):
    pixels = np.random.default_rng(1).uniform(0, 255, (2, 75, 75, 3)).astype(np.float32)
    base = opened(tmp_path, **CUT, layer="mixed7")
    assert (base.feature_shape, base.layer) == ((3, 3, 768), "mixed7")
    wanted = keras.Model(inception.network.inputs, inception.network.get_layer("mixed7").output)
    found = base.resized_model()(pixels)
    np.testing.assert_array_equal(found, wanted(preprocess(keras.ops.convert_to_tensor(pixels), "tf")))
    pooled = opened(tmp_path, **CUT, layer="mixed7", pooling="max")
    assert pooled.feature_shape == (768,)
    np.testing.assert_array_equal(pooled.resized_model()(pixels), np.max(found, axis=(1, 2)))
    assert base.weights == inception.weights


def test_layers_are_named_as_in_a_new_process(inception):
    assert inception.network.layers[1].name != "conv2d"
    names = list(layers_by_name(inception.network))
    assert names[1:4] == ["conv2d", "batch_normalization", "activation"]
    assert "conv2d_93" in names
    assert len(set(names)) == len(inception.network.layers)


def test_the_layer_is_in_the_key_of_the_features_and_without_one_the_key_is_as_before(inception, tmp_path):
    early = opened(tmp_path, **CUT, layer="mixed7")
    described = [describe_set(base, "train", "order")["base"]["cut"] for base in (inception, early)]
    assert described == ["without top", "mixed7"]


@pytest.mark.parametrize(
    ("name", "base", "sentence"),
    [
        ("mixd7", CUT, r"^spec\.baseModel\.layer 'mixd7' is no layer of the base model; did you mean mixed7,"),
        ("end", CUT, r"^spec\.baseModel\.layer 'end' is no layer of the base model; its last ones are .*mixed10"),
    ],
)
def test_a_layer_that_cannot_be_cut_at_is_refused(name, base, sentence, tmp_path):
    with pytest.raises(SpecError, match=sentence):
        opened(tmp_path, **base, layer=name)


def test_an_output_that_is_no_map_of_features_is_refused():
    pixels = keras.Input((8, 8, 3))
    rows = keras.layers.Reshape((64, 3), name="rows")(pixels)
    with pytest.raises(SpecError, match=r"'rows' gives an output of 2 dimensions per image; .* take another layer\.$"):
        cut(keras.Model(pixels, rows), "rows", "none")
