"""All figures of the trainer beside their peers and limits, written to docs/benchmarks.md: `make bench-trainer`.

Each table is a program of its own that can be run alone; every ratio is of one run. `--only NAME …` runs some of them
and leaves the others' tables in the file as they were.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import document

HERE = Path(__file__).resolve().parent
TARGET = HERE.parent / "docs/benchmarks.md"
TABLES = {
    "features": "Extraction beside the bare model and the way of the article",
    "thumbnails": "Thumbnails made while extracting",
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
    head = (
        "# Benchmarks\n\nWritten by `make bench-trainer`; each table also by its own program in `benchmarks/`. "
        "Only ratios within one table mean anything on another machine.\n"
    )
    sections = {one: f"{title}\n\n`benchmarks/{one}.py`" for one, title in TABLES.items()}
    body = f"{document.measured('tensorflow', 'tensorflow-cpu', 'keras')}.\n\n```text\n{table}\n```"
    document.write(TARGET, head, sections, name, body)


if __name__ == "__main__":
    sys.exit(main())
