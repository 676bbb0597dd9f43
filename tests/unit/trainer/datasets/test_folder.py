from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import numpy as np
import pytest

from pictures import go_on, layout, png, quiet, stop_at, write_folder, write_tar, write_zip
from trainingsession_trainer.datasets.folder import open_folder
from trainingsession_trainer.errors import DataError, Stopped
from trainingsession_trainer.reporting import Reporter

BOTH = layout(train__cat=6, train__dog=3, test__cat=2, test__dog=1)


def opened(tmp_path, files, stop=go_on):
    return open_folder(write_folder(tmp_path / "source", files), "file:///flowers", tmp_path / "work", quiet(), stop)


def counts(split):
    return np.bincount(split.labels).tolist()


@pytest.mark.parametrize("prefix", ["", "flowers/", "train-and-test/"])
@pytest.mark.parametrize("form", ["folder", "tar", "zip"])
def test_train_and_test_folders_are_found_also_below_one_common_folder(tmp_path, prefix, form):
    files = {prefix + name: content for name, content in BOTH.items()}
    write = {"folder": write_folder, "tar": write_tar, "zip": write_zip}[form]
    source = write(tmp_path / "source", files)

    found = open_folder(source, "file:///source", tmp_path / "work", quiet(), go_on)

    assert found.class_names == ("cat", "dog")
    assert (counts(found.train), counts(found.test)) == ([6, 3], [2, 1])


def test_the_data_set_is_the_same_however_it_is_packed(tmp_path):
    sources = [
        write_folder(tmp_path / "folder", BOTH),
        write_tar(tmp_path / "a.tar.gz", dict(reversed(BOTH.items())), "w:gz"),
        write_zip(tmp_path / "a.zip", {f"top/{name}": content for name, content in BOTH.items()}),
    ]
    found = [open_folder(source, "", tmp_path / str(i), quiet(), go_on) for i, source in enumerate(sources)]
    assert len({each.train.order_digest for each in found}) == 1
    assert all(np.array_equal(each.train.image(0), found[0].train.image(0)) for each in found)


def test_class_folders_alone_keep_a_fifth_of_every_class_for_the_test(tmp_path):
    found = opened(tmp_path, layout(cat=10, dog=7, eel=5))
    assert (counts(found.train), counts(found.test)) == ([8, 6, 4], [2, 1, 1])
    assert not set(found.train.digests) & set(found.test.digests)


def test_the_fifth_is_chosen_by_content_and_not_by_name(tmp_path):
    files = layout(cat=10, dog=10)
    renamed = {
        f"{name.split('/')[0]}/{999 - index}.png": content for index, (name, content) in enumerate(files.items())
    }
    first, second = opened(tmp_path / "a", files), opened(tmp_path / "b", renamed)
    assert first.test.digests == second.test.digests


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (layout(train__cat=2, train__dog=2), "The data set has no folder test/; add it"),
        (layout(test__cat=2, test__dog=2, other__cat=2), "The data set has no folder train/; add it"),
        (layout(test__cat=2, test__dog=2), "The data set has no folder train/; add it"),
        (layout(train__cat=2, test__cat=2), "has one class, cat; a classifier needs at least two"),
        (layout(cat=9), "has one class, cat; a classifier needs at least two"),
        (layout(train__cat=2, train__dog=2, test__cat=2), "Class dog has no image in test/"),
        (layout(train__cat=2, train__eel=2, test__cat=2, test__eel=1, test__dog=1), "Class dog has no image in train/"),
        (layout(cat=5, dog=4), "Class dog has 4 images; at least 5 are needed"),
        ({**BOTH, "train/lost.png": png(99)}, "train/lost.png lies in no class folder"),
        ({**layout(cat=5, dog=5), "lost.png": png(99)}, "lost.png lies in no class folder"),
        ({"train/cat/readme.txt": b"hello"}, "file:///flowers holds no image (.bmp, .gif,"),
        ({}, "file:///flowers holds no image"),
    ],
)
def test_a_layout_that_cannot_be_trained_on_is_refused_with_its_reason(tmp_path, files, words):
    (tmp_path / "source").mkdir()
    with pytest.raises(DataError) as caught:
        opened(tmp_path, files)
    assert words in str(caught.value)


def test_what_systems_add_on_their_own_is_ignored(tmp_path):
    noise = {
        "__MACOSX/train/cat/._0.png": b"x",
        "train/cat/._0.png": b"x",
        "train/cat/.thumbnails/0.png": b"x",
        "train/.ipynb_checkpoints/0.png": b"x",
        ".DS_Store": b"x",
        "train/cat/Thumbs.db": b"x",
        "train/cat/labels.csv": b"x",
    }
    found = opened(tmp_path, {**BOTH, **noise})
    assert found.class_names == ("cat", "dog")
    assert len(found.train) == 9


def test_folders_besides_train_and_test_are_left_out(tmp_path):
    found = opened(tmp_path, {**BOTH, **layout(extra__eel=2)})
    assert found.class_names == ("cat", "dog")


def test_links_in_a_folder_on_a_claim_are_left_out(tmp_path):
    secret = tmp_path / "secret"
    write_folder(secret, layout(eel=5))
    source = write_folder(tmp_path / "source", BOTH)
    (source / "train/cat/link.png").symlink_to(secret / "eel/0.png")
    (source / "train/eel").symlink_to(secret / "eel")
    found = open_folder(source, "", tmp_path / "work", quiet(), go_on)
    assert found.class_names == ("cat", "dog")
    assert len(found.train) == 9


def test_a_name_that_is_not_utf8_is_written_with_escapes(tmp_path):
    source = write_folder(tmp_path / "source", layout(cat=5, dog=5))
    for folder in (b"K\xe4se", b"K\xf6se"):
        write_folder(source / os.fsdecode(folder), {f"{number}.png": png(number + folder[1]) for number in range(5)})
    found = open_folder(source, "", tmp_path / "work", quiet(), go_on)
    assert found.class_names == (r"K\xe4se", r"K\xf6se", "cat", "dog")


def test_the_numbers_of_images_and_classes_are_told(tmp_path):
    out = io.StringIO()
    open_folder(write_tar(tmp_path / "a.tar", BOTH), "https://h/a.tar", tmp_path / "work", Reporter(out), go_on)
    assert "Unpacking https://h/a.tar\n" in out.getvalue()
    assert "9 training and 3 test images of 2 classes\n" in out.getvalue()


def test_a_session_is_stopped_between_the_files_of_a_folder(tmp_path):
    with pytest.raises(Stopped, match="Stopped while the images were listed; the next attempt does it again"):
        opened(tmp_path, BOTH, stop_at(5))


def test_a_session_is_stopped_while_other_files_than_images_are_passed_over(tmp_path):
    with pytest.raises(Stopped):
        opened(tmp_path, {f"{number}.txt": b"" for number in range(9)}, stop_at(5))


def test_a_session_is_stopped_between_the_images_that_are_measured(tmp_path):
    found = opened(tmp_path, BOTH)
    with pytest.raises(Stopped, match="Stopped while the train images were measured"):
        found.train.common_shape(stop_at(5))


def test_images_of_one_size_have_a_common_shape_and_others_have_none(tmp_path):
    same = opened(tmp_path / "a", BOTH)
    other = opened(tmp_path / "b", {**BOTH, "train/cat/large.png": png(99, (3, 2))})
    assert same.train.common_shape(go_on) == (2, 2, 3)
    assert other.train.common_shape(go_on) is None


def test_a_file_that_cannot_be_decoded_is_named_when_it_is_measured_and_when_it_is_read(tmp_path):
    found = opened(tmp_path, {**BOTH, "train/cat/broken.png": b"no image"})
    sentence = "train/cat/broken.png cannot be read .it is no JPEG, PNG, BMP, GIF or WebP file.; repair or remove it."
    with pytest.raises(DataError, match=sentence):
        found.train.common_shape(go_on)
    with pytest.raises(DataError, match=sentence):
        [found.train.image(index) for index in range(len(found.train))]


def closed(monkeypatch, *names):
    """Have folders of these names refuse to be listed; the tests' own user may list every one."""
    listed = os.scandir

    def scandir(path):
        if Path(path).name in names:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)


@pytest.mark.parametrize(
    ("name", "title"), [("dog", "train/dog"), ("train", "train"), ("source", "The folder of the data set")]
)
def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch, name, title):
    closed(monkeypatch, name)
    with pytest.raises(DataError) as caught:
        opened(tmp_path, BOTH if name != "dog" else layout(train__cat=6, train__dog=3, test__cat=2, test__eel=1))
    assert str(caught.value) == f"{title} cannot be read (Permission denied); make it readable or remove it."


def test_folders_that_systems_add_need_not_be_readable(tmp_path, monkeypatch):
    closed(monkeypatch, "lost+found", ".snapshots")
    files = {**BOTH, "lost+found/a.png": png(1), ".snapshots/b.png": png(2)}
    assert counts(opened(tmp_path, files).train) == [6, 3]
