"""Real images and real weights: what the cache and the head are worth together."""

from __future__ import annotations

import hashlib
import io
import uuid
from pathlib import Path

import pytest

from trainingsession_trainer.mongodb import connect
from trainingsession_trainer.records import create_record
from trainingsession_trainer.reporting import Reporter


@pytest.fixture(scope="module")
def storage(mongod):
    found = connect(mongod.uri, f"cifar10_{uuid.uuid4().hex[:12]}")
    yield found
    found.client.drop_database(found.name)
    found.client.close()


def test_mobilenet_on_a_fifth_of_cifar10_reaches_its_accuracy(storage, shared_data: Path, tmp_path: Path) -> None:
    from trainingsession_trainer.run import run_attempt

    archive, weights = shared_data / "cifar10.tar.gz", shared_data / "weights/mobilenet-0.25-imagenet.weights.h5"
    document = {
        "apiVersion": "trainingsession.dev/v1alpha1",
        "kind": "TrainingSession",
        "metadata": {"namespace": "team-a", "name": "cifar10", "uid": str(uuid.uuid4())},
        "spec": {
            "dataset": {
                "uri": archive.as_uri(),
                "sha256": hashlib.sha256(archive.read_bytes()).hexdigest(),
                "subset": 0.2,
                "testSubset": 0.2,
            },
            "baseModel": {
                "name": "MobileNet",
                "arguments": {"alpha": 0.25},
                "weightsFrom": {"uri": weights.as_uri()},
                "inputSize": [96, 96],
            },
            "training": {"optimizer": {"name": "adam"}, "batchSize": 128, "epochs": 20},
            "resources": {"gpus": 0},
        },
    }
    uid = document["metadata"]["uid"]
    create_record(storage, uid, "team-a", "cifar10")
    out = io.StringIO()

    run_attempt(document, storage, "pod-1", work=tmp_path, reporter=Reporter(out), stop=lambda: False)

    print(out.getvalue())
    record = storage["sessions"].find_one({"_id": uid})
    assert record["result"]["accuracy"] >= 0.68
    samples = record["samples"]
    assert samples["train"] + samples["validation"] == 10_000
    assert samples["test"] == 1_000
