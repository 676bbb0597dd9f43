from __future__ import annotations

from types import SimpleNamespace

import pytest

from trainingsession_trainer.feature_sets import FeatureSet, describe_set, images_per_shard, key_of

BASE = {
    "name": "MobileNet",
    "arguments": {"alpha": 0.25},
    "weights": {"sha256": "ab"},
    "input_size": (64, 64),
    "pooling": "avg",
    "precision": "float32",
    "preprocessing": "tf",
    "antialias": False,
    "layer": None,
}


def key(split="train", order="00", **changes):
    return key_of(describe_set(SimpleNamespace(**{**BASE, **changes}), split, order))


def test_the_same_features_have_the_same_key_in_every_version():
    assert key() == key()
    # Golden: when this changes, every stored feature is computed again.
    assert key() == "27a63b9a18ead57972a50a1ced860cd1d6351edf0b58c0e72c8689615cfbd1d6"


@pytest.mark.parametrize(
    "changes",
    [
        {"split": "test"},
        {"order": "01"},
        {"name": "MobileNetV2"},
        {"arguments": {"alpha": 0.5}},
        {"weights": {"sha256": "ac"}},
        {"input_size": (64, 96)},
        {"pooling": "none"},
        {"precision": "bfloat16"},
        {"preprocessing": "caffe"},
        {"antialias": True},
        {"layer": "conv_pw_11_relu"},
    ],
)
def test_whatever_decides_the_features_is_in_the_key(changes):
    assert key(**changes) != key()


def test_the_order_of_writing_is_not_in_the_key():
    assert key_of({"a": 1, "b": {"c": 2, "d": 3}}) == key_of({"b": {"d": 3, "c": 2}, "a": 1})


@pytest.mark.parametrize(
    ("shape", "images"),
    [((2, 2, 2048), 2048), ((8, 8, 2048), 128), ((256,), 4096), ((1,), 4096), ((32, 32, 2048), 16)],
)
def test_shards_are_of_about_32_mb(shape, images):
    assert images_per_shard(shape) == images


def test_shards_cover_the_images_and_the_last_may_be_short():
    found = FeatureSet("k", "train", 50, 16, (4,))
    assert [found.bounds(index) for index in range(4)] == [(0, 16), (16, 32), (32, 48), (48, 50)]
    assert found.shape(3) == (2, 4)
    assert [found.shards_for(images) for images in (0, 1, 16, 17, 50)] == [0, 1, 1, 2, 4]
