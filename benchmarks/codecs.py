"""Codecs for features, on features of six base models: size, and speed with and without GridFS.

    python benchmarks/codecs.py    # TS_SHARED_DATA names the folder with cifar10.tar.gz and weights/, as tests use them

Features are of 1,024 CIFAR-10 images; MobileNet has ImageNet weights, the others random ones of a fixed seed. "stored"
is what the trainer does. lz4 and blosc2 are no dependencies: where they are not installed, a line says so. Speeds are
in MB of raw features per second, the best of three: encode and decode of processor time in one thread, write and read
of time on the clock, with GridFS.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import zstandard
from bson import ObjectId
from PIL import Image

from trainingsession_trainer import codec, config
from trainingsession_trainer.base_models import open_base_model
from trainingsession_trainer.embedded import embedded_mongod
from trainingsession_trainer.extraction import choose_type
from trainingsession_trainer.mongodb import connect
from trainingsession_trainer.reporting import Reporter
from trainingsession_trainer.shard_files import ShardFiles

Array = npt.NDArray[Any]
Encode = Callable[[Array], Any]
Decode = Callable[[Any, np.dtype[Any], int], Array]

IMAGES = 1024
ROUNDS = 3
BLOCK = 1 << 16
MODELS: dict[str, dict[str, Any]] = {
    "InceptionV3 139x139": {"name": "InceptionV3", "inputSize": [139, 139]},
    "ResNet50 96x96": {"name": "ResNet50", "inputSize": [96, 96]},
    "DenseNet121 96x96": {"name": "DenseNet121", "inputSize": [96, 96]},
    "MobileNet 0.25 96x96": {"name": "MobileNet", "arguments": {"alpha": 0.25}, "inputSize": [96, 96]},
    "EfficientNetB0 96x96": {"name": "EfficientNetB0", "inputSize": [96, 96]},
    "ConvNeXtTiny 96x96": {"name": "ConvNeXtTiny", "inputSize": [96, 96]},
}
WEIGHTS = {"MobileNet": "weights/mobilenet-0.25-imagenet.weights.h5"}


def pictures(data: Path) -> npt.NDArray[np.uint8]:
    """Take as many training images of each class."""
    found, taken = [], dict[str, int]()
    with tarfile.open(data / "cifar10.tar.gz") as archive:
        for member in archive:
            parts = member.name.split("/")
            if "train" not in parts or not member.isfile() or taken.get(parts[-2], 0) > IMAGES // 10:
                continue
            taken[parts[-2]] = taken.get(parts[-2], 0) + 1
            file = archive.extractfile(member)
            assert file is not None
            found.append(np.asarray(Image.open(file)))
    return np.stack(found[:IMAGES])


def features(document: dict[str, Any], images: npt.NDArray[np.uint8], data: Path) -> Array:
    """Features as the trainer stores them."""
    spec = config.parse_spec({"dataset": {"name": "digits"}, "baseModel": {**document, "weights": "none"}}).base_model
    base = open_base_model(spec, Path(), Reporter(io.StringIO()), lambda: False).for_images((32, 32, 3))
    if spec.name in WEIGHTS:
        base.network.load_weights(data / WEIGHTS[spec.name])
    model = base.pixels_model()
    run = tf.function(lambda pixels: model(pixels, training=False))
    batches = [run(tf.constant(images[start : start + 64], tf.float32)).numpy() for start in range(0, len(images), 64)]
    values = np.concatenate(batches)
    return values.astype(choose_type(values)).reshape(-1)


def shuffled(values: Array) -> Array:
    """All first bytes, then all second ones."""
    return np.ascontiguousarray(values.view(np.uint8).reshape(-1, values.itemsize).T)


def unshuffled(data: bytes, dtype: np.dtype[Any]) -> Array:
    planes = np.frombuffer(data, np.uint8).reshape(dtype.itemsize, -1)
    return np.ascontiguousarray(planes.T).view(dtype).reshape(-1)


def plain(compress: Callable[[Any], bytes], decompress: Callable[[Any], bytes]) -> tuple[Encode, Decode]:
    return (
        lambda values: compress(values.view(np.uint8)),
        lambda data, dtype, _: np.frombuffer(decompress(data), dtype),
    )


def shuffle(compress: Callable[[Any], bytes], decompress: Callable[[Any], bytes]) -> tuple[Encode, Decode]:
    return (lambda values: compress(shuffled(values)), lambda data, dtype, _: unshuffled(decompress(data), dtype))


def bitmask(encode: Encode, decode: Decode) -> tuple[Encode, Decode]:
    """One bit per value, then the non-zero ones by another codec."""

    def mask(values: Array) -> bytes:
        bits = values.view(f"u{values.itemsize}")
        blocks = (bits[low : low + BLOCK] for low in range(0, len(bits), BLOCK))
        kept = np.concatenate([block.take(np.flatnonzero(block != 0)) for block in blocks])
        return np.packbits(bits != 0).tobytes() + bytes(encode(kept.view(values.dtype)))

    def unmask(data: Any, dtype: np.dtype[Any], count: int) -> Array:
        length = (count + 7) // 8
        present = np.unpackbits(np.frombuffer(data[:length], np.uint8), count=count).view(np.bool_)
        values, filled = np.zeros(count, dtype), 0
        kept = decode(data[length:], dtype, int(np.count_nonzero(present)))
        for low in range(0, count, BLOCK):
            where = np.flatnonzero(present[low : low + BLOCK])
            values[low : low + BLOCK][where] = kept[filled : filled + len(where)]
            filled += len(where)
        return values

    return mask, unmask


def zstd(level: int) -> tuple[Callable[[Any], bytes], Callable[[Any], bytes]]:
    return zstandard.ZstdCompressor(level=level).compress, zstandard.ZstdDecompressor().decompress


def candidates() -> Iterator[tuple[str, tuple[Encode, Decode]]]:
    raw: tuple[Encode, Decode] = (bytes, lambda data, dtype, _: np.frombuffer(data, dtype).copy())
    yield "stored", (codec.encode, lambda data, dtype, count: codec.decode(data, (count,), dtype))
    yield "raw", raw
    yield "bitmask", bitmask(*raw)
    for level in (1, 3, 9):
        yield f"zstd {level}", plain(*zstd(level))
        yield f"shuffle, zstd {level}", shuffle(*zstd(level))
        yield f"bitmask, zstd {level}", bitmask(*plain(*zstd(level)))
        yield f"bitmask, shuffle, zstd {level}", bitmask(*shuffle(*zstd(level)))
    if lz4 := optional("lz4.frame"):
        both = (lz4.compress, lz4.decompress)
        yield "lz4", plain(*both)
        yield "shuffle, lz4", shuffle(*both)
        yield "bitmask, lz4", bitmask(*plain(*both))
    if blosc2 := optional("blosc2"):
        for name in ("LZ4", "ZSTD"):
            for filtered in ("SHUFFLE", "BITSHUFFLE"):
                pair = blosc(blosc2, getattr(blosc2.Codec, name), getattr(blosc2.Filter, filtered))
                yield f"blosc2 {name.lower()} {filtered.lower()}", pair
                yield f"bitmask, blosc2 {name.lower()} {filtered.lower()}", bitmask(*pair)


def blosc(blosc2: Any, compressor: Any, filtered: Any) -> tuple[Encode, Decode]:
    options = {"codec": compressor, "clevel": 1, "filters": [filtered], "filters_meta": [0], "nthreads": 1}
    return (
        lambda values: blosc2.compress2(values, typesize=values.itemsize, **options),
        lambda data, dtype, _: np.frombuffer(blosc2.decompress2(bytes(data), nthreads=1), dtype),
    )


def optional(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        print(f"{name} is not installed, so it is left out")
        return None


def seconds(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Give the seconds on the clock, those of the processor, and the result."""
    started = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - started[0], max(1e-6, time.process_time() - started[1]), result


def row(files: ShardFiles, values: Array, encode: Encode, decode: Decode) -> str:
    times: list[tuple[float, ...]] = []
    for _ in range(ROUNDS):
        file_id = ObjectId()
        packing, encoding, data = seconds(lambda: encode(values))
        writing, _, _ = seconds(lambda: files.write(file_id, "shard", data))  # noqa: B023 - called at once
        digest = hashlib.sha256(data).hexdigest()
        reading, _, found = seconds(lambda: files.read(file_id, len(data), digest))  # noqa: B023
        unpacking, decoding, back = seconds(lambda: decode(found, values.dtype, len(values)))  # noqa: B023
        assert np.array_equal(back.view(np.uint8), values.view(np.uint8))
        files.delete(file_id)
        times.append((encoding, decoding, packing + writing, reading + unpacking))
    megabytes = values.nbytes / 1e6
    speeds = " ".join(f"{megabytes / min(column):7.0f}" for column in zip(*times))
    return f"{len(data) / values.nbytes:6.3f} {speeds}"


def main(data: Path) -> None:
    images = pictures(data)
    chosen = list(candidates())
    with tempfile.TemporaryDirectory() as folder, embedded_mongod(Path(folder)) as uri:
        files = ShardFiles(connect(uri, "codecs"), "codecs")
        for name, document in MODELS.items():
            values = features(document, images, data)
            zeros = 1 - np.count_nonzero(values) / len(values)
            print(f"\n{name}, {values.dtype}, {values.nbytes / 1e6:.1f} MB, {zeros:.0%} zeros")
            print(f"{'':32} {'size':>6} {'encode':>7} {'decode':>7} {'write':>7} {'read':>7}", flush=True)
            for title, pair in chosen:
                print(f"{title:32} {row(files, values, *pair)}", flush=True)


if __name__ == "__main__":
    folder = os.environ.get("TS_SHARED_DATA")
    if folder:
        main(Path(folder))
    else:
        print("Codecs: not measured; set TS_SHARED_DATA to the folder with cifar10.tar.gz and weights/.")
