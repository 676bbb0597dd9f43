"""YAML as kubectl reads it.

PyYAML follows YAML 1.1 to the letter: `1e-3` is a string, `1:30` is ninety, `2024-01-31` is a date. To kubectl they
are a number and two strings. A learning rate must not change its type with the tool that reads it.
"""

from __future__ import annotations

import re
from typing import IO, Any

import yaml


class Loader(yaml.SafeLoader):
    """SafeLoader with the numbers of YAML 1.2."""


_REPLACED = ("tag:yaml.org,2002:float", "tag:yaml.org,2002:int", "tag:yaml.org,2002:timestamp")
# Copied before it is changed, else every other user of SafeLoader would read differently too.
Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
# The first that matches wins, and every integer is a float too.
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"^[-+]?(?:0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)$"),
    list("-+0123456789"),
)
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


def load_all(stream: str | IO[str]) -> list[Any]:
    """Read every document of a stream; raises yaml.YAMLError."""
    return list(yaml.load_all(stream, Loader=Loader))
