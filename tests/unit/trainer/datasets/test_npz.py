from __future__ import annotations

import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from pictures import go_on, quiet, stop_at
from trainingsession_trainer.config import parse_spec
from trainingsession_trainer.datasets import npz, open_dataset
from trainingsession_trainer.datasets.files import RESERVE_BYTES, Disk
from trainingsession_trainer.errors import DataError, SpecError, Stopped

BASE = {"name": "MobileNet"}


def arrays(**changed):
    """Ten RGB images of 3x4 pixels in two classes to train on and four to test."""
    made = np.random.default_rng(1)
    found = {
        "x_train": made.integers(0, 256, (10, 3, 4, 3), np.uint8),
        "y_train": np.arange(10) % 2,
        "x_test": made.integers(0, 256, (4, 3, 4, 3), np.uint8),
        "y_test": np.arange(4) % 2,
    }
    return {name: value for name, value in (found | changed).items() if value is not None}


def saved(tmp_path, found, save=np.savez):
    path = tmp_path / "a.npz"
    save(path, **found)
    return path


def opened(path, stop=go_on, limit=None):
    work = path.parent / "work"
    work.mkdir(exist_ok=True)
    return npz.open_npz(path, "file:///a.npz", work, stop, Disk(work, limit))


def refused(path, **options):
    with pytest.raises(DataError) as caught:
        opened(path, **options)
    return str(caught.value)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_read_image_by_image_with_their_labels(tmp_path, save):
    made = arrays()
    found = opened(saved(tmp_path, made, save))
    assert found.class_names == ("0", "1")
    for part, split in (("train", found.train), ("test", found.test)):
        read = {(split.image(index).tobytes(), int(split.labels[index])) for index in range(len(split))}
        assert read == {(image.tobytes(), label) for image, label in zip(made[f"x_{part}"], made[f"y_{part}"])}
        assert split.common_shape(go_on) == (3, 4, 3)


def test_both_ways_to_save_give_the_same_data_set(tmp_path):
    plain, packed = (opened(saved(tmp_path, arrays(), save)) for save in (np.savez, np.savez_compressed))
    assert plain.train.order_digest == packed.train.order_digest


@pytest.mark.parametrize("channel", [False, True])
def test_grey_becomes_rgb(tmp_path, channel):
    grey = {name: arrays()[name][..., :1] if channel else arrays()[name][..., 0] for name in ("x_train", "x_test")}
    found = opened(saved(tmp_path, arrays(**grey)))
    image = found.train.image(0)
    assert image.shape == (3, 4, 3)
    assert np.array_equal(image[..., 0], image[..., 1])
    out = np.empty((2, 3, 4, 3), np.uint8)
    found.train.read(0, out)
    assert np.array_equal(out[0], image)


def test_names_of_the_classes_are_read_where_they_are_given(tmp_path):
    found = opened(saved(tmp_path, arrays(class_names=np.array(["cat", "dog"]))))
    assert found.class_names == ("cat", "dog")


def test_labels_may_stand_in_a_column_as_keras_gives_those_of_cifar(tmp_path):
    made = arrays()
    found = opened(saved(tmp_path, arrays(y_train=made["y_train"][:, None], y_test=made["y_test"][:, None])))
    assert np.bincount(found.train.labels).tolist() == [5, 5]


def test_the_same_bytes_in_another_shape_are_another_data_set(tmp_path):
    made = arrays()
    turned = {name: made[name].reshape(-1, 4, 3, 3) for name in ("x_train", "x_test")}
    first = opened(saved(tmp_path, made)).train.order_digest
    assert opened(saved(tmp_path, arrays(**turned))).train.order_digest != first


class Harmful:
    def __reduce__(self):
        return (print, ("unpickled",))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"x_train": None}, "file:///a.npz holds no x_train; save x_train, y_train, x_test, y_test"),
        ({"y_test": None}, "file:///a.npz holds no y_test"),
        ({"x_train": np.zeros((10, 3, 4, 3))}, "x_train has the type float64; save pixels from 0 to 255 as uint8"),
        ({"x_test": np.zeros((4, 12), np.uint8)}, "x_test has the shape [4, 12]"),
        ({"x_test": np.zeros((4, 3, 4, 4), np.uint8)}, "x_test has the shape [4, 3, 4, 4]"),
        ({"y_train": np.arange(9) % 2}, "y_train has 9 labels, and x_train has 10 images"),
        ({"y_train": np.eye(2, dtype=int)[np.arange(10) % 2]}, "y_train has the type int64 and the shape [10, 2]"),
        ({"y_train": np.arange(10) / 2}, "y_train has the type float64"),
        ({"y_train": np.arange(10) % 2 - 1}, "y_train holds the label -1; number the classes from 0"),
        ({"y_train": np.arange(10) % 2 * 2}, "y_train holds no image of class 1"),
        ({"y_test": np.zeros(4, int)}, "y_test holds no image of class 1"),
        ({"y_test": np.arange(4)}, "y_test holds an image of class 2"),
        ({"y_train": np.zeros(10, int)}, "y_train holds the class 0 alone"),
        ({"class_names": np.array(["a", "b", "c"])}, "class_names has 3 different names for 2 classes"),
        ({"class_names": np.array(["a", "a"])}, "class_names has 1 different names for 2 classes"),
        ({"class_names": np.array([1, 2])}, "class_names has the type int64"),
        ({"y_train": np.array([Harmful()] * 10, object)}, "y_train cannot be read ("),
        ({"x_train": np.zeros((0, 3, 4, 3), np.uint8), "y_train": np.zeros(0, int)}, "x_train"),
    ],
)
def test_arrays_that_cannot_be_trained_on_are_refused_by_name(tmp_path, capsys, changed, words):
    assert words in refused(saved(tmp_path, arrays(**changed)))
    assert "unpickled" not in capsys.readouterr().out


def test_a_file_that_is_cut_off_damaged_or_something_else_is_refused(tmp_path):
    path = saved(tmp_path, arrays())
    whole = path.read_bytes()
    spoilt = bytearray(whole)
    spoilt[200] ^= 255
    for content in (whole[:-40], whole[:100], b"", bytes(spoilt)):
        path.write_bytes(content)
        assert "; it is damaged, cut off or no npz file: save it again." in refused(path)


def member(path, name, content, **options):
    with zipfile.ZipFile(path, "a", **options) as packed:
        packed.writestr(name, content)


def test_an_array_whose_header_says_more_than_is_there_is_refused(tmp_path):
    path = saved(tmp_path, arrays(x_train=None))
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "|u1", "fortran_order": False, "shape": (2**40, 3, 4)})
    member(path, "x_train.npy", out.getvalue() + bytes(12))
    assert refused(path).startswith("x_train cannot be read (")


def test_an_array_that_is_there_twice_is_refused(tmp_path):
    path = saved(tmp_path, arrays())
    with pytest.warns(UserWarning, match="Duplicate name"):
        member(path, "x_train.npy", b"x")
    assert refused(path) == "file:///a.npz holds x_train twice; save it again."


def test_names_that_lead_elsewhere_are_never_written(tmp_path):
    path = saved(tmp_path, arrays())
    member(path, "../x_train.npy", b"x")
    member(path, "/etc/passwd.npy", b"x")
    opened(path)
    assert sorted(file.name for file in tmp_path.rglob("*.npy")) == [
        "x_test.npy", "x_train.npy", "y_test.npy", "y_train.npy",
    ]  # fmt: skip


def test_what_does_not_fit_is_refused_before_a_byte_is_written(tmp_path):
    path = saved(tmp_path, arrays(x_train=np.zeros((10, 1000, 100), np.uint8)), np.savez_compressed)
    sentence = refused(path, limit=RESERVE_BYTES + 900_000)
    assert sentence.startswith("The arrays of file:///a.npz have 1,00")
    assert sentence.endswith("bytes, and 900,000 may be written; raise spec.resources.ephemeralStorage.")
    assert not list((tmp_path / "work").rglob("*.npy"))


def test_a_bomb_is_refused_before_a_byte_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "most_bytes", lambda path: 100 * path.stat().st_size)
    path = saved(tmp_path, arrays(x_train=np.zeros((10, 1000, 100), np.uint8)), np.savez_compressed)
    assert "may hold" in refused(path)
    assert not list((tmp_path / "work").rglob("*.npy"))


def test_memory_does_not_grow_with_the_arrays(tmp_path):
    path = saved(tmp_path, arrays(x_train=np.zeros((10, 1000, 3000), np.uint8)))
    tracemalloc.start()
    found = opened(path)
    found.train.image(9)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # One image of 3 MB as it is, and the same as RGB; all ten have 30 MB.
    assert peak < 18_000_000


def test_a_session_is_stopped_while_arrays_are_unpacked_or_digested(tmp_path):
    path = saved(tmp_path, arrays())
    with pytest.raises(Stopped, match="Stopped while the arrays were unpacked"):
        opened(path, stop_at(2))
    with pytest.raises(Stopped, match="Stopped while the test images were digested"):
        opened(path, stop_at(4 + 10 + 2))


@pytest.mark.parametrize(
    ("name", "form", "is_npz"),
    [
        ("a.npz", None, True),
        ("A.NPZ", None, True),
        ("a.npz?version=2", None, True),
        ("a.bin", "npz", True),
        ("a.npz", "folder", False),
        ("a.zip", None, False),
        ("npz", None, False),
    ],
)
def test_the_format_is_what_the_spec_says_or_else_the_ending(name, form, is_npz):
    dataset = {"uri": f"https://example.org/{name}", **({"format": form} if form else {})}
    assert parse_spec({"dataset": dataset, "baseModel": BASE}).dataset.is_npz is is_npz


def test_a_file_of_arrays_on_a_disk_is_a_data_set(tmp_path):
    path = saved(tmp_path, arrays())
    spec = parse_spec({"dataset": {"uri": f"file://{path}"}, "baseModel": BASE})
    assert len(open_dataset(spec.dataset, tmp_path / "work", quiet(), go_on).train) == 10
    assert path.exists()


@pytest.mark.parametrize("key", ["format", "revision", "sha256"])
def test_what_describes_an_address_needs_one(key):
    value = {"format": "npz", "revision": "one", "sha256": "0" * 64}[key]
    with pytest.raises(SpecError, match=rf"spec\.dataset\.{key} is .*, which needs uri"):
        parse_spec({"dataset": {"name": "digits", key: value}, "baseModel": BASE})


def test_a_digest_and_a_revision_are_one_too_many():
    dataset = {"uri": "https://example.org/a.tar", "sha256": "0" * 64, "revision": "one"}
    with pytest.raises(SpecError, match="sha256 and revision, which both say what the uri holds; set only one"):
        parse_spec({"dataset": dataset, "baseModel": BASE})
