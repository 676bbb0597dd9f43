"""Examples that are read again for every epoch are the same images, each once, well mixed."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from trainingsession_trainer.streaming import StreamedExamples

SHARDS, SIZE = 7, 10


class Shards:
    """Shards whose rows hold their own number, and that count what is held at once."""

    def __init__(self, rows=None):
        self.rows = rows or [np.arange(SIZE - (index == SHARDS - 1) * 3) for index in range(SHARDS)]
        self.reads = []
        self.threads = set()

    def read(self, index):
        self.reads.append(index)
        self.threads.add(threading.current_thread().name)
        numbers = index * SIZE + np.arange(SIZE)
        return np.repeat(numbers[:, None], 3, 1).astype(np.float16)

    @property
    def numbers(self):
        return np.concatenate([index * SIZE + rows for index, rows in enumerate(self.rows)])

    def examples(self, window=2):
        labels = (self.numbers % 5).astype(np.int32)
        return StreamedExamples(self.read, self.rows, labels, (3,), np.dtype(np.float16), window)


def numbers(batches):
    found = [(features[:, 0].astype(int), labels) for features, labels in batches]
    return [part for part, _ in found], np.concatenate([labels for _, labels in found])


@pytest.mark.parametrize("window", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("batch", [1, 4, 10, 16, 66, 67, 100])
@pytest.mark.parametrize("order", [None, (3, 0)])
def test_every_image_comes_once_with_its_label_in_full_batches(window, batch, order):
    shards = Shards()
    parts, labels = numbers(shards.examples(window).batches(batch, order))
    everything = np.concatenate(parts)
    assert sorted(everything) == list(shards.numbers)
    assert np.array_equal(labels, everything % 5)
    assert [len(part) for part in parts[:-1]] == [batch] * (len(parts) - 1)
    assert 0 < len(parts[-1]) <= batch


def test_the_stored_order_is_kept_where_none_is_asked_for():
    shards = Shards()
    parts, _ = numbers(shards.examples().batches(8, None))
    assert np.array_equal(np.concatenate(parts), shards.numbers)


def test_an_epoch_has_an_order_of_its_own_and_always_the_same():
    shards = Shards()
    orders = [
        np.concatenate(numbers(shards.examples().batches(8, order))[0]).tolist()
        for order in ((1, 0), (1, 0), (1, 1), (2, 0))
    ]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0] != orders[3]


def test_the_images_of_a_window_are_mixed_across_its_shards():
    parts, _ = numbers(Shards().examples(window=4).batches(8, (1, 0)))
    assert len({number // SIZE for number in parts[0]}) > 2
    assert parts[0].tolist() != sorted(parts[0])


def test_rows_that_do_not_count_are_left_out():
    rows = [np.array([1, 3]), np.array([], np.int64), np.array([0]), *([np.array([], np.int64)] * 4)]
    shards = Shards(rows)
    parts, _ = numbers(shards.examples().batches(2, (1, 1)))
    assert sorted(np.concatenate(parts)) == [1, 3, 20]
    assert set(shards.reads) == {0, 2}


def test_blocks_give_all_features_in_order():
    shards = Shards()
    blocks = [block[:, 0].astype(int).copy() for block in shards.examples().blocks()]
    assert np.array_equal(np.concatenate(blocks), shards.numbers)


def test_no_more_than_two_windows_are_read_ahead():
    shards = Shards()
    batches = shards.examples(window=2).batches(4, None)
    next(batches)
    batches.close()
    assert shards.reads in ([0, 1], [0, 1, 2], [0, 1, 2, 3])


def test_what_reading_raises_ends_the_epoch():
    shards = Shards()
    examples = shards.examples()

    def broken(index):
        if index == 4:
            raise RuntimeError("shard 4")
        return Shards.read(shards, index)

    examples._read = broken
    with pytest.raises(RuntimeError, match="shard 4"):
        list(examples.batches(4, None))
