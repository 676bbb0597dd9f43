"""A data set of class folders: train/<class>/… and test/<class>/…, or <class>/… alone."""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal
from pathlib import Path

import numpy as np

from trainingsession_trainer.errors import DataError
from trainingsession_trainer.reporting import Reporter

from .archives import Stored, scan, unpack
from .files import Disk, Stop
from .images import SUFFIXES, FileImages
from .known_files import KnownFiles
from .order import order, validation_mask
from .splits import Dataset, Split, make_split

TEST_SHARE = Decimal("0.2")
"""Part of every class that is kept for the test where the data set has no test folder."""

Classes = dict[str, list[Stored]]


def open_folder(
    source: Path,
    title: str,
    work: Path,
    reporter: Reporter,
    stop: Stop,
    disk: Disk | None = None,
    known: KnownFiles | None = None,
) -> Dataset:
    """Open an archive or a folder, which sentences call `title`; images are decoded later, one at a time.

    Raises DataError naming the file, and Stopped.
    """
    if source.is_dir():
        known = known or KnownFiles()
        stored = scan(source, SUFFIXES, stop, known)
        reporter.info(f"Listed {len(stored):,} image files, of which {known.keep():,} had to be read")
    else:
        reporter.info(f"Unpacking {title}")
        stored = unpack(source, work / "images", SUFFIXES, stop, disk)
    return arrange(stored, title, reporter)


def arrange(stored: list[Stored], title: str, reporter: Reporter) -> Dataset:
    """Make a data set of files by the folders in their names; raises DataError."""
    if not stored:
        raise DataError(
            f"{title} holds no image ({', '.join(sorted(SUFFIXES))}); "
            "pack folders train/<class> and test/<class> with images."
        )
    train, test = _arrange(stored)
    class_names = _class_names(train, test)
    if test is None:
        train, test = _divide(train, class_names)
    reporter.info(
        f"{sum(map(len, train.values())):,} training and {sum(map(len, test.values())):,} test images "
        f"of {len(class_names)} classes"
    )
    return Dataset(class_names, _split("train", train, class_names), _split("test", test, class_names))


def _arrange(stored: list[Stored]) -> tuple[Classes, Classes | None]:
    """Find the layout, also below one common folder; the test part is None where there is none."""
    tops = {item.name.parts[0] for item in stored}
    # One folder around everything, as archives often have it.
    depth = (
        1
        if len(tops) == 1 and not tops <= {"train", "test"} and all(len(item.name.parts) > 2 for item in stored)
        else 0
    )
    tops = {item.name.parts[depth] for item in stored}
    if {"train", "test"} <= tops:
        return _classes(stored, depth, "train"), _classes(stored, depth, "test")
    if "train" in tops or "test" in tops:
        missing = "test" if "train" in tops else "train"
        raise DataError(
            f"The data set has no folder {missing}/; add it, or pack class folders without train/ and test/."
        )
    return _classes(stored, depth, None), None


def _classes(stored: list[Stored], depth: int, top: str | None) -> Classes:
    """Sort files by class: the folder at `depth`, or the one below `top` there; other tops are left out."""
    place = depth if top is None else depth + 1
    classes: Classes = defaultdict(list)
    for item in stored:
        parts = item.name.parts
        if top is not None and parts[depth] != top:
            continue
        if len(parts) < place + 2:
            raise DataError(f"{item.name} lies in no class folder; pack folders train/<class> and test/<class>.")
        classes[parts[place]].append(item)
    return dict(classes)


def _class_names(train: Classes, test: Classes | None) -> tuple[str, ...]:
    names = tuple(sorted(train))
    if len(names) < 2:
        raise DataError(f"The data set has one class, {names[0] if names else '?'}; a classifier needs at least two.")
    if test is not None and set(test) != set(train):
        odd = min(set(test) ^ set(train))
        where = "test" if odd in train else "train"
        raise DataError(f"Class {odd} has no image in {where}/; add images there or remove the class.")
    return names


def _divide(classes: Classes, class_names: tuple[str, ...]) -> tuple[Classes, Classes]:
    """Keep a fifth of every class for the test, chosen by content as the validation images are."""
    train: Classes = {}
    test: Classes = {}
    for number, name in enumerate(class_names):
        items = classes[name]
        labels = np.full(len(items), number, np.int32)
        ranked = [items[i] for i in order(labels, [item.digest for item in items])]
        held = validation_mask(labels, TEST_SHARE)
        train[name] = [item for item, is_test in zip(ranked, held) if not is_test]
        test[name] = [item for item, is_test in zip(ranked, held) if is_test]
        if not test[name]:
            raise DataError(f"Class {name} has {len(items)} images; at least 5 are needed to keep one for the test.")
    return train, test


def _split(name: str, classes: Classes, class_names: tuple[str, ...]) -> Split:
    items = [(number, item) for number, class_name in enumerate(class_names) for item in classes[class_name]]
    labels = np.array([number for number, _ in items], np.int32)
    images = FileImages([item.path for _, item in items], [str(item.name) for _, item in items])
    return make_split(name, class_names, labels, [item.digest for _, item in items], images)
