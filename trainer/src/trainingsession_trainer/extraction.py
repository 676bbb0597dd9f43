"""From images to stored features: claim a shard, compute it, store it meanwhile; until none is left."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf

from .base_models import BaseModel
from .claims import Claims
from .datasets import Split
from .errors import DataError, SpecError, Stopped
from .extractor import Extractor, Floats
from .feature_sets import FeatureSet
from .feature_store import FeatureStore
from .thumbnails import Thumbnails

Told = Callable[[int, int, float | None], None]  # images there by now, those computed here, images per second

FLOAT16_LARGEST = 6e4
FLOAT16_SMALLEST_MEDIAN = 1e-4
MOSTLY_ZERO = 0.999
POLL_SECONDS = 0.5
_RENEWALS_PER_LEASE = 4


@dataclass(frozen=True)
class Computed:
    """A claimed shard as it was computed, in so many seconds; `thumbnails` are packed."""

    index: int
    features: Floats
    thumbnails: bytes
    seconds: float


class Extraction:
    """Completes feature sets: computes what is missing, waits for what other sessions compute."""

    def __init__(
        self,
        store: FeatureStore,
        base: BaseModel,
        stop: Callable[[], bool],
        say: Callable[[str], None],
        batch: int | None = None,
    ) -> None:
        self._store = store
        self._base = base
        self._stop = stop
        self._say = say
        self._batch = batch
        self._seconds = 0.0
        self._images = 0

    @cached_property
    def _extractor(self) -> Extractor:
        # Made when the first shard is missing: compiling takes seconds.
        return Extractor(self._base, self._stop, self._say, self._batch)

    def complete(
        self, split: Split, found: FeatureSet, shards: int, told: Told, *, wait: bool = True
    ) -> dict[int, int]:
        """Have the first `shards` shards in the store; gives those computed here, as images by shard.

        Without `wait` it ends when somebody computes every missing shard. A shard is stored while the next one is
        computed. Raises SpecError or DataError when the features are useless, StorageError, Stopped.
        """
        ours: dict[int, int] = {}
        claims = Claims(self._store, found, shards)
        with _Storing(lambda shard, dtype: self._store_shard(found, shard, dtype)) as storing:
            while True:
                claims.look()
                # The shard that is being stored counts as done, and only once.
                stored = claims.images + (storing.images if storing.index in claims.missing else 0)
                computed = sum(ours.values()) + storing.images
                told(stored, computed, self._rate())
                if not claims.missing and storing.index is None:
                    return ours
                claimed = None
                if claims.missing.keys() - {storing.index}:
                    if self._stop():
                        raise Stopped("Stopped before all features were computed; the next attempt finds those stored.")
                    claimed = claims.claim(besides=storing.index)
                if claimed is not None:
                    shard = self._compute(
                        split,
                        found,
                        claimed,
                        lambda done: told(stored + done, computed + done, self._rate()),  # noqa: B023 - called within this turn
                    )
                    try:
                        # Before the next is computed: useless features end the session with the set's first shard.
                        dtype = self._stored_type(found, shard.features)
                        ours |= storing.finish()
                    except BaseException:
                        self._store.release(found, claimed)
                        raise
                    storing.start(shard, dtype)
                    continue
                if storing.index is None:
                    if not wait:
                        return ours
                    # All are leased: by a session that computes, or that died and whose lease will pass.
                    time.sleep(POLL_SECONDS)
                ours |= storing.finish()

    def _compute(self, split: Split, found: FeatureSet, index: int, told: Callable[[int], None]) -> Computed:
        """Compute a claimed shard, keeping its lease."""
        started = renewed = counted = time.monotonic()
        thumbnails = Thumbnails(found.split, *found.bounds(index))

        def tick(done: int, images: int) -> None:
            nonlocal renewed, counted
            now = time.monotonic()
            self._seconds, self._images, counted = self._seconds + now - counted, self._images + images, now
            told(done)
            if now - renewed > self._store.lease_seconds / _RENEWALS_PER_LEASE:
                self._store.renew(found, index)
                renewed = now

        try:
            features = self._extractor.features(split, *found.bounds(index), tick, thumbnails.see)
        except BaseException:
            self._store.release(found, index)
            raise
        return Computed(index, features, thumbnails.packed(), time.monotonic() - started)

    def _stored_type(self, found: FeatureSet, features: Floats) -> np.dtype[Any]:
        """Give the type in which the set is stored, which its first shard decides; raises SpecError, DataError."""
        check_finite(features, self._base.precision)
        dtype = self._store.stored_type(found.key)
        if dtype is not None:
            return dtype
        check_useful(features)
        return self._store.fix_stored_type(found.key, choose_type(features))

    def _store_shard(self, found: FeatureSet, shard: Computed, dtype: np.dtype[Any]) -> bool:
        """Store a claimed shard; False when the claim was lost."""
        try:
            # A later shard may hold what float16 cannot; it is then stored wider, and the set is read as float32.
            wide = float(np.abs(shard.features).max(initial=0)) > FLOAT16_LARGEST
            self._store.renew(found, shard.index)
            facts = {
                "tensorflow": tf.__version__,
                "keras": keras.__version__,
                "seconds": shard.seconds,
                "device": "GPU" if tf.config.list_logical_devices("GPU") else "CPU",
            }
            features = shard.features.astype(np.float32 if wide else dtype)
            return self._store.finish(found, shard.index, features, facts, shard.thumbnails)
        except BaseException:
            self._store.release(found, shard.index)
            raise

    def _rate(self) -> float | None:
        return self._images / self._seconds if self._seconds else None


class _Storing:
    """Stores one shard in a thread of its own, while the next is computed; what is begun is ended with the block."""

    def __init__(self, store: Callable[[Computed, np.dtype[Any]], bool]) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1, "store")
        self._result: Future[bool] | None = None
        self.index: int | None = None
        self.images = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(wait=True)

    def start(self, shard: Computed, dtype: np.dtype[Any]) -> None:
        """Begin to store a shard; the one before must be finished."""
        self.index, self.images = shard.index, len(shard.features)
        self._result = self._thread.submit(self._store, shard, dtype)

    def finish(self) -> dict[int, int]:
        """Wait for the shard that is being stored; gives its images by index, nothing where its claim was lost."""
        if self._result is None or self.index is None:
            return {}
        index, images, result = self.index, self.images, self._result
        self.index, self.images, self._result = None, 0, None
        return {index: images} if result.result() else {}


def choose_type(features: Floats) -> np.dtype[Any]:
    """Store as float16 where that loses nothing that matters: neither overflow nor a network of tiny values."""
    magnitudes = np.abs(features)
    present = magnitudes[magnitudes > 0]
    if not np.isfinite(features).all() or magnitudes.max(initial=0) > FLOAT16_LARGEST:
        return np.dtype(np.float32)
    if present.size and float(np.median(present)) < FLOAT16_SMALLEST_MEDIAN:
        return np.dtype(np.float32)
    return np.dtype(np.float16)


def check_finite(features: Floats, precision: str) -> None:
    """Refuse infinite and undefined features; raises SpecError, DataError."""
    if np.isfinite(features).all():
        return
    if precision == "float32":
        raise DataError("The base model's features are not finite; the weights are damaged, give others.")
    raise SpecError(f"spec.baseModel.precision is '{precision}', in which the features overflow; use float32.")


def check_useful(features: Floats) -> None:
    """Refuse features from which nothing can be learned; raises SpecError."""
    zeros = 1 - np.count_nonzero(features) / max(features.size, 1)
    constant = len(features) > 1 and bool((features == features[:1]).all())
    if not constant and zeros <= MOSTLY_ZERO:
        return
    what = "the same for every image" if constant else f"zero by {100 * zeros:.1f} %"
    raise SpecError(
        f"spec.baseModel gives features that are {what}, from which nothing can be learned; "
        "use other weights, a larger inputSize or another base model."
    )
