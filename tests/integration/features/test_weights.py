from __future__ import annotations

import hashlib

import numpy as np
import pytest

from local_server import LocalServer, content
from pictures import go_on, quiet
from trainingsession_trainer import config, weights
from trainingsession_trainer.base_models import open_base_model
from trainingsession_trainer.errors import DataError, SpecError, Stopped
from trainingsession_trainer.spec import BaseModel

BASE = {"name": "MobileNet", "arguments": {"alpha": 0.25}, "inputSize": [32, 32]}


def opened(tmp_path, stop=go_on, **base):
    spec = config.parse_spec({"dataset": {"name": "digits"}, "baseModel": {**BASE, **base}})
    return open_base_model(spec.base_model, tmp_path / "work", quiet(), stop)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Weights that differ from the random ones, and their file's bytes."""
    folder = tmp_path_factory.mktemp("saved")
    network = opened(folder, weights="none").network
    network.set_weights([array + 1 for array in network.get_weights()])
    network.save_weights(folder / "a.weights.h5")
    return network, (folder / "a.weights.h5").read_bytes()


@pytest.mark.parametrize("last", ["/x/base.weights.h5?sig=ü", "/d%C3%A4ta%2Eweights.h5", "/images/.weights.h5"])
def test_weights_are_downloaded_and_read_by_their_suffix(tmp_path, saved, last):
    network, file = saved
    with LocalServer(content(file)).running() as server:
        digest = hashlib.sha256(file).hexdigest()
        base = opened(tmp_path, weightsFrom={"uri": server.uri + last, "sha256": digest})
    assert all(np.array_equal(*pair) for pair in zip(base.network.get_weights(), network.get_weights()))
    assert base.weights == weights.weights_identity(BaseModel("MobileNet", weights="imagenet"), network)


def test_weights_on_a_claim_are_read_where_they_are(tmp_path, saved, monkeypatch):
    network, file = saved
    monkeypatch.setattr(weights, "MOUNT", tmp_path)
    (tmp_path / "a b.weights.h5").write_bytes(file)
    base = opened(tmp_path, weightsFrom={"uri": "file:///a%20b%2Eweights.h5", "claimName": "data"})
    assert all(np.array_equal(*pair) for pair in zip(base.network.get_weights(), network.get_weights()))


def test_a_session_is_stopped_while_weights_are_downloaded(tmp_path, saved):
    with (
        LocalServer(content(saved[1])).running() as server,
        pytest.raises(Stopped, match="Stopped while a file was downloaded"),
    ):
        opened(tmp_path, lambda: True, weightsFrom={"uri": f"{server.uri}/a.h5"})


def test_an_address_of_weights_that_is_none_is_the_spec_s_fault(tmp_path):
    with pytest.raises(SpecError, match=r"spec.baseModel.weightsFrom.uri is 'http://\[::1/a.h5', which is no address"):
        opened(tmp_path, weightsFrom={"uri": "http://[::1/a.h5"})


def test_a_file_that_holds_no_weights_is_the_data_s_fault(tmp_path):
    with LocalServer(content(b"hello")).running() as server, pytest.raises(DataError, match="no readable HDF5 file"):
        opened(tmp_path, weightsFrom={"uri": f"{server.uri}/a.h5"})
