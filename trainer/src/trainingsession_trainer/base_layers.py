"""The layers of a base model by name, and the part of it up to one of them."""

from __future__ import annotations

import difflib
import re
import sys

import keras

from .errors import SpecError
from .structure import shown


def cut(network: keras.Model, name: str, pooling: str) -> keras.Model:
    """Give the part of a network up to the output of a layer, with `pooling` (none, avg, max) over its positions."""
    layers = layers_by_name(network)
    if name not in layers:
        close = difflib.get_close_matches(name, layers, n=3, cutoff=0.5)
        remedy = f"did you mean {', '.join(close)}?" if close else f"its last ones are {', '.join([*layers][-5:])}."
        raise SpecError(f"spec.baseModel.layer {shown(name)} is no layer of the base model; {remedy}")
    output = layers[name].output
    if len(output.shape) not in (2, 4) or any(size is None for size in output.shape[1:]):
        raise SpecError(
            f"spec.baseModel.layer {shown(name)} gives an output of {len(output.shape) - 1} dimensions per image; "
            "features have height, width and channels, or channels only: take another layer."
        )
    if pooling != "none" and len(output.shape) == 4:
        pool = keras.layers.GlobalAveragePooling2D if pooling == "avg" else keras.layers.GlobalMaxPooling2D
        output = pool(name="pool")(output)
    return keras.Model(network.inputs, output, name=network.name)


def layers_by_name(network: keras.Model) -> dict[str, keras.Layer]:
    """Name the layers as a new process does.

    Keras numbers the layers without a name of their own through the whole process: the first Conv2D of its second
    network may be conv2d_94.
    """
    first: dict[str, int] = {}
    parts = []
    for layer in network.layers:
        stem, number = re.fullmatch(r"(.+?)(?:_(\d+))?", layer.name).groups()  # type: ignore[union-attr]
        own = stem.replace("_", "") == type(layer).__name__.lower()
        if own:
            first[stem] = min(int(number or 0), first.get(stem, sys.maxsize))
        parts.append((layer, stem, int(number or 0), own))
    named = {}
    for layer, stem, number, own in parts:
        place = number - first[stem] if own else number
        named[(f"{stem}_{place}" if place else stem) if own else layer.name] = layer
    return named
