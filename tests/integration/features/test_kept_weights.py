"""Weights files are fetched from outside once, and read from MongoDB afterwards."""

from __future__ import annotations

import hashlib
import sys

import h5py
import numpy as np
import pytest
from keras.src.legacy.saving import legacy_h5_format

from local_server import LocalServer, content
from pictures import go_on, quiet
from trainingsession_trainer import config
from trainingsession_trainer.base_models import open_base_model
from trainingsession_trainer.datasets import Disk
from trainingsession_trainer.datasets.files import RESERVE_BYTES
from trainingsession_trainer.errors import DataError
from trainingsession_trainer.kept_weights import KeptWeights

BASE = {"name": "MobileNet", "arguments": {"alpha": 0.25}, "inputSize": [32, 32]}


def opened(database, folder, disk=None, **base):
    spec = config.parse_spec({"dataset": {"name": "digits"}, "baseModel": {**BASE, **base}})
    return open_base_model(spec.base_model, folder, quiet(), go_on, KeptWeights(database, go_on), disk)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    spec = config.parse_spec({"dataset": {"name": "digits"}, "baseModel": {**BASE, "weights": "none"}})
    found = open_base_model(spec.base_model, tmp_path_factory.mktemp("saved"), quiet(), go_on).network
    found.set_weights([array + 1 for array in found.get_weights()])
    return found


def saved(network, path):
    network.save_weights(path)
    return path.read_bytes()


def published(network, path):
    """Write weights in the older format of the files that Keras offers."""
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, network)
    return path.read_bytes()


def same(base, network):
    return all(np.array_equal(*pair) for pair in zip(base.network.get_weights(), network.get_weights()))


def test_a_file_that_is_known_by_its_digest_is_fetched_once(database, network, tmp_path):
    file = saved(network, tmp_path / "a.weights.h5")
    digest = hashlib.sha256(file).hexdigest()
    with LocalServer(content(file)).running() as server:
        source = {"uri": f"{server.uri}/a.weights.h5", "sha256": digest}
        assert opened(database, tmp_path / "1", weightsFrom=source).weights_file == digest
    base = opened(database, tmp_path / "2", weightsFrom=source)  # the server is gone
    assert same(base, network)
    assert base.weights_file == digest
    assert database["features.files"].count_documents({}) == 1


def test_a_kept_file_that_the_pods_disk_has_no_room_for_is_a_sentence_before_a_byte_is_written(
    database, network, tmp_path
):
    file = saved(network, tmp_path / "a.weights.h5")
    with LocalServer(content(file)).running() as server:
        source = {"uri": f"{server.uri}/a.weights.h5", "sha256": hashlib.sha256(file).hexdigest()}
        opened(database, tmp_path / "1", weightsFrom=source)
    (folder := tmp_path / "2").mkdir()
    with pytest.raises(DataError) as refused:
        opened(database, folder, Disk(folder, RESERVE_BYTES + len(file) - 1), weightsFrom=source)
    assert str(refused.value) == (
        f"The weights in base.weights.h5 have {len(file):,} bytes, and {len(file) - 1:,} may be written; "
        "raise spec.resources.ephemeralStorage."
    )
    assert list(folder.iterdir()) == []
    assert same(opened(database, folder, Disk(folder, RESERVE_BYTES + len(file)), weightsFrom=source), network)


def test_a_file_without_a_digest_is_not_kept(database, network, tmp_path):
    file = saved(network, tmp_path / "a.weights.h5")
    with LocalServer(content(file)).running() as server:
        assert opened(database, tmp_path / "1", weightsFrom={"uri": f"{server.uri}/a.weights.h5"}).weights_file is None
    assert database.base_weights.count_documents({}) == 0


def test_imagenet_weights_are_downloaded_once(database, network, tmp_path, monkeypatch):
    file = published(network, tmp_path / "legacy.h5")
    mobilenet = sys.modules["keras.src.applications.mobilenet"]
    # Keras reads its own setting when it is imported; a pod has it from the start.
    for number in ("first", "second"):
        monkeypatch.setenv("KERAS_HOME", str(tmp_path / number))
        monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path / number))
        (tmp_path / number).mkdir()
        with LocalServer(content(file)).running() as server:
            monkeypatch.setattr(
                mobilenet, "BASE_WEIGHT_PATH", f"{server.uri}/" if number == "first" else "http://[::1]:1/"
            )
            base = opened(database, tmp_path / "work", weights="imagenet")
        assert same(base, network)
        assert base.weights_file == hashlib.sha256(file).hexdigest()


def test_a_damaged_file_is_fetched_again(database, network, tmp_path):
    file = saved(network, tmp_path / "a.weights.h5")
    digest = hashlib.sha256(file).hexdigest()
    with LocalServer(content(file)).running() as server:
        source = {"uri": f"{server.uri}/a.weights.h5", "sha256": digest}
        opened(database, tmp_path / "1", weightsFrom=source)
        chunk = database["features.chunks"].find_one()
        database["features.chunks"].update_one({"_id": chunk["_id"]}, {"$set": {"data": b"x" * len(chunk["data"])}})
        assert same(opened(database, tmp_path / "2", weightsFrom=source), network)
    assert same(opened(database, tmp_path / "3", weightsFrom=source), network)
    assert database["features.files"].count_documents({}) == 1
