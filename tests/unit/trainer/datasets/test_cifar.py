from __future__ import annotations

import hashlib

import numpy as np
import pytest

from local_server import LocalServer, content
from pictures import go_on, quiet, stop_at, write_tar
from trainingsession_trainer.datasets import cifar
from trainingsession_trainer.datasets.cifar import CIFAR10, CIFAR100
from trainingsession_trainer.datasets.files import Disk
from trainingsession_trainer.errors import DataError, Stopped
from trainingsession_trainer.spec import FileSource


def files_of(which):
    return [*which.train_files, *which.test_files]


def records(which, count, seed):
    """Records as in the binary version: labels, then the red, the green and the blue plane."""
    made = np.random.default_rng(seed).integers(0, 256, (count, which.record), np.uint8)
    made[:, which.label_bytes - 1] = np.arange(count) % len(which.class_names)
    return made


def packed(tmp_path, which, change=lambda files: None):
    """Records by file name, and the archive as its home serves it."""
    made = {name: records(which, 2 * len(which.class_names), seed) for seed, name in enumerate(files_of(which))}
    contents = {f"cifar-binary/{name}": array.tobytes() for name, array in made.items()}
    change(contents)
    return made, write_tar(tmp_path / "cifar.tar.gz", contents, "w:gz").read_bytes()


def loaded(tmp_path, which, archive, sha256=None, stop=go_on):
    work = tmp_path / "work"
    with LocalServer(content(archive)).running() as server:
        source = FileSource(f"{server.uri}/{which.file}", None, sha256)
        return cifar.load(which, source, work, quiet(), stop, Disk(work))


@pytest.mark.parametrize("which", [CIFAR10, CIFAR100])
def test_all_records_are_read_with_their_labels(tmp_path, which):
    made, archive = packed(tmp_path, which)
    found = loaded(tmp_path, which, archive, hashlib.sha256(archive).hexdigest())

    assert found.class_names == which.class_names
    for split, names in ((found.train, which.train_files), (found.test, which.test_files)):
        expected = {
            record[-3072:].reshape(3, 32, 32).transpose(1, 2, 0).tobytes(): int(record[which.label_bytes - 1])
            for name in names
            for record in made[name]
        }
        read = {split.image(index).tobytes(): int(split.labels[index]) for index in range(len(split))}
        assert read == expected
        assert len(split) == len(expected)
        assert split.common_shape(go_on) == split.image(0).shape == (32, 32, 3)


def test_the_classes_of_cifar_100_are_its_hundred_fine_ones_in_their_order():
    assert len(set(CIFAR100.class_names)) == 100
    assert list(CIFAR100.class_names) == sorted(CIFAR100.class_names)


def test_the_first_images_hold_every_class(tmp_path):
    _, archive = packed(tmp_path, CIFAR10)
    assert sorted(loaded(tmp_path, CIFAR10, archive).train.labels[:10].tolist()) == list(range(10))


def test_the_archive_does_not_stay_on_the_disk(tmp_path):
    _, archive = packed(tmp_path, CIFAR10)
    found = loaded(tmp_path, CIFAR10, archive)
    assert not (tmp_path / "work/download").exists()
    found.train.image(0)


@pytest.mark.parametrize("which", [CIFAR10, CIFAR100])
def test_the_real_archive_is_known_by_its_digest(tmp_path, which):
    _, archive = packed(tmp_path, which)
    with pytest.raises(DataError, match=f"spec.dataset.sha256 is {which.source.sha256}, but http://127.0.0.1:"):
        loaded(tmp_path, which, archive, which.source.sha256)


def cut(name):
    return lambda files: files.update({f"cifar-binary/{name}": files[f"cifar-binary/{name}"][:-1]})


def drop(name):
    return lambda files: files.pop(f"cifar-binary/{name}")


def empty(name):
    return lambda files: files.update({f"cifar-binary/{name}": b""})


@pytest.mark.parametrize(
    ("which", "name"), [(CIFAR10, "data_batch_3.bin"), (CIFAR10, "test_batch.bin"), (CIFAR100, "train.bin")]
)
@pytest.mark.parametrize("change", [cut, drop, empty])
def test_an_archive_of_something_else_is_refused_with_the_file_s_name(tmp_path, which, name, change):
    _, archive = packed(tmp_path, which, change(name))
    with pytest.raises(DataError, match=f"^{name} of {which.title} is missing or damaged; download it again"):
        loaded(tmp_path, which, archive)


@pytest.mark.parametrize(("which", "name", "most"), [(CIFAR10, "test_batch.bin", 9), (CIFAR100, "test.bin", 99)])
def test_a_label_that_is_no_class_is_refused(tmp_path, which, name, most):
    record = bytes([most + 1]) * which.label_bytes + bytes(3072)
    _, archive = packed(tmp_path, which, lambda files: files.update({f"cifar-binary/{name}": record}))
    with pytest.raises(DataError, match=f"^{name} of {which.title} holds a label above {most}; download it again"):
        loaded(tmp_path, which, archive)


def test_a_session_is_stopped_while_the_archive_is_unpacked(tmp_path):
    _, archive = packed(tmp_path, CIFAR10)
    with pytest.raises(Stopped, match="Stopped while the images were unpacked"):
        loaded(tmp_path, CIFAR10, archive, stop=stop_at(12))
