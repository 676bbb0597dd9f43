"""A snapshot as a file: the same bits again, or a word on why it is of no use."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest

from trainingsession_trainer.snapshot import Epoch, Snapshot, SnapshotError, most_bytes, read_snapshot, write_snapshot

BINDING = {"session": "uid-1", "spec": "abc", "Keras version": "3.15.1"}
# Two weights, then what an optimizer adds: a counter, a rate, a momentum.
STATE = (
    np.arange(6, dtype=np.float32).reshape(2, 3) / 7,
    np.float32([0.1, -0.0, 1e-45]),
    np.asarray(12, np.int64),
    np.asarray(0.001, np.float32),
    np.ones((2, 3), np.float32),
)
EPOCHS = tuple(Epoch(number, 0.1 * number, {"loss": 1 / number, "val_loss": 0.1 + 0.2}) for number in (1, 2, 3))
SNAPSHOTS = {
    "of the last epoch": Snapshot(EPOCHS, STATE),
    "whose last epoch is the best": Snapshot(EPOCHS, STATE, 3, STATE[:2]),
    "with an earlier best epoch": Snapshot(EPOCHS, STATE, 2, (STATE[0] * 2, STATE[1] * 2)),
}


def written(snapshot: Snapshot) -> bytes:
    file = io.BytesIO()
    write_snapshot(file, snapshot, BINDING)
    return file.getvalue()


def read(data: bytes) -> Snapshot:
    return read_snapshot(data, STATE, 2, BINDING)


@pytest.mark.parametrize("snapshot", SNAPSHOTS.values(), ids=SNAPSHOTS.keys())
def test_a_snapshot_is_read_as_it_was_written(snapshot: Snapshot) -> None:
    data = written(snapshot)
    found = read(data)
    assert (found.epochs, found.best_epoch) == (snapshot.epochs, snapshot.best_epoch)
    for name in ("state", "best"):
        pairs = zip(getattr(found, name), getattr(snapshot, name), strict=True)
        assert all((a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()) for a, b in pairs)
    assert len(data) <= most_bytes(STATE, len(EPOCHS))


def test_the_best_weights_are_not_written_twice() -> None:
    large = (np.zeros(100_000, np.float32),)
    assert len(written(Snapshot(EPOCHS, large, 3, large))) < 500_000


@pytest.mark.parametrize("key", BINDING)
def test_a_snapshot_of_something_else_is_refused_by_its_name(key: str) -> None:
    with pytest.raises(SnapshotError, match=f"^is of another {key}$"):
        read_snapshot(written(SNAPSHOTS["of the last epoch"]), STATE, 2, {**BINDING, key: "else"})


def test_a_snapshot_of_another_shape_type_or_number_of_arrays_does_not_fit() -> None:
    data = written(SNAPSHOTS["with an earlier best epoch"])
    wider, typed = np.zeros((2, 4), np.float32), STATE[0].astype(np.float64)
    for like in ((wider, *STATE[1:]), (typed, *STATE[1:]), STATE[:4], (*STATE, STATE[0])):
        with pytest.raises(SnapshotError, match=r"^does not fit the head$"):
            read_snapshot(data, like, 2, BINDING)


class Trap:
    """What an attacker would have unpickled."""

    sprung = False

    def __reduce__(self):
        return (Trap.spring, ())

    @staticmethod
    def spring() -> None:
        Trap.sprung = True


def test_nothing_is_unpickled() -> None:
    file = io.BytesIO()
    np.savez(file, header=np.array([Trap()], object))
    for data in (file.getvalue(), pickle.dumps(Trap())):
        with pytest.raises(SnapshotError, match=r"^cannot be read"):
            read(data)
    assert not Trap.sprung


def test_a_file_that_is_cut_or_changed_anywhere_is_an_error_and_no_crash() -> None:
    data = written(SNAPSHOTS["with an earlier best epoch"])
    for place in range(0, len(data), 13):
        with pytest.raises(SnapshotError):
            read(data[:place])
        changed = data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]
        try:
            found = read(changed)
        except SnapshotError:
            continue
        # Bytes that no reader looks at.
        assert [array.tobytes() for array in found.state] == [array.tobytes() for array in STATE]
