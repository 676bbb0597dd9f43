"""What a session would do, without doing it: what is in the store already, what would be computed, what be trained.

Nothing is written to the store. Where the features' keys cannot be known from the spec alone, the images are opened and
the base model is built, so that whatever is wrong with them is found here too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pymongo.database import Database

from .base_models import open_base_model
from .datasets import open_dataset
from .datasets.order import prefix, validation_mask
from .feature_catalog import FeatureCatalog, Use
from .feature_sets import wanted_set
from .feature_store import FeatureStore
from .head import build_head
from .kept_weights import KeptWeights
from .loading import Part, memory_budget
from .mongodb import Document
from .objective import check_training
from .reporting import Reporter, duration
from .sentences import describe
from .spec import Session

_MIB = 1 << 20
# Of each weight of the head: its value, its gradient, and most often two of the optimizer's, as float32.
_BYTES_PER_WEIGHT = 16


@dataclass(frozen=True)
class Plan:
    """The images of a session and where their features are."""

    class_names: tuple[str, ...]
    parts: tuple[Part, ...]


class LooksOnly(KeptWeights):
    """Gives kept weights and keeps none."""

    def keep(self, name: str, path: Path) -> str:
        """Keep nothing."""
        del name, path
        return ""


def dry_run(
    session: Session,
    database: Database[Document] | None,
    work: Path,
    reporter: Reporter,
    stop: Callable[[], bool],
) -> list[str]:
    """Say in lines what the session would do; `database` is None where there is no store yet. Raises TrainerError."""
    check_training(session.spec.training)
    plan = _plan(session, database, work, reporter, stop)
    train, test = plan.parts
    held_back = int(validation_mask(train.labels, session.spec.dataset.validation_split).sum())
    lines = [
        f"Session {session.namespace}/{session.name}: {describe(session)}",
        f"  Images: {len(train.labels) - held_back:,} to train on, {held_back:,} held back for validation, "
        f"{len(test.labels):,} for the test; {len(plan.class_names)} classes",
    ]
    lines += [_features(part, database, stop) for part in plan.parts]
    lines += _training(session, plan)
    return [*lines, _memory(plan)]


def _training(session: Session, plan: Plan) -> list[str]:
    spec = session.spec
    if spec.module is not None:
        return [f"  Head and training: {spec.module.entry_point}, which is not fetched or run now"]
    if spec.head.from_session is not None:
        return [f"  Head: that of session {spec.head.from_session}, which is not read now"]
    shape = plan.parts[0].found.feature_shape
    head = build_head(spec.head, shape, len(plan.class_names), memory=memory_budget())
    trainable = sum(math.prod(weight.shape) for weight in head.trainable_weights)
    lines = [
        f"  Head: {head.count_params():,} weights, {trainable:,} of them trained, "
        f"about {_size(_BYTES_PER_WEIGHT * trainable)} with the optimizer"
    ]
    if spec.training.repeats > 1:
        lines.append(f"  It is trained {spec.training.repeats} times, with other seeds")
    if spec.training.fine_tune is not None:
        tuned = spec.training.fine_tune
        lines.append(
            f"  Then the last {tuned.layers} layers of {spec.base_model.name}, {tuned.epochs} epochs on the images"
        )
    return lines


def _plan(
    session: Session,
    database: Database[Document] | None,
    work: Path,
    reporter: Reporter,
    stop: Callable[[], bool],
) -> Plan:
    spec = session.spec
    subsets = {"train": spec.dataset.subset, "test": spec.dataset.test_subset}
    if database is not None and session.recipe is not None:
        catalog = FeatureCatalog(database, Use(database, session.uid, "dry-run"), stop)
        stored = [catalog.peek(split, session.recipe) for split in subsets]
        found = [entry for entry in stored if entry is not None and entry.is_current()]
        if len(found) == len(subsets):
            parts = [
                Part(entry.found, entry.manifest.labels[: prefix(entry.found.images, subset)])
                for entry, subset in zip(found, subsets.values())
            ]
            return Plan(found[0].manifest.class_names, tuple(parts))
    kept = LooksOnly(database, stop) if database is not None else None
    base = open_base_model(spec.base_model, work, reporter, stop, kept)
    dataset = open_dataset(spec.dataset, work, reporter, stop)
    base = base.for_images(dataset.common_shape(stop))
    parts = []
    for split, subset in zip((dataset.train, dataset.test), subsets.values()):
        wanted, _ = wanted_set(base, split)
        parts.append(Part(wanted, split.labels[: prefix(len(split), subset)].astype(np.int32)))
    return Plan(tuple(dataset.class_names), tuple(parts))


def _features(part: Part, database: Database[Document] | None, stop: Callable[[], bool]) -> str:
    found = part.found
    shape = " x ".join(str(size) for size in found.feature_shape)
    told = f"  Features of {found.split} images: {shape} each, key {found.key}; "
    there = {} if database is None else FeatureStore(database, stop).finished(found, part.shards)
    reused = sum(found.bounds(index)[1] - found.bounds(index)[0] for index in there)
    seconds = sum(float(document.get("facts", {}).get("seconds", 0)) for document in there.values())
    told += f"{len(there)} of {part.shards} shards are stored: {reused:,} images reused"
    if reused:
        told += f", which saves {duration(seconds)}"
    return f"{told}, {part.total - reused:,} to compute"


def _memory(plan: Plan) -> str:
    images = sum(len(part.labels) for part in plan.parts)
    # float16, as nearly all features are stored.
    needed = images * math.prod(plan.parts[0].found.feature_shape) * 2
    budget = memory_budget()
    held = "held in memory" if needed <= budget else "read from the store again for every epoch"
    return f"  Memory: the features take {_size(needed)} of the {_size(budget)} that they may have; {held}"


def _size(count: int) -> str:
    return f"{count / _MIB:,.1f} MiB" if count < 1024 * _MIB else f"{count / 1024 / _MIB:,.1f} GiB"
