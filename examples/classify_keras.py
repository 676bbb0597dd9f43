#!/usr/bin/env python3
"""Classify pictures with model.keras: Keras loads it by itself, no code of the project is needed.

Needs tensorflow and pillow. Usage: classify_keras.py model.keras class_names.json picture.png …
"""

import json
import sys
from pathlib import Path

import keras
import numpy as np
from PIL import Image


def main(model: str, names: str, *pictures: str) -> None:
    """Print the most probable class of each picture."""
    classifier = keras.saving.load_model(model, compile=False)
    class_names = json.loads(Path(names).read_text("utf-8"))
    for picture in pictures:
        # Raw pixels of any size, 0 to 255: resizing and preprocessing are in the model.
        pixels = np.asarray(Image.open(picture).convert("RGB"), np.float32)
        (probabilities,) = classifier.predict(pixels[np.newaxis], verbose=0)
        best = int(probabilities.argmax())
        print(f"{picture}  {class_names[best]}  {probabilities[best]:.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
