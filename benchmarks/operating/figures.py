"""A figure, what is wanted of it, and how both are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    what: str
    wanted: str
    seen: str
    ratio: str = ""
    """To a raw client in the same run."""


def percentile(values: Sequence[float], percent: float) -> float:
    """Give the nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[max(0, ceil(len(ordered) * percent / 100) - 1)]


def milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms"


def p50_p99(values: Sequence[float]) -> str:
    """Write median and 99th percentile of times in seconds."""
    return f"p50 {milliseconds(percentile(values, 50))}, p99 {milliseconds(percentile(values, 99))}"


def table(rows: Sequence[Row]) -> str:
    """Write the rows as Markdown."""
    lines = ["| | wanted | seen | of a raw client |", "| --- | --- | --- | --- |"]
    lines += [f"| {row.what} | {row.wanted} | {row.seen} | {row.ratio} |" for row in rows]
    return "\n".join(lines)
