from __future__ import annotations

import threading
from contextlib import closing

import numpy as np
import pytest

from trainingsession_trainer.errors import DataError
from trainingsession_trainer.read_ahead import ReadAhead, Room


class Source:
    """Images of one pixel whose value is their number; counts the readings."""

    def __init__(self, broken=None):
        self.read = []
        self.broken = broken

    def fill(self, low, out):
        for place, index in enumerate(range(low, low + len(out))):
            if index == self.broken:
                raise DataError("broken")
            self.read.append(index)
            out[place] = index


@pytest.mark.parametrize("threads", [1, 3, 50])
def test_images_come_in_order_and_each_is_read_once(threads):
    source, sizes, got = Source(), iter([7, 7, 20, 20, 3, 3, 50, 50, 50]), []
    with closing(ReadAhead(source.fill, (1,), np.int64, threads).batches(5, 160, lambda: next(sizes))) as batches:
        for array, count in batches:
            got += array[:count, 0].tolist()
    assert got == list(range(5, 160))
    assert sorted(source.read) == got


def test_an_array_keeps_its_content_while_the_next_one_is_there():
    source, arrays = Source(), []
    with closing(ReadAhead(source.fill, (1,), np.int64, 2).batches(0, 400, lambda: 10)) as batches:
        for array, count in batches:
            arrays.append(array)
            for back in range(min(2, len(arrays))):
                start = 10 * (len(arrays) - 1 - back)
                assert arrays[-1 - back][:count, 0].tolist() == list(range(start, start + count))
    assert len({array.ctypes.data for array in arrays}) <= 4


def test_no_more_is_read_ahead_than_two_batches():
    source = Source()
    with closing(ReadAhead(source.fill, (1,), np.int64, 2).batches(0, 400, lambda: 10)) as batches:
        next(batches)
        next(batches)
    assert len(source.read) <= 40


def test_what_goes_wrong_in_a_thread_is_raised_where_its_batch_would_be():
    source, got = Source(broken=25), []
    with (
        closing(ReadAhead(source.fill, (1,), np.int64, 2).batches(0, 100, lambda: 10)) as batches,
        pytest.raises(DataError, match="broken"),
    ):
        got.extend(count for _, count in batches)
    assert got == [10, 10]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("images")]


def test_images_that_do_not_fit_wait_for_room():
    room, order, inside = Room(100), [], threading.Event()

    def later():
        inside.set()
        with room.of(60):
            order.append("second")

    with room.of(60):
        thread = threading.Thread(target=later)
        thread.start()
        inside.wait()
        with room.of(40):
            order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_an_image_larger_than_all_the_room_gets_it_alone():
    room = Room(100)
    with room.of(1000):
        pass
    with room.of(1000):
        pass
