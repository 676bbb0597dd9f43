"""The digest of the spec's fields that decide a session's features, known before anything is opened or built.

It lets a session find its features without the images, and the operator know that no GPU is needed. The operator has
the same function; a contract test compares the two on real specs.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

VERSION = 1


def recipe_digest(spec: Mapping[str, Any]) -> str | None:
    """Digest a spec as the API holds it (64 hex digits); None where only reading the files tells what they are.

    An address may hold something else tomorrow, so data and weights by address count only with their SHA-256, and then
    the address does not matter; data also with a revision, the user's word for what the address holds. Defaults are
    filled in and 1.0 equals 1: what means the same has the same digest.
    """
    dataset, base = spec.get("dataset") or {}, spec.get("baseModel") or {}
    data = {"name": dataset["name"]} if dataset.get("name") else _images(dataset)
    weights = _content(base["weightsFrom"]) if base.get("weightsFrom") else base.get("weights") or "imagenet"
    if data is None or weights is None:
        return None
    recipe = {
        "version": VERSION,
        "dataset": data,
        "baseModel": {
            "name": base.get("name"),
            "arguments": base.get("arguments") or {},
            "weights": weights,
            "inputSize": base.get("inputSize"),
            "pooling": base.get("pooling") or "none",
            "precision": base.get("precision") or "float32",
            # Not where unset, so that sets of before there was a choice are found.
            **({"layer": base["layer"]} if base.get("layer") else {}),
        },
    }
    text = json.dumps(_plain(recipe), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def ends_in_npz(uri: str) -> bool:
    """Whether an address names a file of arrays by its ending."""
    return re.split("[?#]", uri, maxsplit=1)[0].lower().endswith(".npz")


def _images(dataset: Mapping[str, Any]) -> dict[str, Any] | None:
    """Name what an address holds: by its digest, or by the revision that the user gives it there."""
    content = _content(dataset)
    if content is None and dataset.get("revision"):
        content = {key: dataset[key] for key in ("uri", "claimName", "revision") if dataset.get(key)}
    arrays = dataset.get("format") == "npz" or (not dataset.get("format") and ends_in_npz(dataset.get("uri") or ""))
    return content | {"format": "npz"} if content and arrays else content


def _content(source: Mapping[str, Any]) -> dict[str, Any] | None:
    return {"sha256": source["sha256"]} if source.get("sha256") else None


def _plain(value: Any) -> Any:
    """Write whole numbers as integers: a 1.0 arrives as 1 from some clients."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
