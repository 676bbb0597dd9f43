from __future__ import annotations

import hashlib
import io
import threading
import time

import numpy as np
import pytest
from PIL import Image

from pictures import go_on, stop_at, write_folder
from trainingsession_trainer.datasets import near_duplicates as search
from trainingsession_trainer.datasets.images import FileImages
from trainingsession_trainer.datasets.near_duplicates import difference_hash
from trainingsession_trainer.datasets.splits import ArrayImages, make_split
from trainingsession_trainer.errors import DataError, Stopped


def photograph(seed, size=64):
    """Smooth shapes, as photographs have them."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)


def split_of(name, images):
    arrays = np.stack([np.asarray(image) for image in images])
    labels = np.arange(len(images), dtype=np.int32) % 2
    digests = [hashlib.sha256(image.tobytes()).digest() for image in arrays]
    return make_split(name, ("a", "b"), labels, digests, ArrayImages(arrays))


def jpeg(image, quality):
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return Image.open(out).convert("RGB")


def near_duplicates(train, test, stop):
    return search.near_duplicates(train, test, (len(train), len(test)), stop)


def smaller_and_back(image):
    return image.resize((40, 40), Image.Resampling.LANCZOS).resize(image.size, Image.Resampling.BICUBIC)


def brighter(image):
    return image.point(lambda value: min(255, value + 12))


TRAIN = [photograph(seed) for seed in range(40)]
FRESH = [photograph(seed) for seed in range(100, 110)]


@pytest.mark.parametrize("change", [lambda image: jpeg(image, 50), smaller_and_back, brighter])
def test_a_changed_copy_is_found_with_what_it_was_made_of(change):
    train, test = split_of("train", TRAIN), split_of("test", [change(image) for image in TRAIN[:4]] + FRESH)
    pairs = near_duplicates(train, test, go_on)
    found = {(int(train.places[a]), int(test.places[b])) for a, b in pairs}
    assert found == {(0, 0), (1, 1), (2, 2), (3, 3)}


def test_other_images_and_identical_ones_are_none():
    assert near_duplicates(split_of("train", TRAIN), split_of("test", FRESH + TRAIN[:3]), go_on).tolist() == []


def test_images_of_one_colour_are_nobody_s_copy():
    flat = [Image.new("RGB", (64, 64), (value, value, value)) for value in range(20)]
    assert near_duplicates(split_of("train", flat[:10]), split_of("test", flat[10:]), go_on).tolist() == []


def test_a_hash_says_which_pixels_are_brighter_than_their_left_neighbours():
    ramp = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1))
    assert difference_hash(ramp) == 2**64 - 1
    assert difference_hash(ramp[:, ::-1].copy()) == 0
    half = ramp.copy()
    half[:, 16:] = half[:, 15:16]
    assert f"{difference_hash(half):064b}" == "11111000" * 8


def test_blocks_change_nothing(monkeypatch):
    train = split_of("train", TRAIN)
    test = split_of("test", [jpeg(image, 60) for image in TRAIN[20:32]])
    whole = near_duplicates(train, test, go_on)
    monkeypatch.setattr(search, "_BLOCK", 5)
    monkeypatch.setattr(search, "_AT_ONCE", 7)
    assert near_duplicates(train, test, go_on).tolist() == whole.tolist()
    assert len(whole) == 12


def test_too_many_images_are_not_compared(monkeypatch):
    monkeypatch.setattr(search, "MOST_COMPARISONS", 399)
    assert near_duplicates(split_of("train", TRAIN), split_of("test", FRESH), go_on) is None


def test_tiny_images_say_too_little():
    train = [image.resize((8, 8)) for image in TRAIN]
    assert near_duplicates(split_of("train", train), split_of("test", [brighter(train[0])]), go_on).tolist() == []


def files_split(tmp_path, name, contents):
    write_folder(tmp_path / name, contents)
    paths = [tmp_path / name / file for file in contents]
    digests = [hashlib.sha256(content).digest() for content in contents.values()]
    images = FileImages(paths, [f"{name}/{file}" for file in contents])
    return make_split(name, ("a", "b"), np.arange(len(contents), dtype=np.int32) % 2, digests, images)


def encoded(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def test_files_of_other_kinds_and_sizes_are_found_too(tmp_path):
    large = [photograph(seed, 640) for seed in range(12)]
    train = files_split(tmp_path, "train", {f"{i}.jpg": encoded(image, "JPEG") for i, image in enumerate(large)})
    test = files_split(
        tmp_path, "test", {f"{i}.png": encoded(image.resize((100, 100)), "PNG") for i, image in enumerate(large[:3])}
    )
    assert len(near_duplicates(train, test, go_on)) == 3


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    train = files_split(tmp_path, "train", {"0.png": encoded(TRAIN[0], "PNG"), "1.png": b"no image"})
    test = files_split(tmp_path, "test", {"0.png": encoded(FRESH[0], "PNG")})
    with pytest.raises(DataError, match=r"^train/1\.png cannot be read"):
        near_duplicates(train, test, go_on)


def test_a_session_is_stopped_meanwhile():
    with pytest.raises(Stopped, match="Stopped while near duplicates were looked for"):
        near_duplicates(split_of("train", TRAIN), split_of("test", FRESH), stop_at(2))


def test_only_the_first_images_of_both_are_read_and_compared(tmp_path):
    train = files_split(tmp_path, "train", {f"{i}.png": encoded(image, "PNG") for i, image in enumerate(TRAIN[:8])})
    test = files_split(
        tmp_path, "test", {f"{i}.png": encoded(brighter(image), "PNG") for i, image in enumerate(TRAIN[:8])}
    )
    everything = {(int(train.places[a]), int(test.places[b])) for a, b in near_duplicates(train, test, go_on)}
    assert everything == {(place, place) for place in range(8)}
    for name, split in (("train", train), ("test", test)):
        (tmp_path / name / f"{int(split.places[6])}.png").write_bytes(b"no image")
    pairs = search.near_duplicates(train, test, (5, 4), go_on)
    first = set(train.places[:5].tolist()) & set(test.places[:4].tolist())
    assert {(int(train.places[a]), int(test.places[b])) for a, b in pairs} == {(place, place) for place in first}


class Watched(ArrayImages):
    """Counts how many images are decoded at the same time."""

    def __init__(self, array):
        super().__init__(array)
        self.now, self.most, self.lock = 0, 0, threading.Lock()

    def grey(self, index):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.005)
        with self.lock:
            self.now -= 1
        return super().grey(index)


@pytest.mark.parametrize(("threads", "pixels", "most"), [("1", 1 << 25, 1), ("4", 64 * 64, 1), ("4", 3 * 64 * 64, 3)])
def test_few_images_are_decoded_at_once(monkeypatch, threads, pixels, most):
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", threads)
    monkeypatch.setattr(search, "DECODED_PIXELS", pixels)
    images = Watched(np.stack([np.asarray(image) for image in TRAIN]))
    digests = [bytes([number]) * 32 for number in range(len(TRAIN))]
    train = make_split("train", ("a", "b"), np.arange(len(TRAIN), dtype=np.int32) % 2, digests, images)
    assert len(near_duplicates(train, split_of("test", FRESH), go_on)) == 0
    assert images.most == most
