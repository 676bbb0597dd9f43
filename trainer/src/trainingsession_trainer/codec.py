"""Features as bytes: one shard's array, packed without loss, with a header that says how.

    4 bytes magic, 1 version, 1 codec, 1 data type, 1 number of axes, 4 per axis (little endian), then the payload

Half of all base models end in a ReLU and leave many zeros, which a bitmask removes; the others compress only a little
after their bytes are grouped by significance, or not at all. The smallest wins, but anything that is not at least
5 % smaller than the plain values is not worth its decoding.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import zstandard

Array = npt.NDArray[np.generic]

MAGIC = b"TSFT"
VERSION = 1
RAW, BITMASK, SHUFFLED, BITMASK_SHUFFLED = range(4)
WORTHWHILE = 0.95
_DTYPES: dict[int, np.dtype[np.generic]] = {0: np.dtype("<f2"), 1: np.dtype("<f4")}
_PREFIX = struct.Struct("<4sBBBB")
_MAX_AXES = 8
_LEVEL = 3


class CodecError(ValueError):
    """The bytes are not what they should be: damaged, cut, or of another array."""


def encode(array: Array) -> bytes:
    """Pack a float16 or float32 array of any shape; raises ValueError for another type."""
    codes = {dtype: code for code, dtype in _DTYPES.items()}
    dtype = array.dtype.newbyteorder("<")
    if dtype not in codes or array.ndim > _MAX_AXES:
        raise ValueError(f"features are float16 or float32 with at most {_MAX_AXES} axes, not {array.dtype}")
    values = np.ascontiguousarray(array, dtype)
    flat = values.reshape(-1)
    best, payload = RAW, flat.tobytes()
    limit = WORTHWHILE * len(payload)
    for codec, pack in _PACKERS.items():
        candidate = pack(flat)
        if len(candidate) <= limit and len(candidate) < len(payload):
            best, payload = codec, candidate
    header = _PREFIX.pack(MAGIC, VERSION, best, codes[dtype], array.ndim)
    return b"".join((header, struct.pack(f"<{array.ndim}I", *array.shape), payload))


def decode(data: bytes, shape: Sequence[int], dtype: npt.DTypeLike) -> Array:
    """Unpack an array that must have this shape and type; raises CodecError.

    Nothing is allocated for what the bytes claim about themselves before it agrees with what is expected.
    """
    if len(data) < _PREFIX.size:
        raise CodecError(f"{len(data)} bytes are too few for features")
    magic, version, codec, code, axes = _PREFIX.unpack_from(data)
    if magic != MAGIC or version != VERSION:
        raise CodecError("the bytes are no features of a known version")
    start = _PREFIX.size + 4 * axes
    if axes > _MAX_AXES or len(data) < start or code not in _DTYPES or codec not in _UNPACKERS:
        raise CodecError("the header of the features is damaged")
    found = struct.unpack_from(f"<{axes}I", data, _PREFIX.size)
    if found != tuple(shape) or _DTYPES[code] != np.dtype(dtype).newbyteorder("<"):
        raise CodecError(f"features of {_DTYPES[code]}{list(found)} where {np.dtype(dtype)}{list(shape)} are expected")
    flat = _UNPACKERS[codec](memoryview(data)[start:], math.prod(found), _DTYPES[code])
    return flat.reshape(found)


def _bits(flat: Array) -> Array:
    """Look at the values as integers, so that -0.0 counts as a value and NaN keeps its payload."""
    return flat.view(f"<u{flat.dtype.itemsize}")


def _shuffle(flat: Array) -> bytes:
    """Compress after grouping first bytes, second bytes, …: exponents resemble each other, mantissas do not."""
    planes = flat.view(np.uint8).reshape(-1, flat.dtype.itemsize).T
    return zstandard.ZstdCompressor(level=_LEVEL).compress(planes.tobytes())


def _unshuffle(data: memoryview, count: int, dtype: np.dtype[np.generic]) -> Array:
    size = count * dtype.itemsize
    if size == 0:
        return np.empty(0, dtype)
    try:
        if zstandard.frame_content_size(data) != size:
            raise CodecError("the compressed features have another size than expected")
        plain = zstandard.ZstdDecompressor().decompress(data, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CodecError(f"the compressed features are damaged ({error})") from error
    planes = np.frombuffer(plain, np.uint8).reshape(dtype.itemsize, count)
    return np.ascontiguousarray(planes.T).view(dtype).reshape(-1)


def _plain(flat: Array) -> bytes:
    return flat.tobytes()


def _unplain(data: memoryview, count: int, dtype: np.dtype[np.generic]) -> Array:
    if len(data) != count * dtype.itemsize:
        raise CodecError(f"{len(data)} bytes where {count * dtype.itemsize} are expected")
    return np.frombuffer(data, dtype).copy()


def _mask(flat: Array, pack: Callable[[Array], bytes]) -> bytes:
    """One bit per value that tells whether it is non-zero, then only those values."""
    present = _bits(flat) != 0
    return np.packbits(present).tobytes() + pack(flat[present])


def _unmask(
    data: memoryview,
    count: int,
    dtype: np.dtype[np.generic],
    unpack: Callable[[memoryview, int, np.dtype[np.generic]], Array],
) -> Array:
    length = (count + 7) // 8
    if len(data) < length:
        raise CodecError("the bitmask of the features is cut")
    present = np.unpackbits(np.frombuffer(data[:length], np.uint8), count=count).astype(bool)
    flat = np.zeros(count, dtype)
    flat[present] = unpack(data[length:], int(present.sum()), dtype)
    return flat


_PACKERS: dict[int, Callable[[Array], bytes]] = {
    BITMASK: lambda flat: _mask(flat, _plain),
    SHUFFLED: _shuffle,
    BITMASK_SHUFFLED: lambda flat: _mask(flat, _shuffle),
}
_UNPACKERS: dict[int, Callable[[memoryview, int, np.dtype[np.generic]], Array]] = {
    RAW: _unplain,
    BITMASK: lambda data, count, dtype: _unmask(data, count, dtype, _unplain),
    SHUFFLED: _unshuffle,
    BITMASK_SHUFFLED: lambda data, count, dtype: _unmask(data, count, dtype, _unshuffle),
}
