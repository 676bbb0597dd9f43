"""Data and weights on PersistentVolumeClaims: real CIFAR-10 images and real ImageNet weights."""

import hashlib

import pytest

from real_cluster import condition


@pytest.fixture(scope="module")
def claims(stack, shared_data):
    """A namespace whose claim `data` holds the archive, and `weights` the base model's weights."""
    if (stack.repo / ".cluster/provider").read_text().strip() != "node":
        pytest.skip("the volume is a folder of this machine, which only the local single node can mount")
    name = stack.namespace("e2e-claims")
    for claim, folder in (("data", shared_data), ("weights", shared_data / "weights")):
        stack.kubectl("delete", "pv", f"e2e-{claim}", "--ignore-not-found")
        stack.apply(
            {
                "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"e2e-{claim}"},
                "spec": {
                    "capacity": {"storage": "1Gi"}, "accessModes": ["ReadOnlyMany"], "storageClassName": "e2e-claims",
                    "hostPath": {"path": str(folder)}, "claimRef": {"namespace": name, "name": claim},
                },
            },
            {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": claim},
                "spec": {
                    "accessModes": ["ReadOnlyMany"], "storageClassName": "e2e-claims",
                    "resources": {"requests": {"storage": "1Gi"}},
                },
            },
            namespace=name,
        )  # fmt: skip
    yield name
    stack.delete_namespace(name)
    stack.kubectl("delete", "pv", "e2e-data", "e2e-weights")


def session(name: str, sha256: str, **dataset):
    return {
        "apiVersion": "trainingsession.dev/v1alpha1", "kind": "TrainingSession", "metadata": {"name": name},
        "spec": {
            "dataset": {"uri": "file:///cifar10.tar.gz", "claimName": "data", "sha256": sha256, **dataset},
            "baseModel": {
                "name": "MobileNet", "arguments": {"alpha": 0.25}, "inputSize": [96, 96],
                "weightsFrom": {"uri": "file:///mobilenet-0.25-imagenet.weights.h5", "claimName": "weights"},
            },
            "training": {"optimizer": {"name": "adam"}, "batchSize": 128, "epochs": 20, "seed": 1},
            "resources": {"cpu": "1500m", "memory": "3Gi"},
        },
    }  # fmt: skip


def test_cifar10_from_a_claim_reaches_its_accuracy(stack, claims, shared_data):
    with (shared_data / "cifar10.tar.gz").open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    stack.apply(session("cifar10", digest, subset=0.2, testSubset=0.4), namespace=claims)
    done = stack.wait_finished(claims, "cifar10", 900)
    assert done["status"]["phase"] == "Succeeded", done["status"]
    assert done["status"]["samples"] == {"train": 8000, "validation": 2000, "test": 2000}
    assert float(done["status"]["accuracy"]) >= 0.68


def test_an_archive_with_another_digest_fails_with_exit_65(stack, claims):
    stack.apply(session("wrong-digest", "0" * 64), namespace=claims)
    done = stack.wait_finished(claims, "wrong-digest")
    failed = condition(done, "Failed")
    assert "exit code 65" in failed["message"]
    assert "dataset.sha256" in failed["message"]
