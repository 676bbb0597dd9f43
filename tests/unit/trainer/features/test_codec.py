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


def test_each_kind_of_features_takes_its_own_codec():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 2**16, 4096, np.uint16).view(np.float16)
    half_zero = np.where(rng.random(4096) < 0.5, 0, noise.view(np.uint16)).astype(np.uint16).view(np.float16)
    smooth = rng.normal(1, 0.01, 4096).astype(np.float32)
    sparse = np.where(rng.random(4096) < 0.5, 0, smooth).astype(np.float32)
    kinds = [codec_of(codec.encode(array)) for array in (noise, half_zero, smooth, sparse)]
    assert kinds == [codec.RAW, codec.BITMASK, codec.SHUFFLED, codec.BITMASK_SHUFFLED]
    assert len(codec.encode(half_zero)) < 0.6 * half_zero.nbytes


def test_little_gain_is_not_worth_decoding():
    rng = np.random.default_rng(0)
    noise = rng.integers(1, 2**16, 10_000, np.uint16).view(np.float16)
    noise[rng.random(10_000) < 0.08] = 0  # of these 8 %, the mask takes 6.25 back
    assert codec_of(codec.encode(noise)) == codec.RAW


def test_negative_zero_is_a_value():
    array = np.array([0.0, -0.0, 0.0, -0.0] * 64, np.float16)
    assert np.signbit(codec.decode(codec.encode(array), array.shape, np.float16)).sum() == 128


@pytest.mark.parametrize("kind", ["noise", "half_zero", "smooth"])
@pytest.mark.parametrize("length", [0, 5, 8, 11, 12, 20, -1])
def test_cut_bytes_are_refused(kind, length):
    rng = np.random.default_rng(0)
    arrays = {
        "noise": rng.integers(0, 2**16, 512, np.uint16).view(np.float16),
        "half_zero": np.where(rng.random(512) < 0.5, 0, rng.random(512)).astype(np.float16),
        "smooth": rng.normal(1, 0.01, 512).astype(np.float16),
    }
    data = codec.encode(arrays[kind])
    with pytest.raises(codec.CodecError):
        codec.decode(data[:length], (512,), np.float16)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80), st.booleans())
def test_strange_bytes_are_refused_or_of_the_expected_shape(tail, header):
    start = struct.pack("<4sBBBB", codec.MAGIC, codec.VERSION, tail[0] % 4 if tail else 0, 0, 1) if header else b""
    start += struct.pack("<I", 6) if header else b""
    try:
        array = codec.decode(start + tail, (6,), np.float16)
    except codec.CodecError:
        return
    assert array.shape == (6,)


def test_what_the_bytes_claim_is_not_allocated():
    claim = struct.pack("<4sBBBBII", codec.MAGIC, codec.VERSION, codec.BITMASK, 1, 2, 2**32 - 1, 2**32 - 1)
    with pytest.raises(codec.CodecError, match="are expected"):
        codec.decode(claim, (2, 2), np.float32)


def test_another_shape_or_type_is_refused():
    data = codec.encode(np.ones((4, 4), np.float16))
    for shape, dtype in (((2, 8), np.float16), ((4, 4), np.float32), ((16,), np.float16)):
        with pytest.raises(codec.CodecError, match="are expected"):
            codec.decode(data, shape, dtype)
    with pytest.raises(ValueError, match="not float64"):
        codec.encode(np.ones(3))
