"""All figures of the operator beside a raw client, written to docs/benchmarks-operator.md: `make bench-operator`.

The operator runs as a process of its own, on a real API server (with etcd) and a real mongod that each table starts
anew. `--only NAME …` runs some of the tables and leaves the others in the page as they were. (The file is not called
operator.py: that would hide the standard library's module from every program in this folder.)
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO / "tests/support"))

import document  # noqa: E402
from operating import minute, speed, standing  # noqa: E402
from operating.figures import Row, table  # noqa: E402
from operating.world import World, new_world  # noqa: E402

from real_apiserver import RealApiServer  # noqa: E402

TARGET = REPO / "docs/benchmarks-operator.md"
HEAD = """\
# Benchmarks of the operator

Written by `make bench-operator`. The operator is a process of its own with its default settings and, as in its image,
without docstrings (`PYTHONOPTIMIZE=2`); processor time and
memory are its own, from `/proc`. On the same machine, started anew for each table: etcd (without fsync), kube-apiserver
and mongod; and the one who measures. The raw client is the measuring program itself: plain HTTP and JSON over
kept connections, 16 threads, the same Jobs. Times are those at which a watch showed the change.

No Job controller, garbage collector, scheduler or kubelet runs. A small actor (`benchmarks/operating/actor.py`) writes
the status of Jobs and pods, and the records, as they and a trainer would. It does not schedule, pull, back off, retry,
post Events or train; so nobody else loads the API server, and nothing waits for a node.

Only ratios within one run mean anything on another machine.
"""


def tables(cycles: int, cycle_seconds: float) -> dict[str, tuple[str, Callable[[World], list[Row]]]]:
    """Give title and program of each table by name."""
    return {
        "one": ("One session, from its creation to its Job", speed.one),
        "burst": (f"{speed.AT_ONCE} sessions at once", speed.burst),
        "end": ("From the end of a Job to the end of its session", speed.end),
        "running": (f"{standing.RUNNING} sessions that train", standing.running),
        "writes": ("What a session of a minute costs", minute.writes),
        "finished": (f"{standing.FINISHED:,} sessions at their end", standing.finished),
        "foreign": ("Other people's pods and Jobs", standing.foreign),
        "cycles": ("Sessions that come and go", partial(standing.cycles, count=cycles, seconds=cycle_seconds)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the operator and write docs/benchmarks-operator.md.")
    parser.add_argument("--only", nargs="+", choices=list(tables(0, 0)), metavar="NAME", help="only these tables")
    parser.add_argument("--cycles", type=int, default=10_000, help="sessions made and deleted, at most")
    parser.add_argument("--cycle-seconds", type=float, default=900, help="time for them, at most")
    given = parser.parse_args()
    tools = Path(os.environ.get("TS_API_SERVER", REPO / ".cluster/bin"))
    missing = RealApiServer.missing(tools)
    if missing:
        print(f"{tools} holds no {missing}; run `make cluster`, or set TS_API_SERVER to the folder that does.")
        return 1
    # So that nothing is left running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    known = tables(given.cycles, given.cycle_seconds)
    sections = {name: title for name, (title, _) in known.items()}
    failed = 0
    for name in given.only or known:
        title, program = known[name]
        print(f"\n{title} (--only {name})\n", flush=True)
        with tempfile.TemporaryDirectory(prefix="bench-operator-") as folder:
            try:
                with new_world(Path(folder), tools, audit=name == "writes") as world:
                    versions = world.versions()
                    rows = table(program(world))
            except (RuntimeError, TimeoutError):
                log = Path(folder, "operator.log")
                tail = log.read_text(errors="replace")[-3000:] if log.exists() else ""
                print(f"{name} failed:\n{traceback.format_exc()}\nThe operator's last words:\n{tail}", flush=True)
                failed = 1
                continue
        print(rows, flush=True)
        on = document.measured("kopf", "kubernetes", "pymongo")
        command = f"python benchmarks/bench_operator.py --only {name}"
        said = (program.func if isinstance(program, partial) else program).__doc__
        body = f"{said}\n\n{rows}\n\n{on}, {versions}, Linux {platform.release()}. `{command}`"
        document.write(TARGET, HEAD, sections, name, body)
    return failed


if __name__ == "__main__":
    sys.exit(main())
