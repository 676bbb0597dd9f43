"""All figures of this machine, one table after the other: `make bench`."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> int:
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "?",
    )
    print(f"{os.cpu_count()} cores, {model}, Python {platform.python_version()}\n", flush=True)
    plain = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    failed = subprocess.run([sys.executable, HERE / "features.py"], check=False, env=plain).returncode
    print(flush=True)
    if not (HERE.parent / ".cluster/kubeconfig").is_file():
        print("From a TrainingSession to its Job: not measured, there is no cluster; run make demo first.")
        return failed
    return subprocess.run([sys.executable, HERE / "latency.py"], check=False).returncode or failed


if __name__ == "__main__":
    sys.exit(main())
