"""What a session's features are once they are found or computed: stored, summed up, and ready to train on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from .base_models import BaseModel
from .batches import Examples
from .loading import Part
from .records import SessionWarning
from .thumbnails import Picture

Shape = tuple[int, int, int]
Pictures = Callable[[str, Sequence[int]], Sequence[Picture | None]]
"""Called with a part and indices of its images; gives None for one of which there is not even a thumbnail."""
Validate = Callable[[tuple[int, ...], Sequence[str]], None]
"""Called with the features' shape and the names of the classes, before any image is decoded."""


@dataclass(frozen=True)
class FeaturesSummary:
    """Key of the train split's set; shards that were needed; images whose features were found or computed.

    `seconds_saved` is what computing those found took whoever did it, `gpu_seconds_saved` the part of it on GPUs.
    """

    key: str
    shards: int
    reused: int
    computed: int
    seconds_saved: float
    gpu_seconds_saved: float


@dataclass(frozen=True)
class StoredFeatures:
    """All features of a session, complete in the store."""

    class_names: tuple[str, ...]
    train: Part
    test: Part
    image_shape: Shape | None

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Shape of one image's features."""
        return self.train.found.feature_shape

    @property
    def keys(self) -> Mapping[str, str]:
        """Key of the set by split."""
        return {part.found.split: part.found.key for part in (self.train, self.test)}


@dataclass(frozen=True)
class PreparedFeatures:
    """All that a head is trained and tested on; `base` builds the base model if that has not been done.

    `sets` are the keys of the feature sets by split; `digests` those of the images by part: train, validation, test.
    `pictures` gives images of a part, as far as they are at hand.
    """

    class_names: tuple[str, ...]
    train: Examples
    validation: Examples
    test: Examples
    feature_shape: tuple[int, ...]
    summary: FeaturesSummary
    base: Callable[[], BaseModel]
    sets: Mapping[str, str] = field(default_factory=dict)
    digests: Mapping[str, Sequence[bytes]] = field(default_factory=dict)
    pictures: Pictures = field(default=lambda part, rows: [None] * len(rows))
    warnings: tuple[SessionWarning, ...] = ()
