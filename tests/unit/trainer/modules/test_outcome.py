"""What is made of a module's predictions for the validation images, whatever it left in the file."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from trainingsession_trainer.errors import SpecError
from trainingsession_trainer.modules import handover
from trainingsession_trainer.modules.outcome import validation_accuracy

LABELS = np.array([0, 1, 2, 0], np.int32)


@pytest.fixture
def measured(tmp_path):
    running = SimpleNamespace(files=tmp_path, module=SimpleNamespace(entry_point="own:run"))

    def measure(given, labels=LABELS):
        if given is not None:
            np.save(tmp_path / handover.PREDICTIONS["validation"], given)
        handed = SimpleNamespace(class_names=("a", "b", "c"), validation_labels=labels)
        return validation_accuracy(running, handed)

    return measure


def test_the_accuracy_is_that_of_what_was_given_for_the_validation_images(measured) -> None:
    assert measured(np.eye(3, dtype=np.float32)[[0, 1, 1, 0]]) == 0.75


def test_without_predictions_or_without_images_there_is_none(measured) -> None:
    assert measured(None) is None
    assert measured(np.empty((0, 3), np.float32), LABELS[:0]) is None


@pytest.mark.parametrize("given", [np.ones((4, 3), np.float32), np.eye(3, dtype=np.float32), np.array([{}])])
def test_a_file_that_holds_something_else_is_refused(measured, given) -> None:
    with pytest.raises(SpecError, match=r"spec\.module: own:run "):
        measured(given)
