"""Features that an earlier session stored: found by the spec alone, held while needed, never trusted blindly."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from bson import ObjectId

from trainingsession_operator.sweep import sweep
from trainingsession_trainer import feature_catalog
from trainingsession_trainer.datasets import KnownFile
from trainingsession_trainer.errors import AcceleratorError
from trainingsession_trainer.file_digests import FileDigests
from trainingsession_trainer.shard_files import ShardFiles


def equal(one, other):
    parts = ((one.train, other.train), (one.validation, other.validation), (one.test, other.test))
    return all(np.array_equal(a.features, b.features) and np.array_equal(a.labels, b.labels) for a, b in parts)


def damage_a_shard(case, split="train"):
    shard = case.database.feature_shards.find_one({"set": {"$in": keys(case, split)}, "index": 1})
    case.database["features.chunks"].delete_many({"files_id": shard["file"]})


def keys(case, split):
    return [found["_id"] for found in case.database.feature_sets.find({"split": split})]


def test_a_known_session_opens_neither_images_nor_base_model(case):
    first = case.prepare(known=True)
    opened, said = case.opened, len(case.out.getvalue())
    second = case.prepare(known=True)
    assert equal(first, second)
    assert case.opened == opened == 1
    assert (second.summary.computed, second.summary.reused, second.summary.shards) == (0, 80, 6)
    assert second.class_names == ("red", "green")
    log = case.out.getvalue()[said:]
    assert "The features of all 80 images are stored: no image is read" in log
    assert "Building" not in log
    assert second.base().image_shape == (32, 32, 3)
    assert "Building MobileNet" in case.out.getvalue()[said:]


def test_a_smaller_subset_of_known_images_opens_nothing(case):
    whole = case.prepare(known=True)
    part = case.prepare(subset=0.3, known=True)
    assert case.opened == 1
    assert len(part.train.labels) + len(part.validation.labels) == 18
    assert np.array_equal(part.train.features, whole.train.features[: len(part.train.labels)])


def test_a_larger_subset_of_known_images_computes_only_the_new_ones(case):
    case.prepare(subset=0.3, known=True)
    large = case.prepare(known=True)
    assert case.opened == 2
    assert (large.summary.computed, large.summary.reused) == (28, 52)


def test_a_set_that_was_made_from_an_address_is_found_once_somebody_knows_its_content(case):
    case.prepare()
    case.prepare(known=True)
    assert case.opened == 2
    case.prepare(known=True)
    assert case.opened == 2


@pytest.mark.parametrize(
    "change",
    [
        {"description.extractorVersion": 0},
        {"description.weights.keras": "2.0"},
        {"split": "other"},
    ],
)
def test_a_set_that_this_trainer_would_compute_differently_is_not_used(case, change):
    case.prepare(known=True)
    case.database.feature_sets.update_many({}, {"$set": change})
    case.prepare(known=True)
    assert case.opened == 2


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_damaged_shard_of_known_features_is_computed_again(case, split):
    first = case.prepare(known=True)
    damage_a_shard(case, split)
    second = case.prepare(known=True)
    assert equal(first, second)
    assert second.summary.computed == (16 if split == "train" else 4)
    assert case.opened == 2


def test_all_damaged_shards_are_computed_again_at_once(case):
    first = case.prepare(known=True)
    case.database["features.chunks"].update_many({}, {"$set": {"data": b"nothing"}})
    second = case.prepare(known=True)
    assert equal(first, second)
    assert second.summary.computed == 80
    assert case.opened == 2


def test_a_damaged_manifest_is_written_again(case):
    first = case.prepare(known=True)
    files = case.database["features.files"].count_documents({})
    found = case.database.feature_sets.find_one({"split": "train"})
    case.database["features.chunks"].update_one({"files_id": found["manifest"]["file"]}, {"$set": {"data": b"bad"}})
    assert equal(first, case.prepare(known=True))
    assert case.opened == 2
    assert equal(first, case.prepare(known=True))
    assert case.opened == 2
    assert case.database["features.files"].count_documents({}) == files


def test_without_a_gpu_missing_and_damaged_features_end_the_attempt(case):
    with pytest.raises(AcceleratorError, match="Not all features are stored"):
        case.prepare(known=True, stored_only=True)
    case.prepare(known=True)
    assert case.prepare(known=True, stored_only=True).summary.computed == 0
    damage_a_shard(case)
    with pytest.raises(AcceleratorError, match=r"Shard 1 of the train features is damaged"):
        case.prepare(known=True, stored_only=True)
    with pytest.raises(AcceleratorError, match="Not all features are stored"):
        case.prepare(known=True, stored_only=True)
    assert case.opened == 1


def test_the_seconds_that_others_computed_are_said(case):
    case.prepare(known=True)
    shards = case.database.feature_shards
    shards.update_many({}, {"$set": {"facts.seconds": 10.0, "facts.device": "CPU"}})
    shards.update_many({"index": 0}, {"$set": {"facts.device": "GPU"}})
    summary = case.prepare(known=True).summary
    assert (summary.seconds_saved, summary.gpu_seconds_saved) == (60.0, 20.0)
    assert "which saves 1 min 00 s of computing" in case.out.getvalue()


def test_helpers_compute_beside_the_first_pod_and_write_each_shard_once(case):
    def help_out():
        with case.features(known=True) as features:
            features.help(case.validate)

    with case.features(known=True) as features:
        helpers = [threading.Thread(target=help_out) for _ in range(2)]
        for helper in helpers:
            helper.start()
        prepared = features.prepare(case.validate)
        for helper in helpers:
            helper.join()
    assert prepared.summary.computed + prepared.summary.reused == 80
    assert case.decoded == 80
    assert case.database.feature_shards.count_documents({"file": {"$type": "objectId"}}) == 6


def test_a_helper_does_not_wait_for_what_another_computes(case):
    case.prepare(known=True)
    busy = {"$unset": {"file": ""}, "$set": {"token": "another"}}
    case.database.feature_shards.update_one({"index": 0, "set": keys(case, "train")[0]}, busy)
    case.database.feature_shards.update_one(
        {"token": "another"}, [{"$set": {"leaseUntil": {"$add": ["$$NOW", 3_600_000]}}}]
    )
    with case.features(known=True) as features:
        features.help(case.validate)
    assert case.database.feature_shards.count_documents({"token": "another", "file": None}) == 1


def test_sets_are_held_while_an_attempt_runs(case):
    with case.features(known=True) as features:
        features.prepare(case.validate)
        uses = list(case.database.feature_uses.find())
        assert {use["set"] for use in uses} == set(keys(case, "train") + keys(case, "test"))
        assert {use["session"] for use in uses} == {"uid"}
        passed = {"$expr": {"$lt": ["$until", {"$add": ["$$NOW", 500_000]}]}}
        assert case.database.feature_uses.count_documents(passed) == 0
    assert case.database.feature_uses.count_documents({}) == 0


def test_a_use_is_renewed_while_its_holder_runs(case, monkeypatch):
    monkeypatch.setattr(feature_catalog, "RENEWAL_SECONDS", 0.01)
    with feature_catalog.Use(case.database, "uid", "attempt") as use:
        use.hold("key")
        case.database.feature_uses.delete_many({})
        with case.database.feature_uses.watch(max_await_time_ms=100) as changes:
            for change in changes:
                if change["operationType"] in ("insert", "update"):
                    break
        assert case.database.feature_uses.find_one()["set"] == "key"


def test_a_set_whose_removal_was_interrupted_is_removed_and_made_anew(case):
    first = case.prepare(known=True)
    half = case.database.feature_shards.find_one({"set": first.summary.key, "index": 1})
    case.database.feature_sets.update_many({}, {"$set": {"evicting": ObjectId()}})
    case.database.feature_shards.delete_one({"_id": half["_id"]})  # its file is an orphan for the sweeper
    second = case.prepare(known=True)
    assert equal(first, second)
    assert second.summary.computed == 80
    assert case.database.feature_sets.count_documents({"evicting": {"$exists": True}}) == 0
    shards = list(case.database.feature_shards.find())
    named = {shard["file"] for shard in shards} | {shard["thumbnails"]["file"] for shard in shards}
    named |= {found["manifest"]["file"] for found in case.database.feature_sets.find()}
    there = {file["_id"] for file in case.database["features.files"].find()}
    assert there - named == {half["file"], half["thumbnails"]["file"]}
    assert named <= there


def test_a_sweep_removes_what_killed_trainers_left_and_nothing_that_is_used(case):
    first = case.prepare(known=True)
    left = ShardFiles(case.database, "features")
    left.write(ObjectId(), "a shard that was never finished", b"x" * 3_000_000)
    damage_a_shard(case)
    case.prepare(known=True)
    files = case.database["features.files"].count_documents({})
    removed = sweep(case.database, timedelta(0))
    assert [each.count for each in removed] == [1], removed
    assert case.database["features.files"].count_documents({}) == files - 1
    assert sweep(case.database, timedelta(0)) == []
    again = case.prepare(known=True)
    assert again.summary.computed == 0
    assert equal(first, again)


def test_digests_of_files_stay_as_long_as_the_features_that_they_led_to(case):
    case.source = {"uri": "file:///pictures", "claimName": "flowers"}
    kept = FileDigests(case.database, lambda: False)
    kept.remember("flowers file:///pictures", {"red/1.png": KnownFile(1, 2, b"x" * 32)})
    case.prepare()
    assert sweep(case.database, timedelta(0)) == []
    case.prepare()
    assert [found["digestsOf"] for found in case.database.feature_sets.find()] == [["flowers file:///pictures"]] * 2
    case.database.feature_sets.delete_many({})
    sweep(case.database, timedelta(0))
    assert kept.recall("flowers file:///pictures") == {}
    assert case.database.dataset_facts.count_documents({}) == 0


def test_warnings_are_the_same_from_images_and_from_stored_features(case):
    train, test = case.dataset.train, case.dataset.test
    # The first test image is a training image of the other class.
    other = next(digest for digest, label in zip(train.digests, train.labels) if label != test.labels[0])
    case.dataset = replace(case.dataset, test=replace(test, digests=(other, *test.digests[1:])))
    pairs = np.array([[3, 5], [4, 19], [59, 7]], "<i4")
    first = case.prepare(known=True)
    case.database.dataset_facts.update_one({}, {"$set": {"nearDuplicates": pairs.tobytes()}})
    second = case.prepare(known=True)
    assert case.opened == 1
    assert [warning.reason for warning in first.warnings] == ["DuplicatesInTest", "LabelsDisagree"]
    assert {warning.reason: warning.message.split(" ")[0] for warning in second.warnings} == {
        "DuplicatesInTest": "1",
        "NearDuplicatesInTest": "3",
        "LabelsDisagree": "1",
    }
    assert [warning.message.split(" ")[0] for warning in case.prepare(subset=0.3, known=True).warnings][1] == "2"


def test_near_duplicates_are_looked_for_once_whatever_the_base_model(case):
    case.prepare()
    compared = case.train_images.compared + case.test_images.compared
    assert compared >= 80
    case.prepare(pooling="avg")
    assert case.train_images.compared + case.test_images.compared == compared
    assert case.out.getvalue().count("Looking for near duplicates among 80 images") == 1
    # A smaller subset is covered by what is known.
    case.prepare(pooling="max", subset=0.3)
    assert case.out.getvalue().count("Looking for near duplicates") == 1


def test_a_subset_is_compared_alone_and_a_larger_one_anew(case):
    case.prepare(subset=0.3)
    assert case.train_images.compared < 60
    case.prepare()
    assert "among 38 images" in case.out.getvalue()
    assert "among 80 images" in case.out.getvalue()
    assert "Training images by class: red 30, green 30" in case.out.getvalue()


def pictures_of_all(prepared):
    parts = ("train", "validation", "test")
    return {part: prepared.pictures(part, list(range(len(prepared.digests[part])))) for part in parts}


def test_a_session_that_reads_no_image_has_thumbnails_of_the_right_images(mixed_case):
    case = mixed_case
    images = pictures_of_all(case.prepare(known=True))
    thumbnails = pictures_of_all(case.prepare(known=True))
    assert case.opened == 1
    for part, wanted in images.items():
        assert len(wanted) == {"train": 48, "validation": 12, "test": 20}[part]
        for image, thumbnail in zip(wanted, thumbnails[part]):
            assert thumbnail.shape == image.shape, "none is larger than 64 pixels"
            # The class is a colour.
            assert np.abs(thumbnail.mean(axis=(0, 1)) - image.mean(axis=(0, 1))).max() < 10


def test_sets_from_before_thumbnails_and_damaged_ones_give_features_without_pictures(case):
    first = case.prepare(known=True)
    shard = case.database.feature_shards.find_one({"set": {"$in": keys(case, "test")}, "index": 0})
    damage = {"$set": {"data": b"nothing"}}
    case.database["features.chunks"].update_one({"files_id": shard["thumbnails"]["file"]}, damage)
    case.database.feature_shards.update_many({"set": first.summary.key}, {"$unset": {"thumbnails": ""}})
    second = case.prepare(known=True)
    assert equal(first, second)
    assert (case.opened, second.summary.computed) == (1, 0)
    found = pictures_of_all(second)
    assert all(picture is None for picture in found["train"] + found["validation"])
    assert [picture is not None for picture in found["test"]] == [False] * 16 + [True] * 4


def test_a_damaged_shard_goes_with_its_thumbnails(case):
    case.prepare(known=True)
    files = case.database["features.files"].count_documents({})
    damage_a_shard(case)
    second = case.prepare(known=True)
    assert second.summary.computed == 16
    assert case.database["features.files"].count_documents({}) == files
    assert sweep(case.database, timedelta(0)) == []
