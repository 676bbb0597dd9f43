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

TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # of Image.Transpose, by what EXIF calls the orientation


def rgb(picture: str) -> np.ndarray:
    """Give uint8 [height, width, 3] as the trainer does: upright, 16 bits scaled to 8, on white where transparent."""
    image = Image.open(picture)
    try:
        turn = TURNS.get(Image.Image.getexif(image).get(0x0112))
    except Exception:  # noqa: BLE001 - EXIF that cannot be read says nothing
        turn = None
    if turn is not None:
        image = image.transpose(turn)
    if image.mode.startswith("I"):
        image = Image.fromarray(np.rint(np.clip(np.asarray(image, np.int64) / 257, 0, 255)).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


def main(archive: str, *pictures: str) -> None:
    """Print the most probable class of each picture."""
    with TemporaryDirectory() as folder:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        loaded = tf.saved_model.load(str(Path(folder) / "1"))
        serve = loaded.signatures["serving_default"]
        for picture in pictures:
            answer = serve(images=tf.constant(rgb(picture)[np.newaxis]))
            name = answer["class_name"][0].numpy().decode()
            print(f"{picture}  {name}  {float(tf.reduce_max(answer['probabilities'][0])):.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
