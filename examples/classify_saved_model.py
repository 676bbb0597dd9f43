#!/usr/bin/env python3
"""Classify pictures with saved_model.tar as TensorFlow Serving does: uint8 images in, probabilities and class name out.

Needs Python 3.11.4 or later, tensorflow and pillow. Usage: classify_saved_model.py saved_model.tar picture.png …
"""

import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import tensorflow as tf
from PIL import Image


def main(archive: str, *pictures: str) -> None:
    """Print the most probable class of each picture."""
    with TemporaryDirectory() as folder:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        loaded = tf.saved_model.load(str(Path(folder) / "1"))
        serve = loaded.signatures["serving_default"]
        for picture in pictures:
            pixels = np.asarray(Image.open(picture).convert("RGB"), np.uint8)
            answer = serve(images=tf.constant(pixels[np.newaxis]))
            name = answer["class_name"][0].numpy().decode()
            print(f"{picture}  {name}  {float(tf.reduce_max(answer['probabilities'][0])):.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
