"""Training of the head: its history, and how it is taken up again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import keras

from .epochs import Loop, run_epochs
from .errors import SpecError
from .schedule import class_weights
from .snapshot import Binding, Epoch, Snapshot

if TYPE_CHECKING:
    from .batches import Examples
    from .checkpoints import Checkpoints
    from .reporting import Reporter
    from .spec import Session, Training


@dataclass(frozen=True)
class History:
    """All epochs, and the number of the one whose weights the head has now."""

    epochs: tuple[Epoch, ...]
    kept: int

    @classmethod
    def of(cls, snapshot: Snapshot) -> History:
        """Give the history of a training that ended with this snapshot."""
        return cls(snapshot.epochs, snapshot.best_epoch or snapshot.epoch)

    @property
    def kept_epoch(self) -> Epoch:
        """The epoch whose weights were kept."""
        return self.epochs[self.kept - 1]


def bind(session: Session, key: str) -> Binding:
    """Name all that must be the same for training to go on from a checkpoint; `key` is that of the features."""
    dataset = session.spec.dataset
    parts = {
        "head": asdict(session.spec.head),
        "training": asdict(session.spec.training),
        "images": [str(dataset.subset), str(dataset.validation_split)],
    }
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return {"session": session.uid, "spec": digest, "feature set": key, "Keras version": keras.__version__}


def fit_head(
    head: keras.Model,
    training: Training,
    train: Examples,
    validation: Examples,
    *,
    class_names: Sequence[str],
    checkpoints: Checkpoints,
    reporter: Reporter,
    stop: Callable[[], bool],
) -> History:
    """Train `head` in place and leave it with the weights that are kept.

    Goes on from a checkpoint if there is one. Raises Stopped after the last whole epoch is in a checkpoint, and
    SpecError on divergence, when a batch does not fit into memory and without the images that early stopping needs.
    """
    if training.early_stopping is not None and not len(validation):
        raise SpecError(
            "spec.training.earlyStopping watches validation images, and none is held back; "
            "raise spec.dataset.validationSplit or remove earlyStopping."
        )
    counted = training.class_weights
    weights = class_weights(counted, train.labels, class_names) if counted is not None else None
    loop = Loop(head, training, stop, weights)
    snapshot = checkpoints.load(loop.state(), loop.kept, training.epochs) or Snapshot((), ())
    if snapshot.epochs:
        loop.restore(snapshot.state)
        reporter.info(
            f"Going on after epoch {snapshot.epoch} of {training.epochs}, which an earlier attempt has reached"
        )
    snapshot = run_epochs(loop, snapshot, training, train, validation, checkpoints=checkpoints, reporter=reporter)
    return History.of(snapshot)
