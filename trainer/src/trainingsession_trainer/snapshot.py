"""The state of a head's training at the end of an epoch, and its form as a file: a .npz without pickled objects."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import IO, Any
from zipfile import ZipFile

import numpy as np
import numpy.typing as npt

Arrays = tuple[npt.NDArray[Any], ...]
Binding = Mapping[str, str]

_HEADER = "header"
# Names, shapes and the zip's directory; and of the header, whose history grows by a line per epoch.
_SLACK_BYTES, _ARRAY_BYTES, _EPOCH_BYTES = 65_536, 1_024, 2_048


@dataclass(frozen=True)
class Epoch:
    """Figures of one epoch, counted from 1: loss, accuracy, the metrics, and with validation images val_ of each.

    `learning_rate` is that of its last step; a checkpoint of an older version does not tell.
    """

    number: int
    seconds: float
    figures: Mapping[str, float]
    learning_rate: float | None = None


@dataclass(frozen=True)
class Snapshot:
    """What training goes on from: figures of the epochs so far, and what they left in head and optimizer.

    `state` holds the head's weights, then the optimizer's variables. `best` are the weights of epoch `best_epoch`, the
    one with the lowest validation loss; None where the last epoch's are wanted.
    """

    epochs: tuple[Epoch, ...]
    state: Arrays
    best_epoch: int | None = None
    best: Arrays = ()

    @property
    def epoch(self) -> int:
        """The last epoch that is in it, counted from 1."""
        return len(self.epochs)


class SnapshotError(Exception):
    """A file that holds no snapshot, or one of another training; its message completes "it …"."""


def write_snapshot(file: IO[bytes], snapshot: Snapshot, binding: Binding) -> None:
    """Write a snapshot and what it belongs to into `file`, which need not be seekable, without a copy of the whole."""
    header = {
        "binding": dict(binding),
        "epochs": [asdict(epoch) for epoch in snapshot.epochs],
        "best_epoch": snapshot.best_epoch,
    }
    # The best weights of the last epoch are the first of its state.
    best = () if snapshot.best_epoch == snapshot.epoch else snapshot.best
    with ZipFile(file, "w") as archive:
        for name, array in _members(header, (*snapshot.state, *best)):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def read_snapshot(data: bytes, like: Sequence[npt.NDArray[Any]], weights: int, binding: Binding) -> Snapshot:
    """Read a snapshot whose state has the shapes and types of `like`, the first `weights` of which are the head's.

    Raises SnapshotError when it is anything else.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            header = json.loads(archive[_HEADER].tobytes())
            arrays = tuple(archive[str(index)] for index in range(len(archive.files) - 1))
        epochs = tuple(Epoch(**epoch) for epoch in header["epochs"])
        belongs, best_epoch = dict(header["binding"]), header["best_epoch"]
    except Exception as error:
        # Bytes can be wrong in more ways than zipfile and NumPy document.
        raise SnapshotError(f"cannot be read ({type(error).__name__})") from error
    for key, value in binding.items():
        if belongs.get(key) != value:
            raise SnapshotError(f"is of another {key}")
    state = arrays[: len(like)]
    best = state[:weights] if best_epoch == len(epochs) else arrays[len(like) :]
    wanted = [*like, *(like[:weights] if best_epoch is not None else ())]
    if [(each.shape, each.dtype) for each in (*state, *best)] != [(each.shape, each.dtype) for each in wanted]:
        raise SnapshotError("does not fit the head")
    return Snapshot(epochs, state, best_epoch, best)


def most_bytes(like: Sequence[npt.NDArray[Any]], epochs: int) -> int:
    """Give a size that no file of such a state and so many epochs exceeds."""
    return 2 * sum(array.nbytes + _ARRAY_BYTES for array in like) + _SLACK_BYTES + epochs * _EPOCH_BYTES


def _members(header: Mapping[str, Any], arrays: Arrays) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    yield _HEADER, np.frombuffer(json.dumps(header, allow_nan=False).encode(), np.uint8)
    for index, array in enumerate(arrays):
        yield str(index), array
