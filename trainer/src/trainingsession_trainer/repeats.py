"""The same head trained several times with other seeds, to tell what is luck.

The published head is the first seed's, whatever the others reach: choosing the best of them by its test accuracy would
flatter it. It is trained last, so that of the others nothing has to be kept but their accuracies, in the record.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import keras
import numpy.typing as npt

from .checkpoints import Checkpoints
from .evaluation import Evaluation, evaluate
from .one_training import initial_head, train_once
from .training import History, bind

if TYPE_CHECKING:
    from pymongo.database import Database

    from .batches import Examples
    from .features import SessionFeatures
    from .head_source import HeadSource
    from .mongodb import Document
    from .prepared import PreparedFeatures
    from .records import SessionRecord
    from .reporting import Reporter
    from .snapshot import Binding
    from .spec import Session

_SEEDS = 1 << 32


@dataclass(frozen=True)
class Trained:
    """The head that is published, how it came about and what it is worth; `checkpoints` go when it is published.

    `repeats` is {n, meanAccuracy, deviation, accuracies} over all seeds, where there is more than one.
    """

    head: keras.Model
    history: History
    evaluation: Evaluation
    repeats: Mapping[str, Any] | None
    checkpoints: Checkpoints


def train_heads(
    session: Session,
    prepared: PreparedFeatures,
    features: SessionFeatures,
    database: Database[Document],
    record: SessionRecord,
    reporter: Reporter,
    stop: Callable[[], bool],
    source: HeadSource | None = None,
    probabilities: npt.NDArray[Any] | None = None,
) -> Trained:
    """Train and test the head with every seed that no earlier attempt has finished; raises TrainerError.

    Where there is a `source`, every head starts from its weights. `probabilities` [test images, classes] takes what the
    published head predicts.
    """
    spec, binding = session.spec, bind(session, prepared.summary.key)

    def train(seed: int) -> tuple[keras.Model, keras.Model, Examples, History, Checkpoints]:
        """Train one head, from its own checkpoint if it has one; gives it, and what is tested on which examples."""
        training = replace(spec.training, seed=seed)
        head = initial_head(session, training, prepared, source, reporter)
        reporter.info(
            f"Training the head ({head.count_params():,} weights) on {len(prepared.train):,} images, "
            f"{len(prepared.validation):,} held back for validation"
        )
        checkpoints = Checkpoints(database, record, {**binding, "seed": str(seed)}, reporter, stop)
        model, test, history = train_once(training, head, prepared, features, checkpoints, reporter, stop)
        if spec.training.restore_best and len(prepared.validation):
            reporter.info(f"Kept the weights of epoch {history.kept}, which has the lowest validation loss")
        return head, model, test, history, checkpoints

    def accuracy_with(seed: int) -> tuple[float, Callable[[], None]]:
        _, model, test, _, checkpoints = train(seed)
        checkpoints.settle()
        return evaluate(model, spec.training, test).accuracy, checkpoints.remove

    first, *others = seeds(spec.training.seed, spec.training.repeats)
    accuracies = train_others(others, accuracy_with, binding, record, reporter)
    if accuracies:
        reporter.info(f"Head {len(accuracies) + 1} of {len(accuracies) + 1}, with seed {first}: it is published")
    head, model, test, history, checkpoints = train(first)
    evaluation = evaluate(model, spec.training, test, train_labels=prepared.train.labels, probabilities=probabilities)
    repeats = summary((evaluation.accuracy, *accuracies)) if accuracies else None
    if repeats:
        reporter.info(
            f"Accuracy over {repeats['n']} seeds: mean {repeats['meanAccuracy']:.4f}, "
            f"deviation {repeats['deviation']:.4f}; published is that of seed {first}"
        )
    return Trained(head, history, evaluation, repeats, checkpoints)


def seeds(first: int, count: int) -> Sequence[int]:
    """Give the seeds: the first and those that follow it."""
    return [(first + number) % _SEEDS for number in range(count)]


def summary(accuracies: Sequence[float]) -> Mapping[str, Any]:
    """Sum up the test accuracies of at least two seeds; `deviation` is that of a sample (n - 1)."""
    return {
        "n": len(accuracies),
        "meanAccuracy": statistics.fmean(accuracies),
        "deviation": statistics.stdev(accuracies),
        "accuracies": list(accuracies),
    }


def train_others(
    wanted: Sequence[int],
    train: Callable[[int], tuple[float, Callable[[], None]]],
    binding: Binding,
    record: SessionRecord,
    reporter: Reporter,
) -> tuple[float, ...]:
    """Train with every seed of `wanted` that the record does not know, and give all their test accuracies.

    `train` gives the accuracy and what to do when that is stored; `binding` is all that the accuracies depend on.
    """
    digest = hashlib.sha256(json.dumps(dict(binding), sort_keys=True).encode()).hexdigest()
    done = _known(record.repeats(), digest, len(wanted))
    if done:
        reporter.info(f"An earlier attempt has trained {len(done)} of {len(wanted) + 1} heads")
    for seed in wanted[len(done) :]:
        reporter.repeat(len(done), len(wanted) + 1)
        reporter.info(f"Head {len(done) + 1} of {len(wanted) + 1}, with seed {seed}")
        accuracy, stored = train(seed)
        reporter.info(f"Accuracy {accuracy:.4f} with seed {seed}")
        done = (*done, accuracy)
        record.repeated({"binding": digest, "accuracies": list(done)})
        stored()
    reporter.repeat(len(wanted), len(wanted) + 1)
    return done


def _known(found: Mapping[str, Any], digest: str, most: int) -> tuple[float, ...]:
    if found.get("binding") != digest:
        return ()
    return tuple(float(value) for value in found["accuracies"][:most])
