"""Turn plain data (JSON, YAML) into frozen dataclasses; the first thing that is wrong becomes one sentence.

A dataclass field says what it accepts by its type and by `accepts(...)`; names are camelCase in the data and
snake_case in Python.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, TypeVar

from .errors import SpecError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Rule:
    """Bounds of one field, in the words of the CRD's schema."""

    enum: tuple[str, ...] = ()
    pattern: str = ""
    minimum: Decimal | None = None
    above: Decimal | None = None
    maximum: Decimal | None = None
    max_length: int | None = None
    min_items: int | None = None
    max_items: int | None = None


def accepts(default: Any = dataclasses.MISSING, *, factory: Any = dataclasses.MISSING, **bounds: Any) -> Any:
    """Declare a field with bounds (see `Rule`); without default or factory the field is required."""
    for name in ("minimum", "above", "maximum"):
        if name in bounds:
            bounds[name] = Decimal(str(bounds[name]))
    metadata = {"rule": Rule(**bounds)}
    if factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def camel(name: str) -> str:
    """`claim_name` -> `claimName`."""
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)


def snake(name: str) -> str:
    """`claimName` -> `claim_name`."""
    return re.sub(r"[A-Z]", lambda letter: "_" + letter[0].lower(), name)


def build(cls: type[T], data: Any, path: str) -> T:
    """Make `cls` from a mapping found at `path`; raises SpecError. A null counts as a field that is not set."""
    if not isinstance(data, Mapping):
        raise SpecError(f"{path} is {shown(data)}; it must be an object.")
    fields = {camel(field.name): field for field in dataclasses.fields(typing.cast("Any", cls))}
    hints = typing.get_type_hints(cls)
    for key in data:
        if key not in fields:
            raise SpecError(f"{path}.{clip(str(key))} is not a field; {_nearest(str(key), fields)}.")
    values = {}
    for key, field in fields.items():
        if data.get(key) is None:
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                raise SpecError(f"{path}.{key} is missing; set it.")
            continue
        values[field.name] = _convert(hints[field.name], data[key], f"{path}.{key}", field.metadata.get("rule", Rule()))
    return cls(**values)


def clip(text: str, limit: int = 120) -> str:
    """Keep a user's value from flooding a sentence."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def shown(value: Any) -> str:
    """Write a user's value as it appears in a sentence."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return clip(str(value) if isinstance(value, Decimal) else repr(value))


def _nearest(key: str, known: Iterable[str]) -> str:
    names = list(known)
    lowered = {name.lower(): name for name in names}
    close = difflib.get_close_matches(key.lower(), lowered, n=1, cutoff=0.6)
    return f"did you mean {lowered[close[0]]}" if close else "the fields are " + ", ".join(names)


def _convert(hint: Any, value: Any, path: str, rule: Rule) -> Any:
    if isinstance(hint, types.UnionType):
        options = [option for option in typing.get_args(hint) if option is not types.NoneType]
        # A quantity of Kubernetes is an integer or a string: what it is decides which rule it has to obey.
        hint = int if int in options and isinstance(value, int) else options[-1]
    if dataclasses.is_dataclass(hint):
        return build(typing.cast("type[Any]", hint), value, path)
    origin = typing.get_origin(hint)
    if origin is tuple:
        return _items(typing.get_args(hint)[0], value, path, rule)
    if origin in (dict, Mapping):
        return _free_object(value, path, rule)
    return _scalar(hint, value, path, rule)


def _items(hint: Any, value: Any, path: str, rule: Rule) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise SpecError(f"{path} is {shown(value)}; it must be a list.")
    low, high = rule.min_items or 0, rule.max_items
    if len(value) < low or (high is not None and len(value) > high):
        wanted = f"exactly {low}" if low == high else f"{low} to {high}"
        raise SpecError(f"{path} has {len(value)} items; it must have {wanted}.")
    inner = dataclasses.replace(rule, min_items=None, max_items=None)
    return tuple(_convert(hint, item, f"{path}[{index}]", inner) for index, item in enumerate(value))


def _free_object(value: Any, path: str, rule: Rule) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise SpecError(f"{path} is {shown(value)}; it must be an object.")
    if rule.max_items is not None and len(value) > rule.max_items:
        raise SpecError(f"{path} has {len(value)} entries; at most {rule.max_items} are accepted.")
    return {str(key): item for key, item in value.items()}


def _scalar(hint: Any, value: Any, path: str, rule: Rule) -> Any:
    if hint is bool:
        if not isinstance(value, bool):
            raise SpecError(f"{path} is {shown(value)}; it must be true or false.")
        return value
    if hint is str:
        return _string(value, path, rule)
    return _number(hint, value, path, rule)


def _string(value: Any, path: str, rule: Rule) -> str:
    if not isinstance(value, str):
        raise SpecError(f"{path} is {shown(value)}; it must be a string.")
    if rule.enum and value not in rule.enum:
        raise SpecError(f"{path} is {shown(value)}; it must be one of {', '.join(rule.enum)}.")
    if rule.max_length is not None and len(value) > rule.max_length:
        raise SpecError(f"{path} has {len(value)} characters; at most {rule.max_length} are accepted.")
    if rule.pattern and not re.search(rule.pattern, value):
        raise SpecError(f"{path} is {shown(value)}; it must match {rule.pattern}.")
    return value


def _number(hint: Any, value: Any, path: str, rule: Rule) -> Any:
    kind = "an integer" if hint is int else "a number"
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal) or not _is_finite(value):
        raise SpecError(f"{path} is {shown(value)}; it must be {kind}.")
    # repr gives the shortest digits that stand for the float, so 0.1 is read as the decimal 0.1 that was written.
    number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if hint is int and number != number.to_integral_value():
        raise SpecError(f"{path} is {shown(value)}; it must be an integer.")
    low_enough = rule.maximum is None or number <= rule.maximum
    high_enough = (rule.minimum is None or number >= rule.minimum) and (rule.above is None or number > rule.above)
    if not (low_enough and high_enough):
        raise SpecError(f"{path} is {shown(value)}; it must be {_range(rule)}.")
    return int(number) if hint is int else hint(number)


def _is_finite(value: float | Decimal) -> bool:
    # An integer is; one of 400 digits is too large to be asked.
    return isinstance(value, int) or math.isfinite(value)


def _range(rule: Rule) -> str:
    parts = []
    if rule.above is not None:
        parts.append(f"above {rule.above}")
    if rule.minimum is not None:
        parts.append(f"at least {rule.minimum}")
    if rule.maximum is not None:
        parts.append(f"at most {rule.maximum}")
    return " and ".join(parts)
