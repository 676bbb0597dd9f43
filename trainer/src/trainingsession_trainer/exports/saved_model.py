"""The complete model as a SavedModel, laid out as TensorFlow Serving loads it: a tar with the version folder 1/."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import keras
import tensorflow as tf

from . import RESIZE

VERSION_FOLDER = "1"


def write_saved_model(model: keras.Model, class_names: Sequence[str], target: Path) -> None:
    """Write the tar `target`.

    The signature serving_default takes `images`, uint8 [n, h, w, 3] of any size, and gives `probabilities`, float32
    [n, classes], and `class_name`, the most probable one's, string [n]. The signature class_names takes nothing and
    gives `class_names`, string [classes].
    """
    resize = model.get_layer(RESIZE)
    rest = keras.Model(resize.output, model.outputs[0], name="model")
    size = (resize.height, resize.width)
    names = list(class_names)

    def serve(images: tf.Tensor) -> dict[str, tf.Tensor]:
        probabilities = rest(_resize(images, size), training=False)
        best = tf.argmax(probabilities, axis=1)
        return {
            "probabilities": tf.identity(probabilities, name="probabilities"),
            "class_name": tf.gather(tf.constant(names), best, name="class_name"),
        }

    archive = keras.export.ExportArchive()
    archive.track(rest)
    archive.add_endpoint(
        "serve", serve, input_signature=[tf.TensorSpec((None, None, None, 3), tf.uint8, name="images")]
    )
    archive.add_endpoint("class_names", lambda: {"class_names": tf.constant(names)}, input_signature=[])
    with TemporaryDirectory(dir=target.parent) as folder:
        archive.write_out(str(Path(folder) / VERSION_FOLDER), verbose=False)
        _pack(Path(folder), target)


def _resize(images: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Resize as the features were: antialiased only where images are shrunk, which is the same arithmetic otherwise."""
    shape = tf.shape(images)
    shrinks = tf.logical_or(shape[1] > size[0], shape[2] > size[1])
    return tf.cond(
        shrinks,
        lambda: tf.image.resize(images, size, antialias=True),
        lambda: tf.image.resize(images, size),
    )


def _pack(folder: Path, target: Path) -> None:
    def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mtime = 0
        member.mode = 0o755 if member.isdir() else 0o644
        return member

    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        archive.add(folder / VERSION_FOLDER, VERSION_FOLDER, filter=anonymous)
