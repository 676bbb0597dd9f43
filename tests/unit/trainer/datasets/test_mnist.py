from __future__ import annotations

import gzip
import hashlib
import io
import struct

import numpy as np
import pytest

from local_server import LocalServer, content
from pictures import go_on, quiet
from trainingsession_trainer.datasets import cifar, mnist, open_dataset
from trainingsession_trainer.datasets.files import Disk
from trainingsession_trainer.datasets.mirror import DATASETS_VARIABLE, mirrored
from trainingsession_trainer.errors import DataError
from trainingsession_trainer.spec import Dataset, FileSource


def arrays(classes=10, size=(28, 28)):
    """Grey images with two of each class to train on and one to test, as by numpy.savez."""
    made = np.random.default_rng(1)
    return {
        "x_train": made.integers(0, 256, (2 * classes, *size), np.uint8),
        "y_train": np.tile(np.arange(classes, dtype=np.uint8), 2),
        "x_test": made.integers(0, 256, (classes, *size), np.uint8),
        "y_test": np.arange(classes, dtype=np.uint8),
    }


def npz(found):
    out = io.BytesIO()
    np.savez_compressed(out, **found)
    return out.getvalue()


def idx(array):
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.tobytes())


def pairs(split):
    return {(split.image(index)[..., 0].tobytes(), int(split.labels[index])) for index in range(len(split))}


def expected(found, part):
    return {(image.tobytes(), int(label)) for image, label in zip(found[f"x_{part}"], found[f"y_{part}"])}


def loaded_fashion(tmp_path, found, answers):
    tmp_path.joinpath("work").mkdir(exist_ok=True)
    with LocalServer(*answers).running() as server:
        sources = {name: FileSource(f"{server.uri}/{file}") for name, (file, _) in mnist.FASHION.items()}
        return mnist.load_fashion(sources, tmp_path / "work", quiet(), go_on, Disk(tmp_path / "work"))


def test_mnist_is_read_as_keras_keeps_it_grey_becoming_rgb(tmp_path):
    found = arrays()
    body = npz(found)
    with LocalServer(content(body)).running() as server:
        source = FileSource(f"{server.uri}/mnist.npz", None, hashlib.sha256(body).hexdigest())
        read = mnist.load_mnist(source, tmp_path / "work", quiet(), go_on, Disk(tmp_path))
    assert read.class_names == tuple("0123456789")
    for part, split in (("train", read.train), ("test", read.test)):
        assert pairs(split) == expected(found, part)
        assert split.common_shape(go_on) == split.image(0).shape == (28, 28, 3)
        assert np.array_equal(split.image(0)[..., 0], split.image(0)[..., 2])
    assert not (tmp_path / "work/download").exists()


def test_fashion_mnist_is_read_from_its_four_files(tmp_path):
    found = arrays()
    read = loaded_fashion(tmp_path, found, [content(idx(found[name])) for name in mnist.FASHION])
    assert read.class_names[0] == "T-shirt/top"
    assert pairs(read.train) == expected(found, "train")
    assert pairs(read.test) == expected(found, "test")


def other_size(array):
    return gzip.compress(gzip.decompress(idx(array))[:-1])


def longer(array):
    return gzip.compress(gzip.decompress(idx(array)) + b"x")


def of_floats(array):
    return gzip.compress(struct.pack(">HBB", 0, 13, array.ndim) + gzip.decompress(idx(array))[4:])


def bomb(array):
    return gzip.compress(struct.pack(">HBB3I", 0, 8, 3, 2**31, 2**31, 2**31) + array.tobytes())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (other_size, "it has another size than it says"),
        (longer, "it has another size than it says"),
        (of_floats, "it does not begin as an IDX file of bytes"),
        (bomb, "it says that it has 9,903,520,314,283,042,199,192,993,792 bytes"),
        (lambda array: idx(array)[:-20], "Compressed file ended"),
        (lambda array: b"hello", "Not a gzipped file"),
    ],
)
def test_a_damaged_file_of_fashion_mnist_is_named(tmp_path, change, words):
    with pytest.raises(DataError) as caught:
        loaded_fashion(tmp_path, arrays(), [content(change(arrays()["x_train"]))])
    assert str(caught.value).startswith("train-images-idx3-ubyte.gz of Fashion-MNIST is damaged (")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("cifar10", "/data/cifar-10-binary.tar.gz"),
        ("cifar100", "/data/cifar-100-binary.tar.gz"),
        ("mnist", "/data/mnist.npz"),
        ("fashion_mnist", "/data/fashion-mnist/train-images-idx3-ubyte.gz"),
    ],
)
def test_with_a_mirror_every_data_set_comes_from_there_and_its_digest_is_checked(tmp_path, monkeypatch, name, path):
    with LocalServer(content(b"something else")).running() as server:
        monkeypatch.setenv(DATASETS_VARIABLE, f"{server.uri}/data/")
        with pytest.raises(DataError, match=r"spec\.dataset\.sha256 is [0-9a-f]{64}, but http://127.0.0.1:"):
            open_dataset(Dataset(name=name), tmp_path / "work", quiet(), go_on)
        assert server.paths == [path]


def test_without_a_mirror_the_home_counts():
    assert mirrored(cifar.CIFAR10.source, "x", {}) == cifar.CIFAR10.source
    assert mirrored(cifar.CIFAR10.source, "x", {DATASETS_VARIABLE: ""}) == cifar.CIFAR10.source
