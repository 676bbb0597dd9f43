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


def main(model: str, names: str, *pictures: str) -> None:
    """Print the most probable class of each picture."""
    classifier = keras.saving.load_model(model, compile=False)
    class_names = json.loads(Path(names).read_text("utf-8"))
    for picture in pictures:
        # Raw pixels of any size, 0 to 255: resizing and preprocessing are in the model.
        pixels = rgb(picture).astype(np.float32)
        (probabilities,) = classifier.predict(pixels[np.newaxis], verbose=0)
        best = int(probabilities.argmax())
        print(f"{picture}  {class_names[best]}  {probabilities[best]:.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
