from __future__ import annotations

from urllib.request import urlretrieve

import pytest

from local_server import LocalServer, content
from trainingsession_trainer.weights_mirror import WEIGHTS_VARIABLE, keras_weights_mirror

HOME = "https://storage.googleapis.com"


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("tensorflow/keras-applications/resnet/resnet50_notop.h5", "/keras/resnet/resnet50_notop.h5"),
        ("keras-applications/efficientnetb0_notop.h5", "/keras/efficientnetb0_notop.h5"),
    ],
)
def test_what_keras_asks_its_home_for_comes_from_the_mirror(tmp_path, address, path):
    server = LocalServer(content(b"weights"))
    with server.running(), keras_weights_mirror({WEIGHTS_VARIABLE: f"{server.uri}/keras/"}):
        urlretrieve(f"{HOME}/{address}", tmp_path / "weights.h5")
    assert (tmp_path / "weights.h5").read_bytes() == b"weights"
    assert server.paths == [path]


def test_other_addresses_are_left_alone(tmp_path):
    server = LocalServer(content(b"else"))
    with server.running(), keras_weights_mirror({WEIGHTS_VARIABLE: "http://127.0.0.1:1"}):
        urlretrieve(f"{server.uri}/tensorflow/keras-applications/a.h5", tmp_path / "a.h5")
    assert server.paths == ["/tensorflow/keras-applications/a.h5"]
