"""A data set as the rest of the trainer sees it: two splits of images in their order, read as they are needed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from .files import Stop, check_stop
from .order import order, order_digest

Image = NDArray[np.uint8]
"""uint8 [height, width, 3], RGB."""
Grey = NDArray[np.uint8]
"""uint8 [32, 32]: an image reduced to compare it with others."""
GREY_SIZE = (32, 32)
Shape = tuple[int, int, int]


def reduced(image: Pillow.Image) -> Grey:
    """Reduce an RGB image."""
    return np.asarray(image.convert("L").resize(GREY_SIZE, Pillow.Resampling.BOX))


class Images(ABC):
    """Where a split's images come from, in any order."""

    @abstractmethod
    def read(self, index: int) -> Image:
        """Decode one image; raises DataError naming it."""

    @abstractmethod
    def shape(self, index: int) -> Shape:
        """Size of one image without decoding it; raises DataError naming it."""

    def grey(self, index: int) -> Grey:
        """Decode one image and reduce it, for comparisons only; raises DataError naming it."""
        return reduced(Pillow.fromarray(self.read(index)))

    def read_into(self, indices: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        """Decode images of one size into `out` [n, height, width, 3]; raises DataError naming the image."""
        for place, index in enumerate(indices.tolist()):
            out[place] = self.read(index)


class ArrayImages(Images):
    """Images of one size in an array [n, height, width, 3] or [n, height, width] (grey)."""

    def __init__(self, array: NDArray[np.uint8]) -> None:
        self._array = array

    def read(self, index: int) -> Image:
        """Give one image as RGB."""
        image = self._array[index]
        return np.ascontiguousarray(np.repeat(image[..., None], 3, -1) if image.ndim == 2 else image)

    def shape(self, index: int) -> Shape:
        """Give the size that all images have."""
        height, width = self._array[index].shape[:2]
        return (int(height), int(width), 3)

    def read_into(self, indices: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        """Copy images as RGB."""
        images = self._array[indices]
        out[:] = images[..., None] if images.ndim == 3 else images


@dataclass(frozen=True)
class Split:
    """Images of one split in their order; `labels` int32 [n], `digests` n digests of 32 bytes."""

    name: str
    labels: NDArray[np.int32]
    digests: tuple[bytes, ...]
    order_digest: str
    """Names the whole split by content, also where only its first images are taken."""
    images: Images
    places: NDArray[np.int64]
    """Index in `images` of each image in order."""

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image:
        """Decode image `index` of the order, uint8 [height, width, 3]; raises DataError naming it."""
        return self.images.read(int(self.places[index]))

    def grey(self, index: int) -> Grey:
        """Decode image `index` of the order and reduce it to grey [32, 32]; raises DataError naming it."""
        return self.images.grey(int(self.places[index]))

    def shape(self, index: int) -> Shape:
        """Size of image `index` of the order, without decoding it; raises DataError naming it."""
        return self.images.shape(int(self.places[index]))

    def read(self, low: int, out: NDArray[np.uint8]) -> None:
        """Decode n images of one size, from image `low` of the order on, into `out` [n, height, width, 3].

        Raises DataError naming the image.
        """
        self.images.read_into(self.places[low : low + len(out)], out)

    def common_shape(self, stop: Stop) -> Shape | None:
        """Measure the images: the size that all of them have, None where sizes differ; raises DataError, Stopped."""
        common: Shape | None = None
        for place in self.places:
            check_stop(stop, f"the {self.name} images were measured")
            shape = self.images.shape(int(place))
            if common is not None and shape != common:
                return None
            common = shape
        return common


@dataclass(frozen=True)
class Dataset:
    """Both splits of a data set; labels are indices into `class_names`."""

    class_names: tuple[str, ...]
    train: Split
    test: Split

    def common_shape(self, stop: Stop) -> Shape | None:
        """Measure the images of both splits, as the splits do."""
        shape = self.train.common_shape(stop)
        return shape if shape is not None and shape == self.test.common_shape(stop) else None


def make_split(
    name: str, class_names: Sequence[str], labels: NDArray[np.int32], digests: Sequence[bytes], images: Images
) -> Split:
    """Bring images into their order; `labels` [n] and `digests` belong to images 0 to n - 1."""
    places = order(labels, digests)
    ordered, named = labels[places], tuple(digests[place] for place in places)
    return Split(name, ordered, named, order_digest(class_names, ordered, named), images, places)
