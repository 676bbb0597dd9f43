from __future__ import annotations

import subprocess
import sys

import numpy as np

from pictures import go_on
from trainingsession_trainer.datasets import digits


def test_there_are_1442_images_to_train_on_and_355_to_test():
    found = digits.load()
    assert (len(found.train), len(found.test)) == (1442, 355)
    assert found.class_names == tuple("0123456789")


def test_both_splits_hold_the_classes_in_the_same_proportions():
    found = digits.load()
    train, test = (np.bincount(split.labels, minlength=10) for split in (found.train, found.test))
    assert np.all(np.abs(test - (train + test) * 355 / 1797) <= 1)


def test_the_images_are_8_by_8_bytes_of_grey():
    found = digits.load()
    assert found.train.common_shape(go_on) == found.test.common_shape(go_on) == (8, 8, 3)
    image = found.train.image(0)
    assert image.dtype == np.uint8
    assert np.array_equal(image[..., 0], image[..., 1])
    assert np.array_equal(image[..., 0], image[..., 2])


def test_the_file_holds_bytes_that_use_their_range():
    with np.load(digits._FILE, allow_pickle=False) as file:
        for name in ("train", "test"):
            assert file[f"{name}_images"].dtype == np.uint8
            assert (file[f"{name}_images"].min(), file[f"{name}_images"].max()) == (0, 255)
            assert file[f"{name}_labels"].dtype == np.uint8


def test_no_image_is_in_both_splits():
    found = digits.load()
    assert not set(found.train.digests) & set(found.test.digests)


def test_the_test_images_for_a_served_model_are_the_split_s():
    images, labels = digits.test_images()
    assert (images.shape, images.dtype, labels.dtype) == ((355, 8, 8, 3), np.uint8, np.int32)
    assert np.array_equal(np.bincount(labels), np.bincount(digits.load().test.labels))


def test_data_sets_are_read_without_tensorflow():
    code = (
        "import sys, trainingsession_trainer.datasets as d; from trainingsession_trainer.datasets import digits;"
        "digits.load(); print(sorted({'tensorflow', 'keras'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"
