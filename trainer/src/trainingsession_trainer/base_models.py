"""The classifiers of keras.applications by name, as frozen networks from raw pixels to features.

What can be wrong with name, arguments and input size is found here, before a data set is opened or a file fetched.
"""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from .arguments import keras_words
from .base_layers import cut
from .datasets import Disk
from .errors import SpecError
from .kept_weights import KeptWeights
from .reporting import Reporter
from .spec import BaseModel as BaseModelSpec
from .structure import clip, shown
from .weights import IMAGENET_DEVIATION, IMAGENET_MEAN, SEED, load_weights, weights_identity

Shape = tuple[int, int, int]

# Decided here and not by a spec.
_TOP = ("include_top", "classes", "classifier_activation")
_NO_ARGUMENTS = (*_TOP, "include_preprocessing", "weights", "input_tensor", "input_shape", "pooling", "name")
_LARGEST_ARGUMENT = 16
# Keras keeps these inside of its functions; a test compares the tables with what the functions say.
_SIZES = {
    **dict.fromkeys(("InceptionV3", "InceptionResNetV2", "Xception"), 299),
    "NASNetLarge": 331,
    **dict(zip((f"EfficientNetB{i}" for i in range(8)), (224, 240, 260, 300, 380, 456, 528, 600))),
    **dict(zip((f"EfficientNetV2{i}" for i in ("B1", "B2", "B3", "S", "M", "L")), (240, 260, 300, 384, 480, 480))),
}
_USUAL_SIZE = 224
_SMALLEST = {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71}
_USUAL_SMALLEST = 32
_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
_CAFFE_MEAN = (103.939, 116.779, 123.68)


@dataclass(frozen=True)
class Classifier:
    """What keras.applications knows about one of its classifiers."""

    name: str
    builder: Callable[..., keras.Model]
    preprocess_input: Callable[..., Any]
    default_size: int
    smallest_size: int
    arguments: Mapping[str, Any]  # accepted, with their defaults

    @property
    def preprocessing(self) -> str:
        """One of identity, tf, torch, caffe: found by trying the module's own function on one pixel."""
        pixel = np.array([[[[0.0, 100.0, 255.0]]]], np.float32)
        found = np.asarray(self.preprocess_input(pixel.copy()))
        for mode in ("identity", "tf", "torch", "caffe"):
            if np.allclose(found, np.asarray(preprocess(keras.ops.convert_to_tensor(pixel), mode)), atol=1e-4):
                return mode
        raise RuntimeError(f"the preprocessing of {self.name} is none of the known ones")


@dataclass(frozen=True)
class BaseModel:
    """A frozen network: raw pixels -> features."""

    name: str
    arguments: Mapping[str, Any]  # with defaults filled in
    network: keras.Model = field(repr=False)
    preprocessing: str
    input_size: tuple[int, int]
    pooling: str
    precision: str
    weights: Mapping[str, Any]  # what identifies them in the key of a feature set
    image_shape: Shape | None = None  # of the images to come; None when they differ
    weights_file: str | None = None  # SHA-256 of the file in the database
    layer: str | None = None  # whose output is taken; None for the last before the top

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Shape of one image's features, without the batch."""
        return tuple(int(size) for size in self.network.output_shape[1:])

    @property
    def antialias(self) -> bool:
        """Shrinking without antialiasing drops pixels; enlarging gains nothing from it and would only be slower."""
        if self.image_shape is None:
            return True
        return self.image_shape[0] > self.input_size[0] or self.image_shape[1] > self.input_size[1]

    def for_images(self, shape: Shape | None) -> BaseModel:
        """Take images of this shape [h, w, 3] from now on, or of different ones (None)."""
        return replace(self, image_shape=shape)

    def resizing(self) -> keras.layers.Layer:
        """Layer [n, h, w, 3] float32 -> [n, *input_size, 3] float32."""
        return keras.layers.Resizing(
            *self.input_size, interpolation="bilinear", antialias=self.antialias, dtype="float32", name="resize"
        )

    def resized_model(self) -> keras.Model:
        """Model of images that have the input size already: float32 [n, *input_size, 3], 0 to 255 -> features."""
        pixels = keras.Input((*self.input_size, 3), dtype="float32", name="pixels")
        return keras.Model(pixels, self._features(pixels), name="features")

    def pixels_model(self) -> keras.Model:
        """Model of raw pixels [n, h, w, 3], uint8 or float32, 0 to 255 -> features float32; loads without own code."""
        pixels = keras.Input(self.image_shape or (None, None, 3), dtype="float32", name="pixels")
        return keras.Model(pixels, self._features(self.resizing()(pixels)), name="features")

    def _features(self, resized: Any) -> Any:
        features = self.network(preprocess(resized, self.preprocessing), training=False)
        return features if self.precision == "float32" else keras.ops.cast(features, "float32")


def classifiers() -> dict[str, Callable[..., keras.Model]]:
    """List every classifier of keras.applications."""
    names = (name for name in dir(keras.applications) if name[0].isupper())
    return {name: getattr(keras.applications, name) for name in names}


def find_classifier(name: str) -> Classifier:
    """Look up a classifier; raises SpecError."""
    builders = classifiers()
    if name not in builders:
        lowered = {known.lower(): known for known in builders}
        close = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
        remedy = f"did you mean {lowered[close[0]]}?" if close else f"use one of {', '.join(builders)}."
        raise SpecError(f"spec.baseModel.name {shown(name)} is no classifier of keras.applications; {remedy}")
    builder = builders[name]
    parameters = inspect.signature(builder).parameters
    return Classifier(
        name=name,
        builder=builder,
        preprocess_input=sys.modules[builder.__module__].preprocess_input,
        default_size=_SIZES.get(name, _USUAL_SIZE),
        smallest_size=_SMALLEST.get(name, _USUAL_SMALLEST),
        arguments={key: value.default for key, value in parameters.items() if key not in _NO_ARGUMENTS},
    )


def check_base_model(spec: BaseModelSpec) -> tuple[Classifier, dict[str, Any], tuple[int, int]]:
    """Check name, arguments and input size; return the classifier, all its arguments and the size (h, w)."""
    classifier = find_classifier(spec.name)
    arguments = dict(classifier.arguments)
    for key, value in spec.arguments.items():
        path = f"spec.baseModel.arguments.{clip(key)}"
        if key not in arguments:
            accepted = f"accepted are {', '.join(arguments)}" if arguments else f"{spec.name} has none, remove it"
            raise SpecError(f"{path} is no argument of {spec.name} that can be set; {accepted}.")
        arguments[key] = _checked(value, arguments[key], path)
    height, width = spec.input_size or (classifier.default_size, classifier.default_size)
    smallest = classifier.smallest_size
    if min(height, width) < smallest:
        raise SpecError(
            f"spec.baseModel.inputSize is [{height}, {width}]; {spec.name} needs at least [{smallest}, {smallest}]."
        )
    return classifier, arguments, (height, width)


def open_base_model(
    spec: BaseModelSpec,
    work: Path,
    reporter: Reporter,
    stop: Callable[[], bool],
    kept: KeptWeights | None = None,
    disk: Disk | None = None,
) -> BaseModel:
    """Check, build and freeze the base model and load its weights, from `kept` where they are there.

    `disk` says how much a download may take. Raises SpecError, DataError, StorageError, Stopped.
    """
    classifier, arguments, size = check_base_model(spec)
    reporter.info(f"Building {spec.name} for {size[0]} x {size[1]} pixels")
    # "none" means the same random weights in every process; Keras draws its initializers' seeds from this one.
    keras.utils.set_random_seed(SEED)
    with _precision(spec.precision):

        def build(weights: str | None) -> keras.Model:
            try:
                network = classifier.builder(
                    include_top=False,
                    weights=weights,
                    input_shape=(*size, 3),
                    pooling=None if spec.pooling == "none" or spec.layer else spec.pooling,
                    **arguments,
                )
            except (ValueError, TypeError, ZeroDivisionError) as error:
                if "corrupted" in str(error):  # a download, judged by the caller
                    raise
                raise SpecError(
                    f"spec.baseModel cannot be built as {spec.name} ({keras_words(error)}); "
                    "correct its arguments or inputSize."
                ) from error
            if spec.layer is not None:
                # Before weights are fetched.
                cut(network, spec.layer, spec.pooling)
            return network

        network, weights_file = load_weights(spec, build, work, reporter, stop, kept, disk)
        identity = weights_identity(spec, network)
        if spec.layer is not None:
            network = cut(network, spec.layer, spec.pooling)
    network.trainable = False
    return BaseModel(
        name=spec.name,
        arguments=arguments,
        network=network,
        preprocessing=classifier.preprocessing,
        input_size=size,
        pooling=spec.pooling,
        precision=spec.precision,
        weights=identity,
        weights_file=weights_file,
        layer=spec.layer,
    )


def preprocess(pixels: Any, mode: str) -> Any:
    """Do what the module's `preprocess_input` does, with parts that Keras saves and loads by itself."""
    if mode == "tf":
        return keras.layers.Rescaling(1 / 127.5, offset=-1.0, dtype="float32", name="rescale")(pixels)
    if mode == "torch":
        mean = [255 * value for value in IMAGENET_MEAN]
        variance = [(255 * value) ** 2 for value in IMAGENET_DEVIATION]
        return keras.layers.Normalization(mean=mean, variance=variance, dtype="float32", name="normalize")(pixels)
    if mode == "caffe":
        # Red, green, blue -> blue, green, red.
        turned = keras.ops.flip(pixels, axis=-1)
        return keras.layers.Normalization(
            mean=list(_CAFFE_MEAN), variance=[1.0] * 3, dtype="float32", name="normalize"
        )(turned)
    return pixels


def _checked(value: Any, default: Any, path: str) -> Any:
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise SpecError(f"{path} is {shown(value)}; it must be true or false.")
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LARGEST_ARGUMENT:
        raise SpecError(f"{path} is {shown(value)}; it must be a number from 0 to {_LARGEST_ARGUMENT}.")
    if isinstance(default, int):
        if value != int(value):
            raise SpecError(f"{path} is {shown(value)}; it must be an integer.")
        return int(value)
    return float(value)


@contextmanager
def _precision(name: str) -> Iterator[None]:
    """Build layers with this precision: the builders take no dtype, so the global policy is lent to them."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(_POLICIES[name])
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
