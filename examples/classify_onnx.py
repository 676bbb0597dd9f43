#!/usr/bin/env python3
"""Classify pictures with model.onnx: no TensorFlow, no Keras. Class names and input size are in the file.

Needs onnxruntime, numpy and pillow. Usage: classify_onnx.py model.onnx picture.png …
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image


def resized(picture: str, size: tuple[int, int]) -> np.ndarray:
    """Give float32 [height, width, 3], 0 to 255: bilinear, channel by channel in floats, so that nothing is rounded."""
    channels = np.moveaxis(np.asarray(Image.open(picture).convert("RGB"), np.float32), -1, 0)
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
