from __future__ import annotations

import hashlib
import logging
import socket
import time
from pathlib import Path

import boto3
import keras
import numpy as np
import pytest
from botocore.config import Config
from moto.server import ThreadedMotoServer

from local_server import LocalServer, content, hang_up, status
from pictures import go_on, quiet
from trainingsession_trainer import config, weights
from trainingsession_trainer.base_models import open_base_model
from trainingsession_trainer.datasets import credentials, download
from trainingsession_trainer.datasets.files import RESERVE_BYTES, Disk
from trainingsession_trainer.errors import DataError, SpecError, Stopped
from trainingsession_trainer.spec import BaseModel

BASE = {"name": "MobileNet", "arguments": {"alpha": 0.25}, "inputSize": [32, 32]}


def opened(tmp_path, stop=go_on, disk=None, **base):
    spec = config.parse_spec({"dataset": {"name": "digits"}, "baseModel": {**BASE, **base}})
    return open_base_model(spec.base_model, tmp_path / "work", quiet(), stop, disk=disk)


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


@pytest.fixture(scope="module")
def bucket():
    """A client of a real S3 server with a bucket, and the keys of a Secret for it."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    client = boto3.client("s3", endpoint_url=endpoint, aws_access_key_id="x", aws_secret_access_key="x",
                          region_name="us-east-1", config=Config(s3={"addressing_style": "path"}))  # fmt: skip
    client.create_bucket(Bucket="models")
    yield client, {"accessKeyId": "x", "secretAccessKey": "x", "region": "us-east-1", "endpoint": endpoint}
    server.stop()


@pytest.fixture
def secret(tmp_path, bucket, monkeypatch):
    """The Secret of the weights, mounted."""
    folder = tmp_path / "secret"
    folder.mkdir()
    for key, value in bucket[1].items():
        (folder / key).write_text(value)
    monkeypatch.setitem(credentials.FOLDERS, "spec.baseModel.weightsFrom", folder)
    return folder


def test_weights_in_a_bucket_are_read_with_the_keys_of_their_own_secret(tmp_path, saved, bucket, secret):
    network, file = saved
    bucket[0].put_object(Bucket="models", Key="a/base.weights.h5", Body=file)
    source = {"uri": "s3://models/a/base.weights.h5", "secretName": "models"}
    base = opened(tmp_path, weightsFrom={**source, "sha256": hashlib.sha256(file).hexdigest()})
    assert all(np.array_equal(*pair) for pair in zip(base.network.get_weights(), network.get_weights()))
    with pytest.raises(DataError, match=r"spec\.baseModel\.weightsFrom\.sha256 is a{64}, but s3://models/a/base"):
        opened(tmp_path, weightsFrom={**source, "sha256": "a" * 64})
    (secret / "secretAccessKey").unlink()
    (secret / "endpoint").unlink()
    with pytest.raises(DataError, match=r"spec\.baseModel\.weightsFrom\.secretName is models, and this namespace has"):
        opened(tmp_path, weightsFrom=source)


def test_weights_larger_than_the_disk_are_refused_before_their_first_byte(tmp_path, saved, bucket, secret):
    bucket[0].put_object(Bucket="models", Key="large.h5", Body=saved[1])
    (tmp_path / "work").mkdir()
    disk = Disk(tmp_path / "work", RESERVE_BYTES + 1_000)
    with pytest.raises(DataError, match=r"and 1,000 may be written; raise spec\.resources\.ephemeralStorage"):
        opened(tmp_path, disk=disk, weightsFrom={"uri": "s3://models/large.h5", "secretName": "models"})
    assert not (tmp_path / "work/base.h5").stat().st_size


def test_a_secret_of_weights_is_for_the_network(tmp_path):
    source = {"uri": "file:///a.h5", "claimName": "c", "secretName": "a"}
    with pytest.raises(
        SpecError, match=r"weightsFrom\.secretName is 'a' but spec\.baseModel\.weightsFrom\.uri is a fi"
    ):
        opened(tmp_path, weightsFrom=source)


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


def imagenet(tmp_path, server, stop=go_on):
    """Load weights with a builder that fetches its file as those of keras.applications do."""
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])

    def build(name):
        path = keras.utils.get_file("a.h5", f"{server.uri}/a.h5", cache_subdir="models", cache_dir=str(tmp_path))
        assert (name, Path(path).read_bytes()) == ("imagenet", b"weights")
        return network

    spec = BaseModel("MobileNet", weights="imagenet")
    return weights.load_weights(spec, build, tmp_path, quiet(), stop)[0] is network


def silent(request):
    time.sleep(0.6)
    hang_up(request)


FAILURES = [status(503), status(429), hang_up, content(b"wei", length=7), silent]


@pytest.mark.parametrize("failure", FAILURES, ids=["503", "429", "reset", "cut off", "silence"])
def test_imagenet_weights_are_fetched_again_after_a_failure_that_passes(tmp_path, monkeypatch, failure):
    monkeypatch.setattr(download, "NETWORK_SECONDS", 0.3)
    server = LocalServer(failure, content(b"weights"))
    with server.running():
        assert imagenet(tmp_path, server)
    assert len(server.paths) == 2
    assert socket.getdefaulttimeout() is None


def test_imagenet_weights_that_are_not_there_are_asked_for_once(tmp_path):
    server = LocalServer(status(404))
    with server.running(), pytest.raises(DataError, match=r"MobileNet could not be downloaded \(URL fetch.* 404"):
        imagenet(tmp_path, server)
    assert len(server.paths) == 1


def test_a_session_is_stopped_between_two_tries_for_imagenet_weights(tmp_path):
    server = LocalServer(status(503))
    with server.running(), pytest.raises(Stopped):
        imagenet(tmp_path, server, stop=lambda: True)
    assert len(server.paths) == 1
