#!/usr/bin/env python3
"""Classify pictures with model.onnx: no TensorFlow, no Keras. Class names and input size are in the file.

Needs onnxruntime, numpy and pillow. Usage: classify_onnx.py model.onnx picture.png …
"""

import json
import sys

import numpy as np
import onnxruntime
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


def resized(picture: str, size: tuple[int, int]) -> np.ndarray:
    """Give float32 [height, width, 3], 0 to 255: bilinear, channel by channel in floats, so that nothing is rounded."""
    channels = np.moveaxis(rgb(picture).astype(np.float32), -1, 0)
    turned = [Image.fromarray(channel).resize(size[::-1], Image.Resampling.BILINEAR) for channel in channels]
    return np.stack([np.asarray(channel) for channel in turned], axis=-1)


def main(model: str, *pictures: str) -> None:
    """Print the most probable class of each picture."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    class_names, size = json.loads(metadata["class_names"]), tuple(json.loads(metadata["input_size"]))
    for picture in pictures:
        (answer,) = session.run(["probabilities"], {"images": resized(picture, size)[np.newaxis]})
        best = int(answer[0].argmax())
        print(f"{picture}  {class_names[best]}  {answer[0][best]:.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
