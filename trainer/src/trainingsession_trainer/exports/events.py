"""Figures of the epochs as TensorBoard reads them: one event file, by TensorFlow's own writer of records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import tensorflow as tf
from tensorflow.core.framework.summary_pb2 import Summary
from tensorflow.core.util.event_pb2 import Event

if TYPE_CHECKING:
    from ..snapshot import Epoch

FILE = "events.out.tfevents.0"
"""TensorBoard looks for files whose names hold "tfevents"."""


def write_events(path: Path, epochs: Sequence[Epoch]) -> None:
    """Write a scalar per figure and epoch, train and validation under one name: train/loss, validation/loss.

    And the learning rate.
    """
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(Event(file_version="brain.Event:2").SerializeToString())
        passed = 0.0
        for epoch in epochs:
            # Seconds of training, not the date: the same training leaves the same curves.
            passed += epoch.seconds
            values = [
                Summary.Value(tag=_tag(name), simple_value=value) for name, value in sorted(epoch.figures.items())
            ]
            if epoch.learning_rate is not None:
                values.append(Summary.Value(tag="learning_rate", simple_value=epoch.learning_rate))
            event = Event(wall_time=passed, step=epoch.number, summary=Summary(value=values))
            writer.write(event.SerializeToString())


def _tag(name: str) -> str:
    part, figure = ("validation", name.removeprefix("val_")) if name.startswith("val_") else ("train", name)
    return f"{part}/{figure}"
