"""Arguments of Keras classes as they stand in a spec: which are accepted, and a sentence for one that is not.

Keras would accept more than is safe (objects by module path, functions by name), so only plain values pass, and
objects only where Keras has a fixed list of them: initializers, regularizers, constraints.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Mapping
from typing import Any

from .errors import SpecError
from .structure import clip, shown

_OBJECT_LISTS = {"initializer": "initializers", "regularizer": "regularizers", "constraint": "constraints"}


def check_arguments(
    owner: type, config: Mapping[str, Any], path: str, *, extra: tuple[str, ...] = (), refused: tuple[str, ...] = ()
) -> None:
    """Check the names of `config` against the constructor of `owner` and that its values are plain; raises SpecError.

    `extra` are accepted beside the constructor's own, `refused` are not although the constructor has them.
    """
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(owner).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) and name not in refused
    }
    accepted = (*parameters, *extra)
    title = getattr(owner, "__name__", str(owner))
    for name, value in config.items():
        if name not in accepted:
            raise SpecError(f"{path}.{clip(name)} is not an argument of {title}; {nearest(name, accepted)}.")
        _check_value(name, value, f"{path}.{name}")
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and config.get(name) is None:
            raise SpecError(f"{path}.{name} is missing; {title} needs it.")


def nearest(name: str, accepted: tuple[str, ...]) -> str:
    """Say which accepted name was probably meant, or list them."""
    close = difflib.get_close_matches(name, accepted, n=1, cutoff=0.6)
    return f"did you mean {close[0]}" if close else "accepted are " + ", ".join(accepted)


def keras_words(error: BaseException) -> str:
    """Give the first sentence of what Keras said, as part of a sentence."""
    text = " ".join(str(error).split()) or type(error).__name__
    return clip(text.split(". ", 1)[0].split(" Full ", 1)[0].rstrip("."), 300)


def _check_value(name: str, value: Any, path: str) -> None:
    if isinstance(value, Mapping):
        _check_object(name, value, path)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            if isinstance(item, Mapping):
                raise SpecError(f"{path}[{index}] is {shown(dict(item))}; use plain values in a list.")
            _check_value(name, item, f"{path}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise SpecError(f"{path} is {value}; it must be a finite number.")
    elif name == "data_format" and value not in (None, "channels_last"):
        raise SpecError(f"{path} is {shown(value)}; features are channels_last, remove it.")


def _check_object(name: str, value: Mapping[str, Any], path: str) -> None:
    import keras

    kind = name.rsplit("_", 1)[-1]
    if kind not in _OBJECT_LISTS:
        raise SpecError(f"{path} is {shown(dict(value))}; use a plain value.")
    module = getattr(keras, _OBJECT_LISTS[kind])
    known = tuple(sorted(entry for entry in dir(module) if entry[0].isupper() and entry != kind.capitalize()))
    unknown = sorted(set(value) - {"class_name", "config"})
    if unknown:
        raise SpecError(f"{path}.{clip(unknown[0])} is not accepted; give class_name and config only.")
    class_name = value.get("class_name")
    if class_name not in known:
        raise SpecError(f"{path}.class_name is {shown(class_name)}; {nearest(str(class_name), known)}.")
    config = value.get("config", {})
    if not isinstance(config, Mapping):
        raise SpecError(f"{path}.config is {shown(config)}; it must be an object.")
    check_arguments(getattr(module, class_name), config, f"{path}.config")
