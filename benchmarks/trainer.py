"""All figures of the trainer beside their peers and limits, written to docs/benchmarks.md: `make bench-trainer`.

Each table is a program of its own that can be run alone; every ratio is of one run. `--only NAME …` runs some of them
and leaves the others' tables in the file as they were.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGET = HERE.parent / "docs/benchmarks.md"
TABLES = {
    "features": "Extraction beside the bare model and the way of the article",
    "memory": "Memory while extracting",
    "store": "The feature store beside plain GridFS",
    "codecs": "Codecs on real features",
    "reuse": "A second session on the same features",
    "training": "Training of the head beside a bare loop",
    "streaming": "Features that do not fit into memory",
    "workers": "Two workers beside one",
    "scale_out": "Many workers on one store",
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the trainer and write docs/benchmarks.md.")
    parser.add_argument("--only", nargs="+", choices=list(TABLES), default=list(TABLES), metavar="NAME")
    chosen = parser.parse_args().only
    failed = 0
    plain = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    for name in chosen:
        print(f"\n{TABLES[name]} (benchmarks/{name}.py)\n", flush=True)
        lines: list[str] = []
        command = [sys.executable, HERE / f"{name}.py"]
        # TensorFlow notes what the processor can do; that is no result.
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=plain) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            for line in process.stdout:
                print(line, end="", flush=True)
                lines.append(line.rstrip())
            errors = process.stderr.read()
        if process.returncode:
            print(f"{name} failed ({process.returncode}):\n{errors}", file=sys.stderr, flush=True)
            failed = 1
        else:
            write(name, "\n".join(lines).strip())
    return failed


def write(name: str, table: str) -> None:
    """Put one table into the document."""
    found = re.findall(r"<!-- (\w+) -->\n(.*?)\n<!-- end -->", TARGET.read_text() if TARGET.exists() else "", re.DOTALL)
    sections = dict(found)
    sections[name] = f"Measured {datetime.date.today()} on {machine()}.\n\n```text\n{table}\n```"
    parts = [
        "# Benchmarks\n",
        "Written by `make bench-trainer`; each table also by its own program in `benchmarks/`. Only ratios within one "
        "table mean anything on another machine.\n",
    ]
    for known, title in TABLES.items():
        if known in sections:
            parts.append(
                f"## {title}\n\n`benchmarks/{known}.py`\n\n<!-- {known} -->\n{sections[known]}\n<!-- end -->\n"
            )
    TARGET.write_text("\n".join(parts))


def is_installed(name: str) -> bool:
    """Whether there is a distribution of this name."""
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def machine() -> str:
    """Name processor, memory and versions."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    found = {name: version(name) for name in ("tensorflow", "tensorflow-cpu", "keras") if is_installed(name)}
    packages = ", ".join(f"{name} {number}" for name, number in found.items())
    return (
        f"{os.cpu_count()} cores of {model[1] if model else 'an unknown processor'}, {memory:.0f} GB, without a GPU; "
        f"Python {platform.python_version()}, {packages}"
    )


if __name__ == "__main__":
    sys.exit(main())
