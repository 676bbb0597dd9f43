"""A session's model in the forms in which it is left: each gives probabilities for the pixels of one picture."""

from __future__ import annotations

import importlib.util
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .errors import StartError
from .images import Pixels, resize

Probabilities = npt.NDArray[np.float32]
ONNX = ("model.onnx",)
KERAS = ("model.keras", "class_names.json")
SAVED_MODEL = ("saved_model.tar",)


class Model(Protocol):
    """What the service needs of a model."""

    class_names: Sequence[str]

    def classify(self, pixels: Pixels) -> Probabilities:
        """Pixels uint8 [h, w, 3] -> probabilities [classes]; may be called from several threads."""


def forms() -> list[Sequence[str]]:
    """List the files of the forms that can be loaded here, the lightest first."""
    there = importlib.util.find_spec("tensorflow") is not None
    return [ONNX, *([KERAS, SAVED_MODEL] if there else [])]


def load_model(folder: Path, form: Sequence[str], threads: int) -> Model:
    """Load the files of a form from `folder`; raises StartError."""
    try:
        if form[0] == ONNX[0]:
            return OnnxModel(folder / form[0], threads)
        return KerasModel(folder) if form[0] == KERAS[0] else SavedModel(folder)
    except (OSError, ValueError, RuntimeError, KeyError, tarfile.TarError) as error:
        words = " ".join(str(error).split())[:300]
        raise StartError(
            f"{form[0]} cannot be loaded ({words}); is it from a newer trainer than this image?"
        ) from error


class OnnxModel:
    """Images of the input size in; class names and size are in the file."""

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.class_names: Sequence[str] = json.loads(metadata["class_names"])
        height, width = json.loads(metadata["input_size"])
        self._size = (int(height), int(width))

    def classify(self, pixels: Pixels) -> Probabilities:
        """See Model."""
        images = resize(pixels, self._size)[np.newaxis]
        (probabilities,) = self._session.run(["probabilities"], {"images": images})
        return np.asarray(probabilities[0], np.float32)


class KerasModel:
    """Images of any size in."""

    def __init__(self, folder: Path) -> None:
        import keras

        self.class_names: Sequence[str] = json.loads((folder / "class_names.json").read_text("utf-8"))
        self._model = keras.saving.load_model(folder / "model.keras", compile=False, safe_mode=True)
        resizing = self._model.get_layer("resize")
        self._size = (int(resizing.height), int(resizing.width))

    def classify(self, pixels: Pixels) -> Probabilities:
        """See Model."""
        # Of the input size already, so that the model need not be traced anew for every size of picture.
        images = resize(pixels, self._size)[np.newaxis]
        return np.asarray(self._model([images], training=False)[0], np.float32)


class SavedModel:
    """Images uint8 of any size in, as TensorFlow Serving takes them."""

    def __init__(self, folder: Path) -> None:
        import tensorflow as tf

        with tarfile.open(folder / SAVED_MODEL[0]) as archive:
            archive.extractall(folder / "saved_model", filter="data")
        self._loaded: Any = tf.saved_model.load(str(folder / "saved_model" / "1"))
        names = self._loaded.signatures["class_names"]()["class_names"].numpy()
        self.class_names: Sequence[str] = [name.decode() for name in names]

    def classify(self, pixels: Pixels) -> Probabilities:
        """See Model."""
        import tensorflow as tf

        answer = self._loaded.signatures["serving_default"](images=tf.constant(pixels[np.newaxis]))
        return np.asarray(answer["probabilities"][0], np.float32)
