"""The digest by which the operator finds the features that the trainer stored: both compute the same."""

from __future__ import annotations

import copy
import itertools

import pytest

from trainingsession_operator.recipe import recipe_digest as operators
from trainingsession_trainer.recipe import recipe_digest as trainers
from trainingsession_trainer.yaml12 import load_all

SHA, OTHER = "a" * 64, "b" * 64
PLAIN = {"dataset": {"name": "cifar10"}, "baseModel": {"name": "MobileNet", "arguments": {"alpha": 0.25}}}
DATASETS = (
    {"name": "digits"},
    {"uri": "https://example.org/a.tar", "sha256": SHA},
    {"uri": "https://example.org/a.tar"},
    {"uri": "file:///a.tar", "claimName": "data", "sha256": OTHER, "subset": 0.5},
    {"uri": "file:///photos/", "claimName": "data", "revision": "2024-05-01"},
    {"uri": "https://example.org/a.npz", "sha256": SHA},
    {"uri": "https://example.org/a.bin", "sha256": SHA, "format": "npz"},
    {"uri": "https://example.org/a.npz", "sha256": SHA, "format": "folder"},
)
BASES = (
    {"name": "ResNet50"},
    {"name": "ResNet50", "weights": "none", "inputSize": [64, 64], "pooling": "avg", "precision": "bfloat16"},
    {
        "name": "MobileNet",
        "arguments": {"alpha": 1.0, "dropout": 1e-3},
        "weightsFrom": {"uri": "https://b", "sha256": SHA},
    },
    {"name": "MobileNet", "weightsFrom": {"uri": "https://b/ä.h5"}},
    {"name": "InceptionV3", "layer": "mixed7"},
)


def changed(path, value):
    spec = copy.deepcopy(PLAIN)
    *way, last = path.split(".")
    place = spec
    for key in way:
        place = place.setdefault(key, {})
    place[last] = value
    return spec


@pytest.mark.parametrize(("dataset", "base"), list(itertools.product(DATASETS, BASES)))
def test_both_sides_compute_the_same(dataset, base):
    spec = {"dataset": dataset, "baseModel": base, "training": {"epochs": 3}}
    assert operators(spec) == trainers(spec)


def test_both_sides_compute_the_same_for_every_sample(repo):
    samples = sorted((repo / "manifests/samples").glob("*.yaml"))
    digests = {sample.name: operators(load_all(sample.read_text())[0]["spec"]) for sample in samples}
    assert digests == {sample.name: trainers(load_all(sample.read_text())[0]["spec"]) for sample in samples}
    assert any(digests.values())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("dataset", {"name": "digits"}),
        ("dataset", {"uri": "https://example.org/a.tar", "sha256": SHA}),
        ("baseModel.name", "ResNet50"),
        ("baseModel.arguments", {"alpha": 0.5}),
        ("baseModel.weights", "none"),
        ("baseModel.weightsFrom", {"uri": "https://b", "sha256": SHA}),
        ("baseModel.inputSize", [64, 64]),
        ("baseModel.pooling", "avg"),
        ("baseModel.precision", "bfloat16"),
    ],
)
def test_what_decides_the_features_decides_the_digest(path, value):
    assert trainers(changed(path, value)) != trainers(PLAIN)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("dataset.subset", 0.1),
        ("dataset.testSubset", 0.1),
        ("dataset.validationSplit", 0.1),
        ("training", {"epochs": 3}),
        ("head", {"standardize": False}),
        ("resources", {"gpus": 0}),
        ("baseModel.weights", "imagenet"),
        ("baseModel.weights", None),
        ("baseModel.pooling", "none"),
        ("baseModel.precision", "float32"),
    ],
)
def test_what_only_uses_the_features_or_says_a_default_does_not(path, value):
    assert trainers(changed(path, value)) == trainers(PLAIN)


def test_one_and_one_point_zero_are_the_same():
    assert trainers(changed("baseModel.arguments", {"alpha": 1.0})) == trainers(
        changed("baseModel.arguments", {"alpha": 1})
    )


def test_the_address_does_not_matter_where_the_content_is_named():
    first = changed("dataset", {"uri": "https://example.org/a.tar", "sha256": SHA})
    assert trainers(first) == trainers(changed("dataset", {"uri": "https://mirror.org/b.tar", "sha256": SHA}))


def test_a_revision_names_what_an_address_holds_there_and_then():
    first = {"uri": "file:///photos", "claimName": "data", "revision": "one"}
    others = ({"uri": "file:///other"}, {"claimName": "mine"}, {"revision": "two"})
    digests = {trainers(changed("dataset", first | other)) for other in ({}, *others)}
    assert len(digests) == 4
    assert None not in digests


def test_arrays_and_folders_in_the_same_file_are_two_data_sets():
    def digest(name, **fields):
        return trainers(changed("dataset", {"uri": f"https://example.org/{name}", "sha256": SHA, **fields}))

    assert digest("a.npz") == digest("a.npz?x=1") == digest("A.NPZ") == digest("a.zip", format="npz")
    assert digest("a.zip") == digest("a.npz", format="folder") == digest("a.zip?x=.npz") != digest("a.npz")


@pytest.mark.parametrize(
    ("path", "value"),
    [("dataset", {"uri": "https://example.org/a.tar"}), ("baseModel.weightsFrom", {"uri": "https://example.org/w.h5"})],
)
def test_an_address_alone_says_nothing_of_its_content(path, value):
    assert trainers(changed(path, value)) is None
