from __future__ import annotations

import subprocess
import sys
import threading

import keras
import numpy as np
import pytest

from trainingsession_trainer import extraction, feature_store
from trainingsession_trainer.errors import SpecError, Stopped, StorageError

LOAD = """
import sys, keras, numpy
model = keras.models.load_model(sys.argv[1], safe_mode=True)
numpy.save(sys.argv[3], model.predict(numpy.load(sys.argv[2]), verbose=0))
"""


def test_a_second_session_computes_nothing(case):
    first = case.prepare()
    assert (first.summary.computed, first.summary.reused, first.summary.shards) == (80, 0, 6)
    assert (len(first.train.labels), len(first.validation.labels), len(first.test.labels)) == (48, 12, 20)
    assert case.validated == [((1, 1, 256), 2, 0)]
    assert case.decoded == 80

    said = [line.split("images: ")[1].split(",")[0] for line in case.out.getvalue().splitlines() if " train " in line]
    done = [int(words.split(" of ")[0]) for words in said]
    assert done == sorted(set(done)), "what is done grows, and the end is said once"

    for shard in case.database.feature_shards.find():
        assert shard["facts"]["seconds"] > 0
        assert shard["facts"]["device"] in ("CPU", "GPU")

    second = case.prepare()
    assert (second.summary.computed, second.summary.reused) == (0, 80)
    assert second.summary.key == first.summary.key
    assert case.decoded == 80
    for one, other in ((first.train, second.train), (first.validation, second.validation), (first.test, second.test)):
        assert np.array_equal(one.features, other.features)
        assert np.array_equal(one.labels, other.labels)
    assert "80 reused" not in case.out.getvalue()
    assert "60 of 60, 60 reused" in case.out.getvalue()


def test_a_session_is_stopped_while_its_images_are_measured(case):
    with pytest.raises(Stopped, match="Stopped while the train images were measured"):
        case.prepare(stop=lambda: True)
    assert case.decoded == 0


def test_a_larger_subset_computes_only_the_new_shards(case):
    small = case.prepare(subset=0.3)  # 18 images, in two shards
    assert small.summary.computed == 32 + 20
    assert len(small.train.labels) + len(small.validation.labels) == 18
    large = case.prepare(subset=1)
    assert (large.summary.computed, large.summary.reused) == (28, 52)
    again = case.prepare(subset=0.3)
    assert again.summary.computed == 0
    assert np.array_equal(again.train.features, small.train.features)
    kept = len(small.train.labels)
    assert np.array_equal(large.train.features[:kept], small.train.features)  # membership does not change


@pytest.mark.parametrize("damage", ["chunk changed", "chunk cut", "chunk lost", "file lost", "digest changed"])
def test_damaged_features_are_computed_again(case, damage):
    good = case.prepare()
    shard = case.database.feature_shards.find_one({"index": 1, "set": good.summary.key})
    if damage == "chunk changed":
        chunk = case.database["features.chunks"].find_one({"files_id": shard["file"]})
        data = bytearray(chunk["data"])
        data[-1] ^= 1
        case.database["features.chunks"].update_one({"_id": chunk["_id"]}, {"$set": {"data": bytes(data)}})
    elif damage == "chunk cut":
        chunk = case.database["features.chunks"].find_one({"files_id": shard["file"]})
        case.database["features.chunks"].update_one({"_id": chunk["_id"]}, {"$set": {"data": chunk["data"][:-1]}})
    elif damage == "chunk lost":
        case.database["features.chunks"].delete_many({"files_id": shard["file"]})
    elif damage == "file lost":
        case.database["features.files"].delete_one({"_id": shard["file"]})
    else:
        case.database.feature_shards.update_one({"_id": shard["_id"]}, {"$set": {"sha256": "0" * 64}})

    again = case.prepare()
    assert (again.summary.computed, again.summary.reused) == (16, 64)
    assert np.array_equal(again.train.features, good.train.features)
    assert "Shard 1 of the train features is damaged; it has to be computed again" in case.out.getvalue()
    assert case.prepare().summary.computed == 0
    shards = list(case.database.feature_shards.find())
    # Each shard with its thumbnails, two manifests, no orphan.
    assert case.database["features.files"].count_documents({}) == 2 * len(shards) + 2


def test_two_sessions_at_once_compute_each_shard_once(case):
    found, errors = [], []
    together = threading.Barrier(2)

    def work():
        try:
            together.wait()
            found.append(case.prepare())
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert sum(one.summary.computed for one in found) == 80
    assert case.decoded == 80
    shards = case.database["feature_shards"].count_documents({})
    assert case.database["features.files"].count_documents({}) == 2 * shards + 2, (
        "each has thumbnails, each set a manifest"
    )
    assert np.array_equal(found[0].train.features, found[1].train.features)


def test_the_exported_model_gives_the_stored_features_in_another_process(case, tmp_path):
    prepared = case.prepare(name="ResNet50", arguments={}, pooling="avg")
    check_export(case, prepared, tmp_path)


def test_images_of_different_sizes_have_the_features_of_the_exported_model(mixed_case, tmp_path):
    prepared = mixed_case.prepare(pooling="avg")
    assert prepared.base().image_shape is None
    model = prepared.base().pixels_model()
    split = mixed_case.dataset.test
    for index in range(6):
        features = model(split.image(index)[np.newaxis].astype(np.float32)).numpy()[0]
        assert same(prepared.test.features[index], features)


def check_export(case, prepared, folder):
    split = case.dataset.test
    images = np.stack([split.image(index) for index in range(len(split))]).astype(np.float32)
    np.save(folder / "images.npy", images)
    prepared.base().pixels_model().save(folder / "model.keras")
    command = [sys.executable, "-c", LOAD, folder / "model.keras", folder / "images.npy", folder / "features.npy"]
    subprocess.run(command, check=True, timeout=120)
    assert same(prepared.test.features, np.load(folder / "features.npy"))


def same(stored, computed):
    scale = np.abs(computed).max()
    assert scale > 0
    assert not np.allclose(computed, computed.flat[0], atol=0.01 * scale)
    return np.allclose(stored / scale, computed / scale, atol=2e-3)


def test_what_cannot_work_fails_before_the_data_set_is_opened(case):
    sentences = {
        "no classifier of keras.applications; did you mean ResNet50": {"name": "ResNett50", "arguments": {}},
        r"inputSize is \[64, 64\]; InceptionV3 needs at least \[75, 75\]": {
            "name": "InceptionV3",
            "arguments": {},
            "inputSize": [64, 64],
        },
        r"spec.baseModel.arguments.alfa is no argument of MobileNet .* alpha, depth_multiplier": {
            "arguments": {"alfa": 1}
        },
        r"spec.baseModel.arguments.alpha is 'big'; it must be a number": {"arguments": {"alpha": "big"}},
    }
    for sentence, base in sentences.items():
        with pytest.raises(SpecError, match=sentence):
            case.prepare(**base)
    assert case.opened == 0


def test_a_stopped_session_leaves_its_shards_and_gives_back_its_lease(case):
    with pytest.raises(Stopped):
        case.prepare(stop=lambda: case.decoded >= 40)
    done = case.database.feature_shards.count_documents({"file": {"$type": "objectId"}})
    assert done >= 1
    assert case.database.feature_shards.count_documents({"leaseUntil": {"$exists": True}}) == 0
    prepared = case.prepare()
    assert prepared.summary.reused == 16 * done


def test_useless_features_are_refused(case):
    split = case.dataset.train
    case.train_images.images = [np.zeros((32, 32, 3), np.uint8)] * len(split)
    with pytest.raises(SpecError, match="the same for every image"):
        case.prepare()
    assert case.database.feature_shards.count_documents({}) == 0


def test_an_unfinished_shard_is_taken_over_when_its_lease_has_passed(case, monkeypatch):
    good = case.prepare()
    case.database.feature_shards.update_one(
        {"set": good.summary.key, "index": 2}, {"$unset": {"file": ""}, "$set": {"token": "dead"}}
    )
    waits = []

    def pass_lease(seconds):
        waits.append(seconds)
        case.database.feature_shards.update_many({}, [{"$set": {"leaseUntil": {"$add": ["$$NOW", -1]}}}])

    case.database.feature_shards.update_one(
        {"token": "dead"}, [{"$set": {"leaseUntil": {"$add": ["$$NOW", 3_600_000]}}}]
    )
    monkeypatch.setattr(extraction.time, "sleep", pass_lease)
    again = case.prepare()
    assert waits
    assert again.summary.computed == 16


def test_a_lost_lease_leaves_nothing_behind(case):
    case.prepare()
    store = feature_store.FeatureStore(case.database, lambda: False)
    other = feature_store.FeatureStore(case.database, lambda: False)
    found = feature_store.FeatureSet("key", "train", 16, 16, (3,))
    files = case.database["features.files"].count_documents({})
    values = np.ones((16, 3), np.float16)
    assert store.claim(found, 0)
    assert store.claim(found, 0)  # repeated after a lost answer
    assert not other.claim(found, 0)
    case.database.feature_shards.update_one({"_id": "key/0"}, [{"$set": {"leaseUntil": "$$NOW"}}])
    assert other.claim(found, 0)
    assert not store.renew(found, 0)
    assert other.finish(found, 0, values, {})
    assert not store.finish(found, 0, values, {})
    assert case.database["features.files"].count_documents({}) == files + 1
    assert np.array_equal(other.read(found, 0, other.find(found, 0)), values)


def test_wide_values_are_stored_wide(case):
    assert extraction.choose_type(np.full((2, 2), 1.0, np.float32)) == np.float16
    assert extraction.choose_type(np.full((2, 2), 7e4, np.float32)) == np.float32
    assert extraction.choose_type(np.full((2, 2), 1e-5, np.float32)) == np.float32
    assert keras.config.dtype_policy().name == "float32"


def test_a_shard_that_cannot_be_stored_ends_the_session_and_gives_back_every_lease(case, monkeypatch):
    finish = feature_store.FeatureStore.finish

    def full(self, found, index, features, facts, thumbnails):
        if index == 1:
            raise StorageError("Could not store features (No space left on device); free or enlarge its disk.")
        return finish(self, found, index, features, facts, thumbnails)

    with monkeypatch.context() as patched:
        patched.setattr(feature_store.FeatureStore, "finish", full)
        with pytest.raises(StorageError, match="No space left"):
            case.prepare()
    assert case.database.feature_shards.count_documents({"leaseUntil": {"$exists": True}}) == 0
    assert case.database.feature_shards.count_documents({"file": {"$type": "objectId"}}) == 1
    assert case.prepare().summary.reused == 16
