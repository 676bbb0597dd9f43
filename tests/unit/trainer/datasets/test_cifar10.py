from __future__ import annotations

import hashlib

import numpy as np
import pytest

from local_server import LocalServer, content
from pictures import go_on, quiet, stop_at, write_tar
from trainingsession_trainer.config import FileSource
from trainingsession_trainer.datasets import cifar10
from trainingsession_trainer.errors import DataError, Stopped

NAMES = [*cifar10.TRAIN_FILES, *cifar10.TEST_FILES]


def records(count, seed):
    """Records as in the binary version: label, then the red, the green and the blue plane."""
    made = np.random.default_rng(seed).integers(0, 256, (count, cifar10.RECORD), np.uint8)
    made[:, 0] = np.arange(count) % 10
    return made


def packed(tmp_path, change=lambda files: None):
    """Records by file name, and the archive as its home serves it."""
    made = {name: records(20, seed) for seed, name in enumerate(NAMES)}
    contents = {f"cifar-10-batches-bin/{name}": array.tobytes() for name, array in made.items()}
    change(contents)
    return made, write_tar(tmp_path / "cifar.tar.gz", contents, "w:gz").read_bytes()


def loaded(tmp_path, archive, sha256=None, stop=go_on):
    with LocalServer(content(archive)).running() as server:
        source = FileSource(f"{server.uri}/cifar-10-binary.tar.gz", None, sha256)
        return cifar10.load(tmp_path / "work", quiet(), stop, source)


def test_all_records_are_read_with_their_labels(tmp_path):
    made, archive = packed(tmp_path)
    found = loaded(tmp_path, archive, hashlib.sha256(archive).hexdigest())

    assert found.class_names[:2] == ("airplane", "automobile")
    for split, names in ((found.train, cifar10.TRAIN_FILES), (found.test, cifar10.TEST_FILES)):
        expected = {
            record[1:].reshape(3, 32, 32).transpose(1, 2, 0).tobytes(): int(record[0])
            for name in names
            for record in made[name]
        }
        read = {split.image(index).tobytes(): int(split.labels[index]) for index in range(len(split))}
        assert read == expected
        assert len(split) == len(expected)
        assert split.common_shape(go_on) == split.image(0).shape == (32, 32, 3)


def test_the_first_images_hold_every_class(tmp_path):
    _, archive = packed(tmp_path)
    assert sorted(loaded(tmp_path, archive).train.labels[:10].tolist()) == list(range(10))


def test_the_real_archive_is_known_by_its_digest(tmp_path):
    _, archive = packed(tmp_path)
    with pytest.raises(DataError, match=f"spec.dataset.sha256 is {cifar10.SOURCE.sha256}, but http://127.0.0.1:"):
        loaded(tmp_path, archive, cifar10.SOURCE.sha256)


def cut(name):
    return lambda files: files.update({f"cifar-10-batches-bin/{name}": files[f"cifar-10-batches-bin/{name}"][:-1]})


def drop(name):
    return lambda files: files.pop(f"cifar-10-batches-bin/{name}")


def relabel(name):
    return lambda files: files.update({f"cifar-10-batches-bin/{name}": b"\x0a" + bytes(cifar10.RECORD - 1)})


def empty(name):
    return lambda files: files.update({f"cifar-10-batches-bin/{name}": b""})


@pytest.mark.parametrize("name", ["data_batch_3.bin", "test_batch.bin"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (cut, "is missing or damaged; download it again"),
        (drop, "is missing or damaged; download it again"),
        (empty, "is missing or damaged; download it again"),
        (relabel, "holds a label above 9; download it again"),
    ],
)
def test_an_archive_of_something_else_is_refused_with_the_file_s_name(tmp_path, name, change, words):
    _, archive = packed(tmp_path, change(name))
    with pytest.raises(DataError, match=f"^{name} of CIFAR-10 {words}"):
        loaded(tmp_path, archive)


def test_a_session_is_stopped_while_the_archive_is_unpacked(tmp_path):
    _, archive = packed(tmp_path)
    with pytest.raises(Stopped, match="Stopped while the images were unpacked"):
        loaded(tmp_path, archive, stop=stop_at(12))
