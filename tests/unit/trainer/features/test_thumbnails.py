"""Thumbnails come back as they were made, in bounds of size and number; what is stored is never trusted."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from trainingsession_trainer import thumbnails
from trainingsession_trainer.thumbnails import SIDE, Thumbnails, largest_file, picture_in, reduced


def smooth(height, width, seed=0):
    """An image that JPEG keeps well, with a colour of its own."""
    colour = np.random.default_rng(seed).integers(60, 200, 3)
    slope = np.linspace(-40, 40, height)[:, None, None] + np.linspace(-10, 10, width)[None, :, None]
    return np.clip(colour + slope, 0, 255).astype(np.uint8)


def packed(images, split="test", low=0):
    made = Thumbnails(split, low, low + len(images))
    for place, image in enumerate(images):
        made.see(low + place, image)
    return made.packed()


def test_a_small_image_keeps_its_size_and_a_large_one_its_proportions():
    data = packed([smooth(32, 20), smooth(300, 600), smooth(1, 5000), smooth(64, 64)])
    shapes = [picture_in(data, place).shape for place in range(4)]
    assert shapes == [(32, 20, 3), (SIDE // 2, SIDE, 3), (1, SIDE, 3), (SIDE, SIDE, 3)]


def test_every_image_comes_back_as_itself_whatever_the_order_in_which_it_was_seen():
    images = [smooth(40, 40, seed) for seed in range(50)]
    made = Thumbnails("test", 100, 150)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda place: made.see(100 + place, images[place]), reversed(range(50))))
    data = made.packed()
    for place, image in enumerate(images):
        found = picture_in(memoryview(data), place).astype(int)
        assert np.abs(found - image).mean() < 4, place
        assert place == 0 or np.abs(found - images[place - 1]).mean() > 4, place


@pytest.mark.parametrize("split", ["train", "test"])
def test_only_the_first_images_of_a_split_have_one(split, monkeypatch):
    monkeypatch.setitem(thumbnails.MOST, split, 10)
    images = [smooth(8, 8, seed) for seed in range(4)]
    across = packed(images, split, low=8)
    assert [picture_in(across, place) is not None for place in range(4)] == [True, True, False, False]
    assert packed(images, split, low=10) == packed(images, split, low=20) == packed(images, "another") == b""


def test_even_noise_stays_within_the_bytes_that_are_documented():
    noise = [np.random.default_rng(seed).integers(0, 256, (200, 300, 3), np.uint8) for seed in range(20)]
    assert len(packed(noise)) <= 20 * 2048
    assert len(packed(noise)) <= largest_file(20)


def claiming(side):
    """One JPEG of a few bytes that claims to be as large as this."""
    data = bytearray(reduced(smooth(8, 8)))
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = 2 * side.to_bytes(2, "big")
    return np.array([1, 8 + len(data)], "<u4").tobytes() + bytes(data)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"",
        lambda data: data[:3],
        lambda data: data[:10],
        lambda data: data[:-400],
        lambda data: b"\xff" * len(data),
        lambda data: claiming(65),
        lambda data: claiming(65_000),
        lambda data: np.array([1, 8], "<u4").tobytes(),
    ],
    ids=["empty", "no number", "no ends", "cut", "other bytes", "too large", "bomb", "empty image"],
)
def test_what_is_no_thumbnail_is_no_picture(spoil):
    data = packed([smooth(64, 64)])
    assert picture_in(data, 0) is not None
    assert picture_in(spoil(data), 0) is None
    assert picture_in(data, 1) is picture_in(data, -1) is None
