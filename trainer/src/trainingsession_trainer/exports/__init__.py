"""Forms of the complete model for other programs than Keras.

All are made from one Keras model: pixels [n, h, w, 3], 0 to 255 -> resizing, in a layer called "resize" ->
preprocessing, network and head -> probabilities [n, classes].
"""

from __future__ import annotations

RESIZE = "resize"
"""Name of the layer that brings images to the input size."""
MODEL_FILES = {"keras": "model.keras", "savedModel": "saved_model.tar", "onnx": "model.onnx"}
"""Artifact by the name that spec.artifacts.exports has for it."""


class ExportError(Exception):
    """A form that this model does not have; its message is a sentence."""
