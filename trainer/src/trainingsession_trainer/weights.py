"""Where a base model's weights come from: Keras's ImageNet files, a file of the user's, or a fixed seed."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import keras
import numpy as np

from .arguments import keras_words
from .datasets import Disk, download
from .datasets.fetch import fetch
from .errors import DataError, SpecError, Stopped
from .kept_weights import KeptWeights
from .reporting import Reporter
from .spec import BaseModel as BaseModelSpec
from .structure import shown
from .weights_mirror import keras_weights_mirror

SEED = 0
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
MOUNT = Path("/mnt/weights")
_FIELD = "spec.baseModel.weightsFrom"
_SUFFIXES = (".weights.h5", ".h5")

Builder = Callable[[str | None], keras.Model]


def load_weights(
    spec: BaseModelSpec,
    build: Builder,
    work: Path,
    reporter: Reporter,
    stop: Callable[[], bool],
    kept: KeptWeights | None = None,
    disk: Disk | None = None,
) -> tuple[keras.Model, str | None]:
    """Build the network without its top and give it its weights, from `kept` where they are there.

    Gives the network and the SHA-256 of the file that is kept. Raises SpecError, DataError, StorageError, Stopped.
    """
    if spec.weights_from is not None:
        suffix = _suffix(spec.weights_from.uri)
        network = build(None)
        # An address may hold something else tomorrow; only a digest says what it is.
        known = spec.weights_from.sha256 if kept else None
        path = kept.restore(known, work, disk) if kept and known else None
        # Keras reads a file by its suffix.
        path = path or fetch(spec.weights_from, _FIELD, MOUNT, work / f"base{suffix}", reporter, stop, disk)
        _load_file(network, spec, path)
        return network, kept.keep(known, path) if kept and known else None
    if spec.weights == "none":
        return build(None), None
    return _imagenet(spec, build, reporter, stop, kept, disk)


def _imagenet(
    spec: BaseModelSpec,
    build: Builder,
    reporter: Reporter,
    stop: Callable[[], bool],
    kept: KeptWeights | None,
    disk: Disk | None,
) -> tuple[keras.Model, str | None]:
    reporter.info(f"Getting the ImageNet weights of {spec.name}")
    # Keras keeps what it downloads here; on a person's own machine it finds it again by itself.
    folder = Path(os.environ["KERAS_HOME"]) / "models" if kept and "KERAS_HOME" in os.environ else None
    name = f"imagenet/{spec.name}/{json.dumps([dict(spec.arguments), spec.input_size], sort_keys=True)}"
    restored = kept.restore(name, folder, disk) if kept and folder else None
    before = set(folder.iterdir()) if folder and folder.is_dir() else set()
    network = _build_imagenet(spec, build, reporter, stop)
    if kept is None or folder is None or not folder.is_dir():
        return network, None
    found = restored or next(iter(set(folder.iterdir()) - before), None)
    return network, kept.keep(name, found) if found else None


def _build_imagenet(spec: BaseModelSpec, build: Builder, reporter: Reporter, stop: Callable[[], bool]) -> keras.Model:
    # Keras would draw a progress bar with control characters.
    keras.config.disable_interactive_logging()
    try:
        # Keras asks once and waits for ever, so both are done for it.
        with keras_weights_mirror(), _network_timeout(download.NETWORK_SECONDS):
            return download.persist(
                lambda: build("imagenet"),
                lambda error: download.may_pass(_behind(error)),
                lambda error: download.cause(_behind(error)),
                reporter,
                stop,
            )
    except (SpecError, Stopped):
        raise
    except Exception as error:
        # Keras raises a bare Exception when its server cannot be reached, ValueError for a wrong digest.
        raise DataError(
            f"The ImageNet weights of {spec.name} could not be downloaded ({keras_words(error)}); allow access to "
            "the address or set the chart's trainer.weightsMirror, give them with spec.baseModel.weightsFrom, or set "
            "spec.baseModel.weights to none."
        ) from error


def _behind(error: BaseException) -> BaseException:
    """Give the network's own error where Keras put a bare Exception with its words in its place."""
    return error.__context__ if type(error) is Exception and error.__context__ is not None else error


@contextmanager
def _network_timeout(seconds: float) -> Iterator[None]:
    """Have every connection that names no timeout of its own fail after so long a silence; Keras's have none."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def weights_identity(spec: BaseModelSpec, network: keras.Model) -> Mapping[str, Any]:
    """Say which weights they are, for the key of a feature set.

    Random ones are known by how they were drawn: devices differ in the last bit of a random number.
    """
    if spec.weights_from is None and spec.weights == "none":
        return {"seed": SEED, "keras": keras.__version__}
    return {"sha256": weights_digest(network)}


def weights_digest(network: keras.Model) -> str:
    """SHA-256 over all variables in order: shape, type, bytes. Names count layers per process, so they are left out."""
    digest = hashlib.sha256()
    for variable in network.weights:
        values = np.ascontiguousarray(variable.numpy())
        digest.update(f"{values.dtype.str}{values.shape};".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def _suffix(uri: str) -> str:
    try:
        name = unquote(urlsplit(uri).path)
    except ValueError as error:
        raise SpecError(f"{_FIELD}.uri is {shown(uri)}, which is no address ({error}); correct it.") from error
    for suffix in _SUFFIXES:
        if name.endswith(suffix):
            return suffix
    raise SpecError(f"{_FIELD}.uri is {shown(uri)}; weights are read from files that end in .weights.h5 or .h5.")


def _load_file(network: keras.Model, spec: BaseModelSpec, path: Path) -> None:
    try:
        with warnings.catch_warnings():
            # Of a part that the file does not hold Keras only warns, and leaves it random.
            warnings.filterwarnings("error", message=".*freshly-initialized", category=UserWarning)
            network.load_weights(path)
    except (OSError, RuntimeError) as error:  # h5py raises both for damaged files
        raise DataError(f"{_FIELD} is no readable HDF5 file ({keras_words(error)}); write the file again.") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, UserWarning) as error:
        raise SpecError(
            f"{_FIELD} holds no weights of {spec.name} without its top and with these arguments "
            f"({keras_words(error)}); give the file for this model."
        ) from error
    if spec.name.startswith("EfficientNetB"):
        _correct_variance(network)


def _correct_variance(network: keras.Model) -> None:
    """Make an EfficientNet of the published weights normalize as published.

    Their file holds deviations in the place of variances, and Keras mends that with a further layer that it adds only
    where it fetches the file itself (keras/src/applications/efficientnet.py). A file that was trained in Keras from
    the start has another mean and is left alone.
    """
    layer = next(layer for layer in network.layers if isinstance(layer, keras.layers.Normalization))
    mean, variance, *rest = layer.get_weights()
    if np.allclose(mean, IMAGENET_MEAN, atol=1e-3):
        layer.set_weights([mean, variance * np.asarray(IMAGENET_DEVIATION, variance.dtype), *rest])
        layer.finalize_state()
