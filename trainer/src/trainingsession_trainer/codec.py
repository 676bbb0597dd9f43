"""Features as bytes: one shard's array, packed without loss, with a header that says how.

    4 bytes magic, 1 version, 1 codec, 1 data type, 1 number of axes, 4 per axis, then the payload (little endian):

    RAW      the values
    PLANES   4 bytes length of what follows, the values' highest bytes compressed by zstd, their lower bytes as they are
    MASKED   4 bytes length, one bit per value that tells whether it is non-zero, then PLANES of the non-zero ones

Only a value's highest byte (sign and exponent) repeats; the others are as good as random and cost time for nothing. The
zeros that a ReLU leaves take a bit each. docs/codecs.md compares this with other codecs on features of six base models.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import zstandard

Array = npt.NDArray[np.generic]
Bytes = npt.NDArray[np.uint8]
Unsigned = npt.NDArray[np.unsignedinteger]

MAGIC = b"TSFT"
VERSION = 2
RAW, PLANES, MASKED = range(3)
WORTHWHILE = 0.95  # of the plain bytes: what gains less is not worth its decoding
MASK_WORTHWHILE = 0.75  # of the planes without a mask, which are decoded twice as fast
_DTYPES: dict[int, np.dtype[np.generic]] = {0: np.dtype("<f2"), 1: np.dtype("<f4")}
_PREFIX = struct.Struct("<4sBBBB")
_LENGTH = struct.Struct("<I")
_MAX_AXES = 8
# Level 1 only codes the bytes by how often they occur; higher levels look for repetitions, which are not there.
_LEVEL = 1
_BLOCK = 1 << 16  # values that stay in the processor's cache from one step to the next; a multiple of 8
_SAMPLE_RUNS, _SAMPLE_RUN = 64, 4096


class CodecError(ValueError):
    """The bytes are not what they should be: damaged, cut, or of another array."""


def encode(array: Array) -> bytes:
    """Pack a float16 or float32 array of any shape; raises ValueError for another type."""
    codes = {dtype: code for code, dtype in _DTYPES.items()}
    dtype = array.dtype.newbyteorder("<")
    if dtype not in codes or array.ndim > _MAX_AXES:
        raise ValueError(f"features are float16 or float32 with at most {_MAX_AXES} axes, not {array.dtype}")
    bits = _bits(np.ascontiguousarray(array, dtype).reshape(-1))
    codec = choose(bits)
    payload = [bits.data]
    if codec != RAW:
        payload = _pack(bits, masked=codec == MASKED)
        if _size(payload) > WORTHWHILE * bits.nbytes:
            # The sample was not like the rest.
            codec, payload = RAW, [bits.data]
    header = _PREFIX.pack(MAGIC, VERSION, codec, codes[dtype], array.ndim)
    return b"".join((header, struct.pack(f"<{array.ndim}I", *array.shape), *payload))


def decode(data: bytes | memoryview, shape: Sequence[int], dtype: npt.DTypeLike) -> Array:
    """Unpack an array that must have this shape and type; raises CodecError.

    Nothing is allocated for what the bytes claim about themselves before it agrees with what is expected.
    The array may be a view of `data`, if that can be written to.
    """
    if len(data) < _PREFIX.size:
        raise CodecError(f"{len(data)} bytes are too few for features")
    magic, version, codec, code, axes = _PREFIX.unpack_from(data)
    if magic != MAGIC or version != VERSION:
        raise CodecError("the bytes are no features of a known version")
    start = _PREFIX.size + 4 * axes
    if axes > _MAX_AXES or len(data) < start or code not in _DTYPES or codec not in (RAW, PLANES, MASKED):
        raise CodecError("the header of the features is damaged")
    found = struct.unpack_from(f"<{axes}I", data, _PREFIX.size)
    if found != tuple(shape) or _DTYPES[code] != np.dtype(dtype).newbyteorder("<"):
        raise CodecError(f"features of {_DTYPES[code]}{list(found)} where {np.dtype(dtype)}{list(shape)} are expected")
    payload, count = memoryview(data)[start:], math.prod(found)
    if codec == RAW:
        return _plain(payload, count, _DTYPES[code]).reshape(found)
    return _unpack(payload, count, _DTYPES[code], masked=codec == MASKED).reshape(found)


def choose(bits: Unsigned) -> int:
    """Choose the codec by runs of values from all over the array: trying all of them on all values would cost more."""
    step = max(_SAMPLE_RUN, len(bits) // _SAMPLE_RUNS)
    sample = np.concatenate([bits[start : start + _SAMPLE_RUN] for start in range(0, len(bits), step)] or [bits])
    planes, masked = (_size(_pack(sample, masked=masked)) for masked in (False, True))
    if min(planes, masked) > WORTHWHILE * sample.nbytes:
        return RAW
    return MASKED if masked < MASK_WORTHWHILE * planes else PLANES


def _bits(flat: Array) -> Unsigned:
    """Look at the values as integers, so that -0.0 counts as a value and NaN keeps its payload."""
    return flat.view(f"<u{flat.dtype.itemsize}")


def _plain(data: memoryview, count: int, dtype: np.dtype[np.generic]) -> Array:
    if len(data) != count * dtype.itemsize:
        raise CodecError(f"{len(data)} bytes where {count * dtype.itemsize} are expected")
    values = np.frombuffer(data, dtype)
    return values.copy() if data.readonly else values


def _size(parts: Sequence[memoryview]) -> int:
    return sum(part.nbytes for part in parts)


def _pack(bits: Unsigned, *, masked: bool) -> list[memoryview]:
    """Give the length of mask and highest bytes, both of these, and the planes of lower bytes."""
    width, count = bits.dtype.itemsize, len(bits)
    mask = np.empty(_mask_bytes(count, masked=masked), np.uint8)
    top = np.empty(count, np.uint8)
    lower = [np.empty(count, kind) for kind, _ in _lower(width)]
    kept = np.empty(min(count, _BLOCK), bits.dtype)
    shifted = np.empty_like(kept)
    filled = 0
    for start in range(0, count, _BLOCK):
        block = bits[start : start + _BLOCK]
        if masked:
            present = block != 0
            mask[start // 8 : (start + len(block) + 7) // 8] = np.packbits(present)
            where = np.flatnonzero(present)  # several times as fast as an index of booleans
            block = block.take(where, out=kept[: len(where)], mode="clip")
        end, high = filled + len(block), shifted[: len(block)]
        top[filled:end] = np.right_shift(block, 8 * width - 8, out=high)
        for plane, (_, shift) in zip(lower, _lower(width)):
            plane[filled:end] = np.right_shift(block, shift, out=high)  # the assignment cuts off what is higher
        filled = end
    compressed = zstandard.ZstdCompressor(level=_LEVEL).compress(top[:filled].data)
    length = _LENGTH.pack(len(mask) + len(compressed))
    return [memoryview(length), mask.data, memoryview(compressed), *(plane[:filled].data for plane in lower)]


def _unpack(data: memoryview, count: int, dtype: np.dtype[np.generic], *, masked: bool) -> Array:
    """Undo `_pack`; every length is checked before a value is made of it."""
    start = _LENGTH.size + _mask_bytes(count, masked=masked)
    middle = _LENGTH.size + _LENGTH.unpack_from(data)[0] if len(data) >= _LENGTH.size else 0
    if not start <= middle <= len(data):
        raise CodecError("the features are cut")
    mask = np.frombuffer(data[_LENGTH.size : start], np.uint8) if masked else None
    present = count if mask is None else _count_present(mask, count)
    if len(data) - middle != present * (dtype.itemsize - 1):
        raise CodecError(f"{len(data) - middle} lower bytes where {present * (dtype.itemsize - 1)} are expected")
    planes: list[tuple[Unsigned, int]] = [(_decompress(data[start:middle], present), 8 * dtype.itemsize - 8)]
    for kind, shift in _lower(dtype.itemsize):
        end = middle + present * np.dtype(kind).itemsize
        planes.append((np.frombuffer(data[middle:end], kind), shift))
        middle = end

    bits = _bits((np.empty if mask is None else np.zeros)(count, dtype))
    half = count // 2 // _BLOCK * _BLOCK
    filled = half if mask is None else int(np.count_nonzero(np.unpackbits(mask[: half // 8])))
    with ThreadPoolExecutor(1) as other:
        first = other.submit(_join, bits[:half], mask, planes)
        rest = [(plane[filled:], bit) for plane, bit in planes]
        _join(bits[half:], None if mask is None else mask[half // 8 :], rest)
        first.result()
    return bits.view(dtype)


def _join(bits: Unsigned, mask: Bytes | None, planes: Sequence[tuple[Unsigned, int]]) -> None:
    """Write to `bits` the values whose planes begin at the given bits, where the mask has a bit."""
    joined = np.empty(min(len(bits), _BLOCK), bits.dtype)
    shifted = np.empty_like(joined)
    filled = 0
    for start in range(0, len(bits), _BLOCK):
        block = bits[start : start + _BLOCK]
        where = None if mask is None else _present(mask[start // 8 :], len(block))
        target = block if where is None else joined[: len(where)]
        end, part = filled + len(target), shifted[: len(target)]
        (top, bit), *lower = planes
        target[...] = top[filled:end]
        target <<= bit
        for plane, bit in lower:
            part[...] = plane[filled:end]
            target |= np.left_shift(part, bit, out=part)
        if where is not None:
            block[where] = target
        filled = end


def _lower(width: int) -> tuple[tuple[str, int], ...]:
    """List the planes below the highest byte: their type, and the bit at which they begin."""
    return (("u1", 0),) if width == 2 else (("<u2", 0), ("u1", 16))


def _mask_bytes(count: int, *, masked: bool) -> int:
    return (count + 7) // 8 if masked else 0


def _present(mask: Bytes, count: int) -> npt.NDArray[np.intp]:
    return np.flatnonzero(np.unpackbits(mask[: (count + 7) // 8], count=count).view(np.bool_))


def _count_present(mask: Bytes, count: int) -> int:
    if count % 8 and mask[-1] & (0xFF >> count % 8):
        raise CodecError("the bitmask of the features has more bits than values")
    return int(np.count_nonzero(np.unpackbits(mask)))


def _decompress(data: memoryview, size: int) -> Bytes:
    try:
        if zstandard.frame_content_size(data) != size:
            raise CodecError("the compressed features have another size than expected")
        plain = zstandard.ZstdDecompressor().decompress(data, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CodecError(f"the compressed features are damaged ({error})") from error
    return np.frombuffer(plain, np.uint8)
