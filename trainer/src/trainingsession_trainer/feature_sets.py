"""What a feature set is: everything that decides its values, the key made of it, and its division into shards."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base_models import BaseModel
    from .datasets import Split

EXTRACTOR_VERSION = 2
"""Raise VERSION in both recipe.py with it: else the operator takes old sets for new ones, and each session a detour."""
SHARD_BYTES = 32 * 1024 * 1024
_FEWEST, _MOST = 16, 4096


@dataclass(frozen=True)
class FeatureSet:
    """The features of one split by one base model; `shard_images` is fixed by whoever stored the set first."""

    key: str
    split: str
    images: int
    shard_images: int
    feature_shape: tuple[int, ...]

    def bounds(self, index: int) -> tuple[int, int]:
        """Give the images [low, high) of a shard."""
        return index * self.shard_images, min(self.images, (index + 1) * self.shard_images)

    def shards_for(self, images: int) -> int:
        """Count the shards that hold the first images."""
        return -(-images // self.shard_images)

    def shape(self, index: int) -> tuple[int, ...]:
        """Give the shape of a shard's array."""
        low, high = self.bounds(index)
        return (high - low, *self.feature_shape)


def key_of(description: Mapping[str, Any]) -> str:
    """Digest what decides the features: SHA-256 of canonical JSON."""
    text = json.dumps(description, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def images_per_shard(feature_shape: tuple[int, ...]) -> int:
    """Give the power of two that comes nearest to 32 MB of float16."""
    images = SHARD_BYTES / (2 * math.prod(feature_shape))
    return int(min(_MOST, max(_FEWEST, 2 ** round(math.log2(images)))))


def describe_set(base: BaseModel, split: str, order_digest: str) -> dict[str, Any]:
    """List everything that decides the features of a split; the key is its digest."""
    return {
        "order": order_digest,
        "split": split,
        "base": {"class": base.name, "arguments": dict(base.arguments), "cut": base.layer or "without top"},
        "weights": dict(base.weights),
        "inputSize": list(base.input_size),
        "pooling": base.pooling,
        "preprocessing": {
            "decoder": "pillow",
            "colour": "RGB",
            "exif": "transposed",
            "resize": "bilinear",
            "antialias": base.antialias,
            "scale": base.preprocessing,
        },
        "precision": base.precision,
        "storedType": "float16 where it loses nothing",
        "augmentation": None,
        "extractorVersion": EXTRACTOR_VERSION,
    }


def wanted_set(base: BaseModel, split: Split) -> tuple[FeatureSet, dict[str, Any]]:
    """Name the set of a split's features by all that decides them; gives the set and what its key is made of."""
    description = describe_set(base, split.name, split.order_digest)
    shape = base.feature_shape
    return FeatureSet(key_of(description), split.name, len(split), images_per_shard(shape), shape), description
