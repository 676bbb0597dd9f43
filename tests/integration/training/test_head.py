"""`head.layers` becomes a Keras model, or a sentence that names the layer."""

from __future__ import annotations

import inspect
from functools import partial

import keras
import numpy as np
import pytest

from trainingsession_trainer import head_source
from trainingsession_trainer.batches import LabelledFeatures
from trainingsession_trainer.errors import SpecError
from trainingsession_trainer.head import build_head, standardize_from
from trainingsession_trainer.head_layers import ALLOWED_LAYERS, LEFT_OUT
from trainingsession_trainer.run import head_check
from trainingsession_trainer.spec import Head, Layer, Session


def head(*layers: tuple[str, dict]) -> Head:
    return Head(tuple(Layer(kind, config) for kind, config in layers))


def kinds(model: keras.Model) -> list[str]:
    return [type(layer).__name__ for layer in model.layers[1:]]


def test_the_default_head_is_convolutional_where_there_are_positions() -> None:
    model = build_head(Head(), (4, 4, 8), 10)
    assert kinds(model) == ["Conv2D", "Dropout", "GlobalAveragePooling2D", "Dropout", "Dense"]
    assert model.output_shape == (None, 10)
    assert model.layers[1].activation is keras.activations.linear


@pytest.mark.parametrize(
    ("shape", "expected"), [((1, 1, 8), ["Dropout", "Flatten", "Dense"]), ((8,), ["Dropout", "Dense"])]
)
def test_the_default_head_is_linear_on_single_positions(shape, expected) -> None:
    assert kinds(build_head(Head(), shape, 3)) == expected


def test_layers_that_keep_positions_are_flattened_for_the_output() -> None:
    model = build_head(head(("Conv2D", {"filters": 5, "kernel_size": 2})), (3, 3, 4), 7)
    assert kinds(model) == ["Conv2D", "Flatten", "Dense"]
    assert model.layers[-1].kernel.shape == (2 * 2 * 5, 7)


def test_the_output_is_a_float32_probability() -> None:
    model = build_head(head(("Dense", {"units": 4, "activation": "relu"})), (6,), 3)
    probabilities = np.asarray(model(np.ones((2, 6), np.float16)))
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-6)


def test_standardised_features_have_mean_zero_and_deviation_one() -> None:
    features = np.random.default_rng(0).normal(40.0, 5.0, (600, 2, 2, 3)).astype(np.float16)
    model = build_head(Head(), (2, 2, 3), 2, standardize_from(LabelledFeatures(features, np.zeros(600, np.int32))))
    flat = np.asarray(model.get_layer("standardize")(features.astype(np.float32))).reshape(-1, 3)
    np.testing.assert_allclose(flat.mean(axis=0), 0.0, atol=1e-4)
    np.testing.assert_allclose(flat.std(axis=0), 1.0, rtol=1e-3)


def test_objects_of_keras_lists_are_accepted() -> None:
    config = {
        "units": 4,
        "kernel_initializer": {"class_name": "HeNormal", "config": {}},
        "kernel_regularizer": {"class_name": "L2", "config": {"l2": 0.01}},
        "bias_initializer": "ones",
    }
    dense = build_head(head(("Dense", config)), (6,), 3).layers[1]
    assert isinstance(dense.kernel_initializer, keras.initializers.HeNormal)
    assert dense.kernel_regularizer.l2 == pytest.approx(0.01)


def test_every_layer_of_keras_is_allowed_or_left_out_for_a_reason() -> None:
    left_out = [name for names in LEFT_OUT.values() for name in names]
    decided = [*ALLOWED_LAYERS, *left_out]
    assert sorted(decided) == sorted({name for name in dir(keras.layers) if name[0].isupper()})
    assert all(issubclass(getattr(keras.layers, name), keras.Layer) for name in ALLOWED_LAYERS)


NEEDED = {
    "units": 4, "filters": 4, "kernel_size": 1, "rate": 0.1, "stddev": 0.1, "activation": "relu", "n": 3, "scale": 2.0,
    "output_size": 2, "equation": "...a,ab->...b", "output_shape": 5, "groups": 2, "padding": 1, "pool_size": 2,
}  # fmt: skip


@pytest.mark.parametrize("name", ALLOWED_LAYERS)
def test_every_allowed_layer_can_be_part_of_a_head_and_of_one_that_starts_from_it(name: str, tmp_path) -> None:
    arguments = inspect.signature(getattr(keras.layers, name)).parameters
    config = {key: NEEDED[key] for key, value in arguments.items() if key in NEEDED and value.default is value.empty}
    if name == "GroupNormalization":
        config = {"groups": 2}
    layers = [(name, config)]
    shape: tuple[int, ...] = (4, 4, 6)
    if name.startswith("Reshape"):
        layers = [(name, {"target_shape": [16, 6]})]
    if name == "Permute":
        layers = [(name, {"dims": [2, 1, 3]})]
    if name == "EinsumDense":
        shape, layers = (6,), [(name, {"equation": "ab,bc->ac", "output_shape": 5})]
    if name == "RepeatVector":
        shape = (6,)
    if "1D" in name:
        layers = [("Reshape", {"target_shape": [16, 6]}), (name, config)]
    model = build_head(head(*layers), shape, 3)
    assert model.output_shape == (None, 3)
    assert np.isfinite(model(np.ones((2, *shape), np.float32))).all()
    again = head_source._parse(model.to_json().encode(), "first", tmp_path / "head.weights.h5")
    assert kinds(build_head(again.head_for(Head(), shape, 3), shape, 3)) == kinds(model)


MODULE = {"module": "builtins", "class_name": "eval", "config": {}}
BAD = {
    "unknown layer": (
        [("Dens", {})],
        (6,),
        "spec.head.layers[0].type is 'Dens'; did you mean Dense.",
    ),
    "layer that runs code": (
        [("Dropout", {"rate": 0.1}), ("Lambda", {})],
        (6,),
        "spec.head.layers[1].type is 'Lambda';",
    ),
    "layer that loads a model": ([("TFSMLayer", {"filepath": "x"})], (6,), "spec.head.layers[0].type is 'TFSMLayer';"),
    "wrapper": ([("TimeDistributed", {})], (6,), "spec.head.layers[0].type is 'TimeDistributed';"),
    "layer that reads a file": ([("StringLookup", {"vocabulary": "/etc/passwd"})], (6,), "spec.head.layers[0].type is"),
    "unknown argument": (
        [("Dense", {"unit": 3})],
        (6,),
        "spec.head.layers[0].config.unit is not an argument of Dense; did you mean units.",
    ),
    "missing argument": ([("Dense", {})], (6,), "spec.head.layers[0].config.units is missing; Dense needs it."),
    "wrong value": (
        [("Dense", {"units": "many"})],
        (6,),
        "spec.head.layers[0].config does not fit Dense (Received an invalid value for `units`",
    ),
    "wrong rate": ([("Dropout", {"rate": 7})], (6,), "spec.head.layers[0].config does not fit Dropout ("),
    "object by module": (
        [("Dense", {"units": 3, "kernel_initializer": MODULE})],
        (6,),
        "spec.head.layers[0].config.kernel_initializer.module is not accepted; give class_name and config only.",
    ),
    "function as activation": (
        [("Activation", {"activation": MODULE})],
        (6,),
        "spec.head.layers[0].config.activation is {'module': 'builtins', 'class_name': 'eval', 'config': {}}; use",
    ),
    "object in a list": ([("Dense", {"units": [MODULE]})], (6,), "spec.head.layers[0].config.units[0] is {"),
    "unknown initializer": (
        [("Dense", {"units": 3, "kernel_initializer": {"class_name": "HeNorml"}})],
        (6,),
        "spec.head.layers[0].config.kernel_initializer.class_name is 'HeNorml'; did you mean HeNormal.",
    ),
    "not finite": (
        [("Dropout", {"rate": float("nan")})],
        (6,),
        "spec.head.layers[0].config.rate is nan; it must be a finite number.",
    ),
    "own type": ([("Dense", {"units": 3, "dtype": "float16"})], (6,), "spec.head.layers[0].config.dtype is not an"),
    "window larger than the features": (
        [("Conv2D", {"filters": 4, "kernel_size": 2})],
        (1, 1, 8),
        "spec.head.layers[0] (Conv2D) does not fit an input of shape 1x1x8 (",
    ),
    "convolution on a vector": (
        [("Conv2D", {"filters": 4, "kernel_size": 2})],
        (8,),
        "set spec.baseModel.pooling to none, or use Dense instead.",
    ),
    "two layers of one name": (
        [("Dropout", {"rate": 0.1, "name": "a"}), ("Dropout", {"rate": 0.1, "name": "a"})],
        (8,),
        "spec.head.layers[1].config.name is 'a'; use another name",
    ),
    "size left open": (
        [("EinsumDense", {"equation": "abcd,de->abce", "output_shape": [None, None, 7]})],
        (2, 2, 9),
        "spec.head.layers ends with an output of shape NonexNonex7, which leaves a size open; write it in the place of",
    ),
    "more memory than there is": (
        [("Dense", {"units": 10**14})],
        (8,),
        "spec.head.layers[0] (Dense) does not fit an input of shape 8 (",
    ),
}


@pytest.mark.parametrize(("layers", "shape", "sentence"), BAD.values(), ids=BAD.keys())
def test_a_bad_layer_is_refused_with_a_sentence(layers, shape, sentence: str) -> None:
    with pytest.raises(SpecError) as caught:
        build_head(head(*layers), shape, 3)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1200


def test_a_size_that_is_left_open_between_layers_is_no_trouble() -> None:
    open_size = ("EinsumDense", {"equation": "abcd,de->abce", "output_shape": [None, None, 7]})
    assert build_head(head(open_size, ("GlobalAveragePooling2D", {})), (2, 2, 9), 3).output_shape == (None, 3)


def test_an_output_layer_that_memory_is_too_small_for_is_refused_before_it_is_built(make_spec) -> None:
    large, shape = [{"type": "UpSampling2D", "config": {"size": 32}}], (4, 4, 8)
    session = Session("team-a", "large", "uid", make_spec(head={"layers": large}), None, {})
    check = partial(head_check(session, 5 << 18), shape)
    check(["a", "b"])
    with pytest.raises(SpecError) as caught:
        check(["a", "b", "c"])
    assert str(caught.value) == (
        "spec.head.layers ends with an output of shape 128x128x8, for which the output layer of 3 classes needs 1 MiB, "
        "and 1 MiB of memory may be used; end with a smaller output, such as GlobalAveragePooling2D, or raise "
        "spec.resources.memory."
    )
