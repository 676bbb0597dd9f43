"""The features of a session: found in the store where they are there, computed where they are not, loaded.

A session whose recipe is known finds its sets without opening the images or building the base model; both are opened
only for what is missing, and the base model once more for the complete model, when the accuracy is known already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType

from pymongo.database import Database

from .base_models import BaseModel, open_base_model
from .data_warnings import class_counts, warnings_of
from .dataset_facts import DatasetFacts
from .datasets import Dataset, Disk, Split, open_dataset, place_of
from .datasets.order import prefix
from .errors import AcceleratorError
from .extraction import Extraction
from .feature_catalog import FeatureCatalog, Manifest, Use
from .feature_sets import FeatureSet, wanted_set
from .feature_store import FeatureStore
from .file_digests import FileDigests
from .image_examples import ImageExamples, images_by_part
from .kept_weights import KeptWeights
from .loading import DamagedFeatures, Loader, Part, memory_budget
from .mongodb import Document
from .part_images import digests_by_part, images_at, places_of, thumbnails_at
from .prepared import FeaturesSummary, PreparedFeatures, Shape, StoredFeatures, Validate
from .records import SessionWarning
from .reporting import Reporter, duration
from .spec import Session
from .thumbnails import Picture

_REPAIRS = 3


class SessionFeatures:
    """Finds, completes and loads the features of one session; raises TrainerError."""

    def __init__(
        self,
        session: Session,
        database: Database[Document],
        use: Use,
        work: Path,
        reporter: Reporter,
        stop: Callable[[], bool],
        memory_limit: int | None = None,
        disk: Disk | None = None,
    ) -> None:
        """`memory_limit` is in bytes; without one, the machine's memory counts, and without `disk` that of `work`."""
        self._memory_limit = memory_limit
        self._disk = disk or Disk(work)
        self._session = session
        self._database = database
        self._spec = session.spec
        self._work = work
        self._reporter = reporter
        self._stop = stop
        self._store = FeatureStore(database, stop)
        self._catalog = FeatureCatalog(database, use, stop)
        self._weights = KeptWeights(database, stop)
        self._facts = DatasetFacts(database, reporter, stop)
        self._ours: dict[tuple[str, int], int] = {}  # images by split and shard that were computed here

    @cached_property
    def _base(self) -> BaseModel:
        return open_base_model(self._spec.base_model, self._work, self._reporter, self._stop, self._weights, self._disk)

    @cached_property
    def _dataset(self) -> Dataset:
        memory = FileDigests(self._database, self._stop)
        return open_dataset(self._spec.dataset, self._work, self._reporter, self._stop, self._disk, memory)

    def prepare(
        self,
        validate: Validate,
        *,
        stored_only: bool = False,
        known: Mapping[str, str] = MappingProxyType({}),
    ) -> PreparedFeatures:
        """Give the features of all images that the session uses, computing what is missing.

        A damaged shard is dropped and computed again. With `stored_only`, what is missing or damaged raises
        AcceleratorError. `known` are the keys that an earlier pod of the session has found, by split.
        """
        loader = Loader(self._store, self.budget, self._reporter)
        for repairs_left in reversed(range(_REPAIRS)):
            found = self._find(validate, known)
            if found is None and stored_only:
                raise AcceleratorError("Not all features are stored, and this attempt has no GPU to compute them.")
            stored = found or self._complete(validate)
            try:
                train, validation, test = loader.load(stored.train, stored.test, self._spec.dataset.validation_split)
            except DamagedFeatures as error:
                if stored_only:
                    raise AcceleratorError(f"{error} This attempt has no GPU for it.") from error
                if not repairs_left:
                    raise
                self._reporter.info(str(error))
                continue
            break
        base = partial(self._base_for, stored.image_shape)
        held_back = self._spec.dataset.validation_split
        return PreparedFeatures(
            class_names=stored.class_names,
            train=train,
            validation=validation,
            test=test,
            feature_shape=stored.feature_shape,
            summary=self.summary(stored),
            base=base,
            sets=stored.keys,
            digests=digests_by_part(stored.train, stored.test, held_back),
            pictures=partial(self._pictures, stored, held_back),
            warnings=self.check(stored),
        )

    def _pictures(
        self, stored: StoredFeatures, held_back: Decimal, part: str, rows: Sequence[int]
    ) -> Sequence[Picture | None]:
        """Give images from the data set if it was opened for something else, else the thumbnails that the set keeps."""
        places = places_of(stored.train, held_back, part, rows)
        if "_dataset" in self.__dict__:
            return images_at(self._dataset, part, places)
        return thumbnails_at(self._store, (stored.test if part == "test" else stored.train).found, places)

    def _base_for(self, image_shape: Shape | None) -> BaseModel:
        return self._base.for_images(image_shape)

    @property
    def budget(self) -> int:
        """Bytes that examples may take in memory."""
        return memory_budget(self._memory_limit)

    def base(self) -> BaseModel:
        """Give the base model, built when it is first asked for."""
        return self._base

    def images(self, base: BaseModel) -> tuple[ImageExamples, ImageExamples, ImageExamples]:
        """Give the images of training, validation and test themselves: the same as in what `prepare` gives."""
        return images_by_part(self._dataset, self._spec.dataset, base, self._stop)

    def stored(self, validate: Validate) -> StoredFeatures:
        """Have all features in the store: found, computed here, or by others that are waited for."""
        return self._find(validate) or self._complete(validate)

    def check(self, stored: StoredFeatures) -> tuple[SessionWarning, ...]:
        """Say how many images of each class are used, and what is wrong with them; gives the latter."""
        self._reporter.info(f"Training images by class: {class_counts(stored.train, stored.class_names)}")
        counts = len(stored.train.labels), len(stored.test.labels)
        near = self._facts.near_duplicates(stored.train.order, stored.test.order, counts)
        warnings = warnings_of(stored.train, stored.test, near)
        for warning in warnings:
            self._reporter.info(f"Warning: {warning.message}")
        return warnings

    def help(self, validate: Validate) -> None:
        """Compute what nobody else computes already."""
        if self._find(validate) is None:
            self._complete(validate, wait=False)

    def _complete(self, validate: Validate, *, wait: bool = True) -> StoredFeatures:
        """Open the images and the base model and compute what is missing."""
        # The base model first: what is wrong with it is known before a byte of the data set is fetched.
        base, dataset = self._base, self._dataset
        base = base.for_images(dataset.common_shape(self._stop))
        validate(base.feature_shape, dataset.class_names)
        subsets = ((dataset.train, self._spec.dataset.subset), (dataset.test, self._spec.dataset.test_subset))
        parts = []
        for split, subset in subsets:
            found = self._open_set(base, dataset, split)
            used = prefix(len(split), subset)
            parts.append(Part(found, split.labels[:used].astype("int32"), split.digests[:used], split.order_digest))
        if wait:
            self._facts.find_out(dataset.train, dataset.test, (len(parts[0].labels), len(parts[1].labels)))
        extraction = Extraction(
            self._store, base, self._stop, self._reporter.info, self._spec.resources.extraction_batch_size
        )
        done: dict[str, int] = {}
        total = sum(part.total for part in parts)
        for part, (split, _) in zip(parts, subsets):
            before = sum(images for (name, _), images in self._ours.items() if name == split.name)

            def told(stored: int, computed: int, rate: float | None, part: Part = part, before: int = before) -> None:
                name = part.found.split
                done[name] = stored
                overall = (sum(done.values()), total)
                reused = max(0, stored - before - computed)
                self._reporter.extraction(name, stored, part.total, reused, rate, overall=overall)

            ours = extraction.complete(split, part.found, part.shards, told, wait=wait)
            self._ours |= {(split.name, index): images for index, images in ours.items()}
        return StoredFeatures(dataset.class_names, parts[0], parts[1], base.image_shape)

    def _find(self, validate: Validate, known: Mapping[str, str] = MappingProxyType({})) -> StoredFeatures | None:
        """Find the sets by their keys or the session's recipe, if every shard that is needed is there."""
        train = self._find_part("train", self._spec.dataset.subset, known)
        test = train and self._find_part("test", self._spec.dataset.test_subset, known)
        if train is None or test is None:
            return None
        parts, manifest = (train[0], test[0]), train[1]
        validate(parts[0].found.feature_shape, manifest.class_names)
        found = StoredFeatures(manifest.class_names, *parts, manifest.image_shape)
        if not self._ours:
            saved = self.summary(found).seconds_saved
            self._reporter.info(
                f"The features of all {sum(len(part.labels) for part in parts):,} images are stored: no image is read "
                f"and no base model built for them, which saves {duration(saved)} of computing"
            )
        return found

    def _find_part(self, split: str, subset: Decimal, known: Mapping[str, str]) -> tuple[Part, Manifest] | None:
        """Find a split whose shards are all there, as far as the subset needs them."""
        recipe = self._session.recipe
        if split not in known and recipe is None:
            return None
        stored = self._catalog.find(split, key=known.get(split), recipe=recipe)
        if stored is None or not stored.is_current():
            return None
        used, manifest = prefix(stored.found.images, subset), stored.manifest
        part = Part(stored.found, manifest.labels[:used], manifest.digests[:used], str(stored.description["order"]))
        there = len(self._store.finished(stored.found, part.shards))
        return (part, manifest) if there == part.shards else None

    def summary(self, stored: StoredFeatures) -> FeaturesSummary:
        """Say where the features came from."""
        parts = (stored.train, stored.test)
        saved = {"CPU": 0.0, "GPU": 0.0}
        for part in parts:
            for index, document in self._store.finished(part.found, part.shards).items():
                if (part.found.split, index) not in self._ours:
                    facts = document.get("facts", {})
                    saved["GPU" if facts.get("device") == "GPU" else "CPU"] += float(facts.get("seconds", 0))
        computed, total = sum(self._ours.values()), sum(part.total for part in parts)
        return FeaturesSummary(
            key=stored.train.found.key,
            shards=sum(part.shards for part in parts),
            reused=max(0, total - computed),
            computed=computed,
            seconds_saved=sum(saved.values()),
            gpu_seconds_saved=saved["GPU"],
        )

    def _open_set(self, base: BaseModel, dataset: Dataset, split: Split) -> FeatureSet:
        wanted, description = wanted_set(base, split)
        manifest = Manifest(split.labels, split.digests, dataset.class_names, base.image_shape)
        place = place_of(self._spec.dataset)
        return self._catalog.open(wanted, description, manifest, self._session.recipe, base.weights_file, place)
