"""The page that a benchmark writes: one section per table, each replaced alone."""

from __future__ import annotations

import datetime
import os
import platform
import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def write(target: Path, head: str, sections: Mapping[str, str], name: str, body: str) -> None:
    """Put the section `name` into the page and leave the others as they are.

    `sections` gives heading (and what stands below it) by name, in the order of the page.
    """
    found = re.findall(r"<!-- (\w+) -->\n(.*?)\n<!-- end -->", target.read_text() if target.exists() else "", re.DOTALL)
    known = {**dict(found), name: body}
    parts = [
        f"## {heading}\n\n<!-- {one} -->\n{known[one]}\n<!-- end -->\n"
        for one, heading in sections.items()
        if one in known
    ]
    target.write_text("\n".join([head, *parts]))


def measured(*packages: str) -> str:
    """Say when and on what: processor, memory, versions of those packages that are installed."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    versions = "".join(f", {name} {number}" for name in packages if (number := _version(name)))
    return (
        f"Measured {datetime.date.today()} on {os.cpu_count()} cores of "
        f"{model[1] if model else 'an unknown processor'}, {memory:.0f} GB, without a GPU; "
        f"Python {platform.python_version()}{versions}"
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
