"""The complete model as ONNX: images of the input size in, so that every runtime has all of its operations.

tf2onnx reads TensorFlow's graph. Keras's own way there, `model.export(format="onnx")`, gives graphs that cannot be
loaded for models with a Normalization layer (EfficientNet, and our own standardisation) and for ConvNeXt.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from . import RESIZE, ExportError

OPSET = 17
CHECKED_IMAGES = 100
TOLERANCE = 1e-3
INPUT, OUTPUT, BATCH = "images", "probabilities", "n"
_CHECKED_AT_ONCE = 10


def write_onnx(model: keras.Model, class_names: Sequence[str], target: Path) -> float:
    """Write `target`: `images` float32 [n, *inputSize, 3], 0 to 255 -> `probabilities` float32 [n, classes].

    Class names and input size are in its metadata. Gives the largest difference from Keras's probabilities on
    CHECKED_IMAGES images; raises ExportError when that is above TOLERANCE or the model cannot be converted.
    """
    resize = model.get_layer(RESIZE)
    size = (resize.height, resize.width)
    resized = keras.Model(resize.output, model.outputs[0], name="model")
    spec = tf.TensorSpec((None, *size, 3), tf.float32, name=INPUT)
    try:
        proto = _convert(resized, spec)
    except Exception as error:
        # What a converter meets in a graph that it does not know is of any kind.
        words = " ".join(str(error).split())[:300]
        raise ExportError(f"The model cannot be converted to ONNX ({type(error).__name__}: {words}).") from error
    for key, value in (("class_names", list(class_names)), ("input_size", list(size))):
        proto.metadata_props.add(key=key, value=json.dumps(value, ensure_ascii=False))
    target.write_bytes(proto.SerializeToString())
    try:
        return _check(resized, size, target)
    except ExportError:
        target.unlink()
        raise


def _convert(resized: keras.Model, spec: tf.TensorSpec) -> Any:
    import tf2onnx

    def run(images: tf.Tensor) -> tf.Tensor:
        return tf.identity(tf.cast(resized(images, training=False), tf.float32), name=OUTPUT)

    # Functions within the function, such as Keras's compiled convolutions, would stay calls that ONNX does not have.
    tf.config.run_functions_eagerly(True)
    try:
        concrete = tf.function(run, autograph=False).get_concrete_function(spec)
    finally:
        tf.config.run_functions_eagerly(False)
    frozen = convert_variables_to_constants_v2(concrete, lower_control_flow=False)
    given, taken = f"{INPUT}:0", frozen.outputs[0].name
    proto, _ = tf2onnx.convert.from_graph_def(
        frozen.graph.as_graph_def(),
        name="model",
        input_names=[given],
        output_names=[taken],
        opset=OPSET,
        custom_op_handlers={"Erfc": (_erfc, [])},
    )
    _rename(proto.graph, {given: INPUT, taken: OUTPUT})
    return proto


def _erfc(graph: Any, node: Any, name: str, args: Any) -> None:
    """1 - erf, of which ONNX has only the second: the exact GELU of ConvNeXt."""
    del name, args
    from tf2onnx.utils import make_name

    given, result = node.input[0], node.output[0]
    dtype, shape = graph.get_dtype(result), graph.get_shape(result)
    graph.remove_node(node.name)
    one = graph.make_const(make_name("one"), np.ones((), np.float32))
    erf = graph.make_node("Erf", [given], dtypes=[dtype], shapes=[shape])
    graph.make_node("Sub", [one.output[0], erf.output[0]], outputs=[result], dtypes=[dtype], shapes=[shape])


def _rename(graph: Any, names: dict[str, str]) -> None:
    """Give input and output their names without TensorFlow's :0, and the number of images one of its own."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*graph.input, *graph.output):
        value.name = names.get(value.name, value.name)
        value.type.tensor_type.shape.dim[0].dim_param = BATCH


def _check(resized: keras.Model, size: tuple[int, int], path: Path) -> float:
    """Compare with Keras; on noise, because a wrong operation does not depend on what is in the images."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ExportError(
            f"ONNX Runtime refuses the converted model ({' '.join(str(error).split())[:300]})."
        ) from error
    random = np.random.default_rng(0)
    worst = 0.0
    for _ in range(CHECKED_IMAGES // _CHECKED_AT_ONCE):
        images = random.uniform(0, 255, (_CHECKED_AT_ONCE, *size, 3)).astype(np.float32)
        wanted = np.asarray(resized(images, training=False))
        (found,) = session.run([OUTPUT], {INPUT: images})
        worst = max(worst, float(np.abs(found - wanted).max()))
    if not worst <= TOLERANCE:
        raise ExportError(f"The ONNX model's probabilities differ from Keras's by up to {worst:.3g}; it is not kept.")
    return worst
