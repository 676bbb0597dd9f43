"""docs/scaling.md says what the benchmarks measured, and computes rightly from it."""

from __future__ import annotations

import math
import re


def test_sizes_are_the_products_that_the_page_says_they_are(repo):
    text = (repo / "docs/scaling.md").read_text()
    rows = re.findall(
        r"^\| [^|]+ \| ([^|]+) \| ([\d,]+) \| (at most 1|[\d.]+) \| (?:at most )?([\d.]+) (MB|GB) \|$",
        text,
        re.MULTILINE,
    )
    assert len(rows) == 4
    for output, raw, stored, total, unit in rows:
        values = math.prod(map(int, re.findall(r"\d+", output)))
        assert int(raw.replace(",", "")) == 2 * values
        ratio = 1 if stored.startswith("at most") else float(stored)
        wanted = 2 * values * ratio * 60_000 / {"MB": 1e6, "GB": 1e9}[unit]
        assert abs(float(total) - wanted) <= 0.05 * wanted, (output, wanted)


def test_ratios_are_those_of_the_benchmark_of_codecs(repo):
    measured = (repo / "docs/benchmarks.md").read_text()
    text = (repo / "docs/scaling.md").read_text()
    for name, said in (("MobileNet 0.25 96x96", "0.31"), ("InceptionV3 139x139", "0.45"), ("ResNet50 96x96", "1.00")):
        (stored,) = re.findall(rf"^{re.escape(name)}, float16, .*\n.*\nstored +([\d.]+) ", measured, re.MULTILINE)
        assert abs(float(stored) - float(said)) < 0.01, (name, stored)
        assert f"| {said} |" in text


def test_what_it_says_of_operator_and_mongodb_was_measured(repo):
    text = (repo / "docs/scaling.md").read_text()
    operator = (repo / "docs/benchmarks-operator.md").read_text()
    for said, measured in (
        ("77 Jobs a second", "| 300 at once: Jobs with status | ≥ 70/s | 77/s |"),
        ("0.32 cores", "| the operator's use of processors |  | 0.32 cores |"),
        ("123 MiB", "| the operator's memory |  | 123 MiB |"),
        ("10 status writes a second", "| 500 running: status writes | ≤ 20/s | 10.3/s |"),
        ("0.007 cores", "0.0072 cores"),
        ("120 MiB", "| resident memory | ≤ 130 MiB | 120 MiB |"),
        ("10 writes and 38 reads", "| its reads |  | 38 ("),
    ):
        assert said in " ".join(text.split()), said
        assert measured in operator, measured
    assert "21,700" in (repo / "benchmarks/README.md").read_text()
    assert "2,100" in (repo / "benchmarks/README.md").read_text()
