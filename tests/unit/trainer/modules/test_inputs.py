"""What a module works on is written within the pod's own limit of the disk, not only within the node's disk."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from local_server import LocalServer, content
from pictures import go_on, layout, quiet, write_tar
from trainingsession_trainer.batches import LabelledFeatures
from trainingsession_trainer.config import parse_spec
from trainingsession_trainer.datasets import Disk
from trainingsession_trainer.datasets.files import RESERVE_BYTES
from trainingsession_trainer.errors import DataError
from trainingsession_trainer.modules.inputs import hand_features, hand_images
from trainingsession_trainer.modules.running import Running
from trainingsession_trainer.spec import Session


@pytest.fixture
def running(tmp_path):
    """A module's run on a disk of which this many bytes may be written."""

    def make(room: int, uri: str = "https://example.org/a.tar") -> Running:
        module = {"git": {"url": "https://example.org/own.git", "revision": "0" * 40, "entryPoint": "own:run"}}
        base = {"name": "MobileNet", "inputSize": [32, 32]}
        spec = parse_spec({"dataset": {"uri": uri}, "baseModel": base, "module": module})
        folder = tmp_path / "session"
        folder.mkdir()
        made = Running(Session("team-a", "own", "uid", spec), spec.module, folder, quiet(), go_on, (),
                       Disk(tmp_path, RESERVE_BYTES + room))  # fmt: skip
        made.files.mkdir()
        return made

    return make


def features(count):
    return LabelledFeatures(np.zeros((count, 5), np.float16), np.zeros(count, np.int32))


def test_features_that_are_more_than_the_pod_may_write_are_refused(running):
    prepared = SimpleNamespace(
        train=features(80), validation=features(10), test=features(10), feature_shape=(5,), class_names=("a", "b"),
        digests={"test": ()}, sets={},
    )  # fmt: skip
    with pytest.raises(DataError) as caught:
        hand_features(running(1_999), prepared)
    assert str(caught.value) == (
        "The inputs of spec.module need up to 2,000 bytes on the disk, and 1,999 may be written; lower "
        "spec.dataset.subset or spec.baseModel.inputSize, or raise spec.resources.ephemeralStorage."
    )


@pytest.mark.parametrize(("room", "of"), [(10_000, "does not fit on the disk"), (60_000, "The inputs of spec.module")])
def test_archive_and_images_keep_to_what_the_pod_may_write(running, tmp_path, room, of):
    archive = write_tar(tmp_path / "a.tar", layout(cat=10, dog=10)).read_bytes()
    (tmp_path / "a.tar").unlink()
    with LocalServer(content(archive)).running() as server, pytest.raises(DataError) as caught:
        hand_images(running(room, f"{server.uri}/a.tar"))
    assert of in str(caught.value)
    assert str(caught.value).endswith("raise spec.resources.ephemeralStorage.")
