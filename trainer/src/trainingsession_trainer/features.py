"""The features of a session: found in the store as far as they are there, computed where they are not, loaded."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pymongo.database import Database

from .base_models import BaseModel, open_base_model
from .config import Session
from .datasets import Dataset, Split, open_dataset
from .datasets.order import prefix, validation_mask
from .errors import SpecError, StorageError
from .extraction import Extraction
from .feature_sets import FeatureSet, describe_set, images_per_shard, key_of
from .feature_store import FeatureStore
from .mongodb import Document
from .reporting import Reporter

Floats = npt.NDArray[np.float16] | npt.NDArray[np.float32]

MEMORY_LIMIT = Path("/etc/trainingsession/session/memory-limit")
MEMORY_SHARE = 0.6
_REPAIRS = 3


@dataclass(frozen=True)
class LabelledFeatures:
    """Features [n, *feature_shape] (float16 or float32) and labels [n] (int32)."""

    features: Floats
    labels: npt.NDArray[np.int32]


@dataclass(frozen=True)
class FeaturesSummary:
    """Key of the train split's set; shards that were needed; images whose features were found or computed."""

    key: str
    shards: int
    reused: int
    computed: int


@dataclass(frozen=True)
class PreparedFeatures:
    """All that a head is trained and tested on."""

    class_names: tuple[str, ...]
    train: LabelledFeatures
    validation: LabelledFeatures
    test: LabelledFeatures
    feature_shape: tuple[int, ...]
    summary: FeaturesSummary
    base: BaseModel


@dataclass
class _Part:
    """One split's way through the store; `needed` images of it are used."""

    split: Split
    found: FeatureSet
    needed: int
    stored: int = 0
    ours: dict[int, int] = field(default_factory=dict)  # images by shard that this session computed

    @property
    def shards(self) -> int:
        return self.found.shards_for(self.needed)

    @property
    def total(self) -> int:
        """Images in the shards that are needed: whole shards are computed."""
        return self.found.bounds(self.shards - 1)[1] if self.shards else 0

    @property
    def computed(self) -> int:
        return sum(self.ours.values())


def prepare_features(
    session: Session,
    database: Database[Document],
    work: Path,
    reporter: Reporter,
    stop: Callable[[], bool],
    *,
    validate: Callable[[tuple[int, ...], int], None],
    memory_limit: int | None = None,
) -> PreparedFeatures:
    """Give the features of all images that the session uses; raises TrainerError.

    `validate` is called with the features' shape and the number of classes before an image is decoded.
    `memory_limit` is in bytes; without it, the pod's is read where it is mounted.
    """
    spec = session.spec
    base = open_base_model(spec.base_model, work, reporter, stop)
    dataset = open_dataset(spec.dataset, work, reporter, stop)
    base = base.for_images(_common_shape(dataset, stop))
    validate(base.feature_shape, len(dataset.class_names))

    wanted = (
        (dataset.train, prefix(len(dataset.train), spec.dataset.subset)),
        (dataset.test, prefix(len(dataset.test), spec.dataset.test_subset)),
    )
    limit = memory_limit or _mounted_limit()
    check_memory(sum(needed for _, needed in wanted), base.feature_shape, 2, limit)
    store = FeatureStore(database, stop)
    parts = [_Part(split, _open_set(store, base, dataset, split), needed) for split, needed in wanted]
    source = _Source(store, Extraction(store, base, stop, reporter.info), parts, reporter)
    for part in parts:
        source.complete(part)

    train, test = parts
    item_bytes = max(source.dtype(part).itemsize for part in parts)
    check_memory(sum(part.needed for part in parts), base.feature_shape, item_bytes, limit)
    mask = validation_mask(train.split.labels[: train.needed], spec.dataset.validation_split)
    training, validation = source.load(train, mask)
    testing, _ = source.load(test, np.zeros(test.needed, bool))
    summary = FeaturesSummary(
        key=train.found.key,
        shards=sum(part.shards for part in parts),
        reused=sum(part.total - part.computed for part in parts),
        computed=sum(part.computed for part in parts),
    )
    return PreparedFeatures(dataset.class_names, training, validation, testing, base.feature_shape, summary, base)


class _Source:
    """Completes and loads the parts of one session."""

    def __init__(self, store: FeatureStore, extraction: Extraction, parts: Sequence[_Part], reporter: Reporter) -> None:
        self._store = store
        self._extraction = extraction
        self._parts = parts
        self._reporter = reporter

    def complete(self, part: _Part) -> None:
        """Have all shards of a part in the store."""
        before = part.computed

        def told(stored: int, computed: int, rate: float | None) -> None:
            part.stored = stored
            overall = (sum(each.stored for each in self._parts), sum(each.total for each in self._parts))
            reused = max(0, stored - before - computed)
            self._reporter.extraction(part.split.name, stored, part.total, reused, rate, overall=overall)

        part.ours.update(self._extraction.complete(part.split, part.found, part.shards, told))

    def dtype(self, part: _Part) -> np.dtype[Any]:
        """Give the type that holds every stored shard of a part."""
        names = {str(document["dtype"]) for document in self._store.finished(part.found, part.shards).values()}
        return np.dtype(np.float32 if "float32" in names else np.float16)

    def load(self, part: _Part, held_back: npt.NDArray[np.bool_]) -> tuple[LabelledFeatures, LabelledFeatures]:
        """Read a part's first images into two arrays: those not held back, and those that are.

        A shard that is damaged is dropped and computed again; raises StorageError when that does not help.
        """
        dtype = self.dtype(part)
        arrays = [np.empty((count, *part.found.feature_shape), dtype) for count in np.bincount(held_back, minlength=2)]
        filled = [0, 0]
        for index in range(part.shards):
            low, high = part.found.bounds(index)
            high = min(high, part.needed)
            features = self._read(part, index)[: high - low]
            for side, array in enumerate(arrays):
                chosen = features[held_back[low:high] == bool(side)]
                array[filled[side] : filled[side] + len(chosen)] = chosen
                filled[side] += len(chosen)
        labels = part.split.labels[: part.needed].astype(np.int32)
        kept, held = (LabelledFeatures(array, labels[held_back == bool(side)]) for side, array in enumerate(arrays))
        return kept, held

    def _read(self, part: _Part, index: int) -> npt.NDArray[Any]:
        for _ in range(_REPAIRS):
            document = self._store.find(part.found, index)
            if document is not None:
                features = self._store.read(part.found, index, document)
                if features is not None:
                    return features
                self._reporter.info(f"Shard {index} of the {part.split.name} features is damaged; computing it again")
                self._store.drop(part.found, index, document)
            self.complete(part)
        raise StorageError(
            f"Shard {index} of the {part.split.name} features is damaged again after {_REPAIRS} repairs; "
            "check the disk of MongoDB."
        )


def check_memory(images: int, feature_shape: tuple[int, ...], item_bytes: int, limit: int | None) -> None:
    """Refuse features that would not leave room for the training; raises SpecError."""
    needed = images * math.prod(feature_shape) * item_bytes
    if limit is None or needed <= MEMORY_SHARE * limit:
        return
    mib = 1024 * 1024
    raise SpecError(
        f"spec.resources.memory is {limit // mib:,} MiB, but the features of {images:,} images take "
        f"{needed // mib:,} MiB and may take {MEMORY_SHARE:.0%} of it; raise resources.memory to "
        f"{math.ceil(needed / MEMORY_SHARE / mib)}Mi, lower dataset.subset or set baseModel.pooling to avg."
    )


def _mounted_limit() -> int | None:
    try:
        return int(MEMORY_LIMIT.read_text("ascii")) * 1024 * 1024 or None
    except FileNotFoundError:  # not in a pod
        return None


def _common_shape(dataset: Dataset, stop: Callable[[], bool]) -> tuple[int, int, int] | None:
    shape = dataset.train.common_shape(stop)
    return shape if shape is not None and shape == dataset.test.common_shape(stop) else None


def _open_set(store: FeatureStore, base: BaseModel, dataset: Dataset, split: Split) -> FeatureSet:
    description = describe_set(base, split.name, split.order_digest)
    shape = base.feature_shape
    wanted = FeatureSet(key_of(description), split.name, len(split), images_per_shard(shape), shape)
    return store.open_set(wanted, description, split.labels, split.digests, dataset.class_names)
