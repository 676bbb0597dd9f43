"""The head: from `spec.head.layers` to a Keras model that maps features to class probabilities."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .arguments import check_arguments, keras_words, nearest
from .errors import SpecError
from .head_layers import ALLOWED_LAYERS, why_left_out
from .spec import Head, Layer
from .structure import shown

if TYPE_CHECKING:
    import keras

    from .batches import Blocks

Shape = tuple[int, ...]

# A deviation below this part of the median one is noise of a nearly dead channel, which must not be blown up.
DEVIATION_FLOOR = 0.1
_CHUNK_VALUES = 1 << 18  # as float64 they stay in the processor's cache
_BYTES_PER_WEIGHT = 4


@dataclass(frozen=True)
class Standardization:
    """Mean and deviation of every feature channel over the training part; float64 [channels]."""

    mean: npt.NDArray[np.float64]
    deviation: npt.NDArray[np.float64]


def default_layers(feature_shape: Shape) -> tuple[Layer, ...]:
    """Return the head for a spec that names none: convolutional where there are at least 2x2 positions."""
    if len(feature_shape) == 3 and min(feature_shape[:2]) >= 2:
        return (
            Layer("Conv2D", {"filters": 100, "kernel_size": 2}),
            Layer("Dropout", {"rate": 0.4}),
            Layer("GlobalAveragePooling2D"),
            Layer("Dropout", {"rate": 0.3}),
        )
    return (Layer("Dropout", {"rate": 0.3}),)


def build_head(
    head: Head,
    feature_shape: Shape,
    class_count: int,
    standardization: Standardization | None = None,
    memory: int | None = None,
) -> keras.Model:
    """Build the model: features [n, *feature_shape] -> float32 probabilities [n, class_count]; raises SpecError.

    Whatever the layers end with is flattened for the output layer, so that no position is lost. Without
    `standardization` only the fit of the layers is of interest. An output layer that would be larger than `memory`
    bytes is refused before it is built.
    """
    import keras

    features = keras.Input(feature_shape, dtype="float32", name="features")
    flow: Any = features
    if standardization is not None:
        flow = keras.layers.Normalization(
            mean=standardization.mean.tolist(),
            variance=np.square(standardization.deviation).tolist(),
            dtype="float32",
            name="standardize",
        )(flow)
    names = {"features", "standardize", "flatten_all", "predictions"}
    for index, layer in enumerate(head.layers or default_layers(feature_shape)):
        flow = _apply(layer, index, flow, names)
    _check_output(flow.shape, class_count, memory)
    if len(flow.shape) != 2:
        flow = keras.layers.Flatten(name="flatten_all", dtype="float32")(flow)
    output = keras.layers.Dense(class_count, activation="softmax", dtype="float32", name="predictions")(flow)
    return keras.Model(features, output, name="head")


def standardize_from(features: Blocks) -> Standardization:
    """Measure features [n, …, channels] in one pass of float64 sums, a part at a time.

    Squares are summed of the distance from the first part's mean, so that nothing cancels (Chan, Golub and LeVeque
    (1983), Algorithms for computing the sample variance). A channel that never changes gets the floor's deviation too,
    so it stays a harmless constant.
    """
    count, shift = 0, np.zeros(())
    total = squares = np.zeros(())
    for rows in _rows(features):
        values = rows.astype(np.float64)
        if count == 0:
            shift = values.mean(axis=0)
        values -= shift
        count += len(values)
        total = total + values.sum(axis=0)
        squares = squares + np.einsum("ij,ij->j", values, values)
    moved = total / count
    deviation = np.sqrt(np.maximum(squares / count - np.square(moved), 0))
    live = deviation[deviation > 0]
    floor = DEVIATION_FLOOR * float(np.median(live)) if len(live) else 1.0
    return Standardization(shift + moved, np.maximum(deviation, floor))


def _rows(features: Blocks) -> Iterator[npt.NDArray[Any]]:
    """Give all positions [m, channels], few enough at a time for float64 copies of them."""
    for block in features.blocks():
        step = max(1, _CHUNK_VALUES // max(1, math.prod(block.shape[1:])))
        for start in range(0, len(block), step):
            yield block[start : start + step].reshape(-1, block.shape[-1])


def _apply(layer: Layer, index: int, flow: Any, names: set[str]) -> Any:
    import keras
    import tensorflow as tf

    path = f"spec.head.layers[{index}]"
    if reason := why_left_out(layer.type):
        raise SpecError(f"{path}.type is {shown(layer.type)}; it cannot be part of a head: {reason}.")
    if layer.type not in ALLOWED_LAYERS:
        raise SpecError(f"{path}.type is {shown(layer.type)}; {nearest(layer.type, ALLOWED_LAYERS)}.")
    owner = getattr(keras.layers, layer.type)
    check_arguments(
        owner, layer.config, f"{path}.config", extra=("name", "trainable"), refused=("dtype", "seed", "synchronized")
    )
    name = layer.config.get("name", f"{layer.type.lower()}_{index}")
    if not isinstance(name, str) or name in names or "/" in name:
        raise SpecError(f"{path}.config.name is {shown(name)}; use another name, each layer has its own.")
    names.add(name)
    try:
        built = owner(**{**layer.config, "name": name, "dtype": "float32"})
    except (TypeError, ValueError, OverflowError, AttributeError) as error:
        raise SpecError(f"{path}.config does not fit {layer.type} ({keras_words(error)}); correct it.") from error
    try:
        result = built(flow)
    except (TypeError, ValueError, OverflowError, MemoryError, tf.errors.OpError) as error:
        raise SpecError(
            f"{path} ({layer.type}) does not fit an input of shape {shape_text(flow.shape)} ({keras_words(error)}); "
            f"{_remedy(built, flow.shape)}."
        ) from error
    if any(size == 0 for size in result.shape[1:]):
        raise SpecError(
            f"{path} ({layer.type}) leaves nothing of an input of shape {shape_text(flow.shape)}; change it."
        )
    return result


def _check_output(shape: Sequence[int | None], class_count: int, memory: int | None) -> None:
    """Refuse what the output layer cannot be built on: Keras fails at an unknown size, the system at a huge one."""
    if None in shape[1:]:
        raise SpecError(
            f"spec.head.layers ends with an output of shape {shape_text(shape)}, which leaves a size open; write it in "
            "the place of null in the last layer's arguments, or pool the positions."
        )
    weights = math.prod(size or 0 for size in shape[1:]) * class_count
    if memory is not None and _BYTES_PER_WEIGHT * weights > memory:
        raise SpecError(
            f"spec.head.layers ends with an output of shape {shape_text(shape)}, for which the output layer of "
            f"{class_count:,} classes needs {_BYTES_PER_WEIGHT * weights >> 20:,} MiB, and {memory >> 20:,} MiB of "
            "memory may be used; end with a smaller output, such as GlobalAveragePooling2D, or raise "
            "spec.resources.memory."
        )


def shape_text(shape: Sequence[int | None]) -> str:
    """Write a batch's shape without its batch axis: 4x4x2048."""
    return "x".join(str(size) for size in shape[1:])


def _remedy(layer: object, shape: Sequence[int | None]) -> str:
    if "kernel_size" in inspect.signature(type(layer)).parameters or hasattr(layer, "pool_size"):
        if len(shape) == 4:
            return "use a smaller window, padding: same, or a larger spec.baseModel.inputSize"
        return "set spec.baseModel.pooling to none, or use Dense instead"
    return "change its arguments or the layers before it"
