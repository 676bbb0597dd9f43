from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trainingsession_trainer import codec

SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=9)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_every_bit_pattern_comes_back(data):
    width = data.draw(st.sampled_from([2, 4]))
    shape = data.draw(SHAPES)
    bits = data.draw(hnp.arrays(f"<u{width}", shape, elements=st.integers(0, 256**width - 1), fill=st.just(0)))
    array = bits.view(f"<f{width}")
    back = codec.decode(codec.encode(array), shape, array.dtype)
    assert back.dtype == array.dtype
    assert np.array_equal(back.view(bits.dtype), bits)
    back[...] = 0  # an array of its own, not a view of read-only bytes


def codec_of(data: bytes) -> int:
    return data[5]


def noise(count, seed=0):
    """Every bit pattern is as likely as any other."""
    return np.random.default_rng(seed).integers(1, 2**16, count, np.uint16).view(np.float16)


def relu(count, zeros, dtype=np.float16):
    """What a base model leaves: positive values of similar size, and zeros."""
    rng = np.random.default_rng(1)
    values = rng.lognormal(0, 0.5, count).astype(dtype)
    values[rng.random(count) < zeros] = 0
    return values


def test_each_kind_of_features_takes_its_own_codec():
    kinds = {
        "noise": (noise(100_000), codec.RAW, 1),
        "no zeros": (relu(100_000, 0), codec.RAW, 1),
        "few zeros": (relu(100_000, 0.2), codec.RAW, 1),
        "zeros": (relu(100_000, 0.5), codec.MASKED, 0.5),
        "zeros, wide": (relu(100_000, 0.5, np.float32), codec.MASKED, 0.5),
        "nothing but zeros": (np.zeros(100_000, np.float16), codec.MASKED, 0.07),
    }
    for name, (array, expected, share) in kinds.items():
        data = codec.encode(array)
        assert codec_of(data) == expected, name
        assert len(data) <= share * array.nbytes + 12, name


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("zeros", [0, 0.5, 0.999])
@pytest.mark.parametrize("count", [2**16 - 1, 2**17, 2**17 + 1, 3 * 2**17 + 12_345])
def test_what_is_longer_than_a_block_comes_back(count, zeros, dtype):
    array = relu(count, zeros, dtype)
    back = codec.decode(codec.encode(array), array.shape, dtype)
    assert np.array_equal(back, array)


def test_features_that_differ_from_their_sample_are_not_larger_than_raw():
    array = noise(codec._SAMPLE_RUNS * 40_000)
    for start in range(0, len(array), len(array) // codec._SAMPLE_RUNS):
        array[start : start + codec._SAMPLE_RUN] = 0
    data = codec.encode(array)
    assert codec_of(data) == codec.RAW
    assert len(data) == array.nbytes + 12
    assert np.array_equal(codec.decode(data, array.shape, np.float16).view(np.uint16), array.view(np.uint16))


def test_raw_features_are_read_where_they_are():
    array = noise(4096)
    data = bytearray(codec.encode(array))
    back = codec.decode(memoryview(data), array.shape, np.float16)
    assert np.shares_memory(back, np.frombuffer(data, np.uint8))


def test_negative_zero_is_a_value():
    array = np.array([0.0, -0.0, 0.0, -0.0] * 64, np.float16)
    assert np.signbit(codec.decode(codec.encode(array), array.shape, np.float16)).sum() == 128


KINDS = {"noise": noise(512), "zeros": relu(512, 0.5), "wide": relu(512, 0.5, np.float32)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [0, 5, 8, 11, 12, 14, 16, 20, 80, 120, -300, -1])
def test_cut_bytes_are_refused(kind, length):
    array = KINDS[kind]
    with pytest.raises(codec.CodecError):
        codec.decode(codec.encode(array)[:length], array.shape, array.dtype)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(KINDS)), st.data())
def test_changed_bytes_are_refused_or_of_the_expected_shape(kind, data):
    array = KINDS[kind]
    changed = bytearray(codec.encode(array))
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        back = codec.decode(bytes(changed), array.shape, array.dtype)
    except codec.CodecError:
        return
    assert back.shape == array.shape


def test_a_mask_with_bits_beyond_the_last_value_is_refused():
    array = relu(510, 0.5)
    data = bytearray(codec.encode(array))
    assert codec_of(data) == codec.MASKED
    data[12 + 63] |= 1
    with pytest.raises(codec.CodecError, match="more bits than values"):
        codec.decode(bytes(data), array.shape, np.float16)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80), st.booleans())
def test_strange_bytes_are_refused_or_of_the_expected_shape(tail, header):
    start = struct.pack("<4sBBBB", codec.MAGIC, codec.VERSION, tail[0] % 2 if tail else 0, 0, 1) if header else b""
    start += struct.pack("<I", 6) if header else b""
    try:
        array = codec.decode(start + tail, (6,), np.float16)
    except codec.CodecError:
        return
    assert array.shape == (6,)


def test_what_the_bytes_claim_is_not_allocated():
    claim = struct.pack("<4sBBBBII", codec.MAGIC, codec.VERSION, codec.MASKED, 1, 2, 2**32 - 1, 2**32 - 1)
    with pytest.raises(codec.CodecError, match="are expected"):
        codec.decode(claim, (2, 2), np.float32)


def test_another_shape_or_type_is_refused():
    data = codec.encode(np.ones((4, 4), np.float16))
    for shape, dtype in (((2, 8), np.float16), ((4, 4), np.float32), ((16,), np.float16)):
        with pytest.raises(codec.CodecError, match="are expected"):
            codec.decode(data, shape, dtype)
    with pytest.raises(ValueError, match="not float64"):
        codec.encode(np.ones(3))
