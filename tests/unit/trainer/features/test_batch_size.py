from __future__ import annotations

import pytest

from trainingsession_trainer.batch_size import BatchSize, batch_sizes


@pytest.mark.parametrize(
    ("pixels", "sizes"),
    [
        (32 * 32, (128, 256, 512)),
        (96 * 96, (32, 64, 128)),
        (139 * 139, (16, 32, 64)),
        (224 * 224, (16,)),
        (600 * 600, (2,)),
        (4000 * 4000, (1,)),
    ],
)
def test_the_sizes_to_try_are_the_largest_that_there_is_room_for(pixels, sizes):
    assert batch_sizes(pixels, 1_250_000) == sizes


def found(size: BatchSize, speed) -> tuple[str, int]:
    """Compute batches at `speed(size, turn)` images per second until the size is found; gives line and batches."""
    for turn in range(1000):
        images = size.next()
        if line := size.observe(images, images / speed(images, turn)):
            return line, turn + 1
    raise AssertionError("not found")


def test_the_fastest_size_is_kept():
    size = BatchSize((16, 32, 64))
    line, _ = found(size, lambda images, _: {16: 50.0, 32: 80.0, 64: 70.0}[images])
    assert line == "Computing batches of 32 images (images/s: 50 with 16, 80 with 32, 70 with 64)"
    assert size.found
    assert {size.next() for _ in range(9)} == {32}
    assert size.observe(32, 1.0) is None


def test_a_larger_size_that_is_hardly_slower_is_kept():
    assert found(BatchSize((16, 32, 64)), lambda images, _: {16: 100.0, 32: 104.0, 64: 101.0}[images])[0].startswith(
        "Computing batches of 64 images"
    )


def test_a_first_batch_that_compiles_does_not_count():
    size = BatchSize((16, 32))
    seen = set()

    def speed(images, _):
        first = images not in seen
        seen.add(images)
        return 1.0 if first and images == 32 else images

    assert found(size, speed)[0].startswith("Computing batches of 32 images")


def test_a_machine_that_slows_down_meanwhile_does_not_mislead():
    size = BatchSize((16, 32, 64))
    assert found(size, lambda images, turn: images * 0.9**turn)[0].startswith("Computing batches of 64 images")


def test_the_last_batch_of_a_shard_tells_nothing():
    size = BatchSize((16, 32))
    assert all(size.observe(7, 0.001) is None for _ in range(100))
    assert {size.next() for _ in range(4)} == {16, 32}


def test_it_never_grows_again_after_memory_ran_out():
    size = BatchSize((16, 32, 64))
    assert size.limit(32)
    assert not size.limit(32)
    assert {size.next() for _ in range(6)} == {16, 32}
    assert size.limit(8)
    assert {size.next() for _ in range(3)} == {8}


def test_a_given_size_is_kept():
    size = BatchSize((100,))
    assert all(size.observe(size.next(), 1.0) is None for _ in range(20))
    assert size.next() == 100
