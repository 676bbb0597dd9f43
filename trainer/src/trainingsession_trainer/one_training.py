"""One training with one seed: the head on features, and with fineTune the end of the base model on images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import keras

from .batches import Examples
from .fine_tuning import fine_tune
from .head import build_head, standardize_from
from .training import History, fit_head

if TYPE_CHECKING:
    from .checkpoints import Checkpoints
    from .features import SessionFeatures
    from .head_source import HeadSource
    from .prepared import PreparedFeatures
    from .reporting import Reporter
    from .spec import Session, Training


def initial_head(
    session: Session,
    training: Training,
    prepared: PreparedFeatures,
    source: HeadSource | None,
    reporter: Reporter,
) -> keras.Model:
    """Build the head that is trained: the spec's with weights by its seed, or an earlier session's."""
    spec, shape, classes = session.spec, prepared.feature_shape, len(prepared.class_names)
    # Keras draws initial weights from the global seed; from here on every random number has one owner.
    keras.utils.set_random_seed(training.seed)
    if source is None:
        standardization = standardize_from(prepared.train) if spec.head.standardize else None
        return build_head(spec.head, shape, classes, standardization)
    head = build_head(source.head_for(spec.head, shape, classes), shape, classes, source.standardization)
    source.load_into(head)
    reporter.info(f"The head and its weights are those of session {source.session}")
    return head


def train_once(
    training: Training,
    head: keras.Model,
    prepared: PreparedFeatures,
    features: SessionFeatures,
    checkpoints: Checkpoints,
    reporter: Reporter,
    stop: Callable[[], bool],
) -> tuple[keras.Model, Examples, History]:
    """Train the head, and with fineTune the end of the base model; give the model, what it is tested on, its history.

    The head and the base model of `prepared` are trained in place. Raises TrainerError.
    """
    fit = partial(
        fit_head,
        head,
        training,
        prepared.train,
        prepared.validation,
        class_names=prepared.class_names,
        checkpoints=checkpoints,
        reporter=reporter,
        stop=stop,
    )
    if training.fine_tune is None:
        return head, prepared.test, fit()
    base = prepared.base()
    images, validation, test = features.images(base)
    tuned = fine_tune(
        head,
        base,
        training,
        images,
        validation,
        fit,
        class_names=prepared.class_names,
        checkpoints=checkpoints,
        reporter=reporter,
        stop=stop,
    )
    return tuned.model, test, tuned.history
