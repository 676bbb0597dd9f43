"""A data set of arrays as numpy.savez writes them: x_train, y_train, x_test, y_test, and class_names where given.

The arrays are unpacked to the disk one after the other and mapped from there: memory does not grow with them. Nothing
is ever unpickled.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from trainingsession_trainer.errors import DataError

from .archives import most_bytes
from .arrays import Array, dataset_of, open_array
from .files import Disk, Stop, copy_bytes, is_full
from .splits import Dataset

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
NAMES = "class_names"
_MOST_NAME_BYTES = 16 << 20
_FAILURES = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError)


def open_npz(
    path: Path, title: str, work: Path, stop: Stop, disk: Disk, class_names: Sequence[str] | None = None
) -> Dataset:
    """Open the file, which sentences call `title`; raises DataError naming an array, Stopped."""
    arrays = _unpack(path, title, work / "arrays", stop, disk)
    names = arrays.pop(NAMES, None)
    if names is not None and class_names is None:
        if names.ndim != 1 or names.dtype.kind != "U":
            raise DataError(
                f"{NAMES} has the type {names.dtype} and the shape {list(names.shape)}; save a list of strings."
            )
        class_names = [str(name) for name in names]
    return dataset_of(arrays, class_names, stop)


def _unpack(path: Path, title: str, folder: Path, stop: Stop, disk: Disk) -> dict[str, Array]:
    """Write each array to a file of its own; what else the file holds is left alone."""
    folder.mkdir(parents=True, exist_ok=True)
    name, arrays = title, {}
    try:
        with zipfile.ZipFile(path) as packed:
            members = _members(packed, title)
            total, most, room = sum(info.file_size for info in members.values()), most_bytes(path), disk.room()
            if total > most:
                raise DataError(
                    f"The arrays of {title} have {total:,} bytes, more than the {most:,} that a file of this size may "
                    "hold; save them in smaller files or with numpy.savez."
                )
            if total > room:
                raise DataError(
                    f"The arrays of {title} have {total:,} bytes, and {room:,} may be written; {disk.remedy}."
                )
            for name, info in members.items():
                target = folder / f"{name}.npy"
                with packed.open(info) as content, target.open("wb") as file:
                    if copy_bytes(content, file, info.file_size, stop, "the arrays were unpacked") != info.file_size:
                        raise EOFError("it is cut off")
                arrays[name] = open_array(target, name)
    except _FAILURES as error:
        if is_full(error):
            raise DataError(f"The disk is full at {name} of {title}; {disk.remedy}.") from error
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(
            f"{name} of {title} cannot be unpacked ({reason}); it is damaged, cut off or no npz file: save it again."
        ) from error
    return arrays


def _members(packed: zipfile.ZipFile, title: str) -> dict[str, zipfile.ZipInfo]:
    found: dict[str, zipfile.ZipInfo] = {}
    for info in packed.infolist():
        name = info.filename.removesuffix(".npy")
        if name not in (*ARRAYS, NAMES) or name == info.filename:
            continue
        if name in found:
            raise DataError(f"{title} holds {name} twice; save it again.")
        # The others are unpacked in one piece, however large it is.
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError(f"{name} of {title} is packed in another way than numpy does; save it with numpy.savez.")
        found[name] = info
    missing = [name for name in ARRAYS if name not in found]
    if missing:
        raise DataError(f"{title} holds no {missing[0]}; save {', '.join(ARRAYS)} with numpy.savez.")
    if NAMES in found and found[NAMES].file_size > _MOST_NAME_BYTES:
        raise DataError(f"{NAMES} of {title} has {found[NAMES].file_size:,} bytes; save a list of short names.")
    return found
