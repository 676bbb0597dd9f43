"""Features as bytes: one shard's array, packed without loss, with a header that says how.

    4 bytes magic, 1 version, 1 codec, 1 data type, 1 number of axes, 4 per axis, then the payload (little endian):

    RAW      the values
    MASKED   one bit per value that tells whether it is non-zero, then of those that are: their lower bytes as they are,
             plane by plane, and their highest bytes compressed by zstd

Most base models end in a ReLU, whose zeros take a bit each. Of the other values only the highest byte (sign and
exponent) repeats; the lower ones are as good as random. Without zeros nothing that was tried is read as fast as the
values themselves: docs/codecs.md compares codecs on features of six base models.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import zstandard

Array = npt.NDArray[np.generic]
Bytes = npt.NDArray[np.uint8]
Unsigned = npt.NDArray[np.unsignedinteger]

MAGIC = b"TSFT"
VERSION = 2
RAW, MASKED = range(2)
WORTHWHILE = 0.6  # of the plain bytes: what gains less is not worth its decoding
_DTYPES: dict[int, np.dtype[np.generic]] = {0: np.dtype("<f2"), 1: np.dtype("<f4")}
_LOWER = {2: (("u1", 0),), 4: (("<u2", 0), ("u1", 16))}  # by bytes per value: type and first bit of each lower plane
_PREFIX = struct.Struct("<4sBBBB")
_MAX_AXES = 8
# Level 1 only codes the bytes by how often they occur; higher levels look for repetitions, which are not there.
_LEVEL = 1
_BLOCK = 1 << 16  # values that stay in the processor's cache from one step to the next; a multiple of 8
_SAMPLE_RUNS, _SAMPLE_RUN = 32, 4096


class CodecError(ValueError):
    """The bytes are not what they should be: damaged, cut, or of another array."""


def encode(array: Array) -> memoryview:
    """Pack a float16 or float32 array of any shape; raises ValueError for another type."""
    codes = {dtype: code for code, dtype in _DTYPES.items()}
    dtype = array.dtype.newbyteorder("<")
    if dtype not in codes or array.ndim > _MAX_AXES:
        raise ValueError(f"features are float16 or float32 with at most {_MAX_AXES} axes, not {array.dtype}")
    bits = _bits(np.ascontiguousarray(array, dtype).reshape(-1))
    codec, payload = RAW, [bits.data]
    # All values are masked only when those of the sample gain by it, and stored raw when they were unlike the others.
    if _gains(sample := _sample(bits), _mask(sample)) and _gains(bits, masked := _mask(bits)):
        codec, payload = MASKED, masked
    header = _PREFIX.pack(MAGIC, VERSION, codec, codes[dtype], array.ndim) + struct.pack(
        f"<{array.ndim}I", *array.shape
    )
    return _joined([memoryview(header), *payload])


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
    if axes > _MAX_AXES or len(data) < start or code not in _DTYPES or codec not in (RAW, MASKED):
        raise CodecError("the header of the features is damaged")
    found = struct.unpack_from(f"<{axes}I", data, _PREFIX.size)
    if found != tuple(shape) or _DTYPES[code] != np.dtype(dtype).newbyteorder("<"):
        raise CodecError(f"features of {_DTYPES[code]}{list(found)} where {np.dtype(dtype)}{list(shape)} are expected")
    unpack = _plain if codec == RAW else _unmask
    return unpack(memoryview(data)[start:], math.prod(found), _DTYPES[code]).reshape(found)


def _bits(flat: Array) -> Unsigned:
    """Look at the values as integers, so that -0.0 counts as a value and NaN keeps its payload."""
    return flat.view(f"<u{flat.dtype.itemsize}")


def _sample(bits: Unsigned) -> Unsigned:
    """Take runs of values from all over the array, all values of a small one."""
    step = max(_SAMPLE_RUN, len(bits) // _SAMPLE_RUNS)
    return np.concatenate([bits[:0], *(bits[start : start + _SAMPLE_RUN] for start in range(0, len(bits), step))])


def _gains(bits: Unsigned, packed: Sequence[memoryview]) -> bool:
    return sum(part.nbytes for part in packed) < WORTHWHILE * bits.nbytes


def _joined(parts: Sequence[memoryview]) -> memoryview:
    # NumPy's memory comes in huge pages, that of bytes.join does not, which takes five times as long.
    data = np.empty(sum(part.nbytes for part in parts), np.uint8).data
    end = 0
    for part in parts:
        start, end = end, end + part.nbytes
        if part.nbytes:
            data[start:end] = part.cast("B")
    return data


def _plain(data: memoryview, count: int, dtype: np.dtype[np.generic]) -> Array:
    if len(data) != count * dtype.itemsize:
        raise CodecError(f"{len(data)} bytes where {count * dtype.itemsize} are expected")
    values = np.frombuffer(data, dtype)
    return values.copy() if data.readonly else values


def _mask(bits: Unsigned) -> list[memoryview]:
    """Give the bitmask, the planes of lower bytes, and the compressed highest bytes."""
    width, count = bits.dtype.itemsize, len(bits)
    mask = np.empty((count + 7) // 8, np.uint8)
    planes = [(np.empty(count, kind), bit) for kind, bit in _LOWER[width]]
    planes.append((np.empty(count, np.uint8), 8 * width - 8))
    kept = np.empty(min(count, _BLOCK), bits.dtype)
    shifted = np.empty_like(kept)
    filled = 0
    for start in range(0, count, _BLOCK):
        block = bits[start : start + _BLOCK]
        present = block != 0
        mask[start // 8 : (start + len(block) + 7) // 8] = np.packbits(present)
        where = np.flatnonzero(present)  # three times as fast as an index of booleans
        end = filled + len(where)
        values, part = kept[: len(where)], shifted[: len(where)]
        block.take(where, out=values, mode="clip")
        for plane, bit in planes:
            plane[filled:end] = np.right_shift(values, bit, out=part)  # what is higher is cut off by the assignment
        filled = end
    *lower, top = [plane[:filled].data for plane, _ in planes]
    return [mask.data, *lower, memoryview(zstandard.ZstdCompressor(level=_LEVEL).compress(top))]


def _unmask(data: memoryview, count: int, dtype: np.dtype[np.generic]) -> Array:
    """Undo `_mask`; every length is checked before a value is made of it."""
    end = (count + 7) // 8
    if len(data) < end:
        raise CodecError("the bitmask of the features is cut")
    mask = np.frombuffer(data[:end], np.uint8)
    if count % 8 and mask[-1] & (0xFF >> count % 8):
        raise CodecError("the bitmask of the features has more bits than values")
    present = int(np.bitwise_count(mask).sum(dtype=np.int64))
    planes: list[tuple[Unsigned, int]] = []
    for kind, bit in _LOWER[dtype.itemsize]:
        start, end = end, end + present * np.dtype(kind).itemsize
        if len(data) < end:
            raise CodecError("the features are cut")
        planes.append((np.frombuffer(data[start:end], kind), bit))
    top = _decompress(data[end:], present)

    bits = _bits(np.zeros(count, dtype))
    joined = np.empty(min(count, _BLOCK), bits.dtype)
    shifted = np.empty_like(joined)
    filled = 0
    for low in range(0, count, _BLOCK):
        block = bits[low : low + _BLOCK]
        some = np.unpackbits(mask[low // 8 : (low + _BLOCK) // 8], count=len(block))
        where = np.flatnonzero(some.view(np.bool_))
        end = filled + len(where)
        values, part = joined[: len(where)], shifted[: len(where)]
        values[...] = top[filled:end]
        values <<= 8 * dtype.itemsize - 8
        for plane, bit in planes:
            part[...] = plane[filled:end]
            values |= np.left_shift(part, bit, out=part)
        block[where] = values
        filled = end
    return bits.view(dtype)


def _decompress(data: memoryview, size: int) -> Bytes:
    try:
        if zstandard.frame_content_size(data) != size:
            raise CodecError("the compressed features have another size than expected")
        plain = zstandard.ZstdDecompressor().decompress(data, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CodecError(f"the compressed features are damaged ({error})") from error
    return np.frombuffer(plain, np.uint8)
