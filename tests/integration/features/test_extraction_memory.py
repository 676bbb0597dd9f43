from __future__ import annotations

import json
import subprocess
import sys

LIMIT_MIB = 1500
NOISE_MIB = 64  # of allocators; each of the further shards would be 38 MB if it were kept


def test_memory_is_bounded_and_does_not_grow_with_the_images(repo):
    """MobileNet at 96 x 96 pixels in a process of its own: five shards, then seven more."""
    command = [sys.executable, repo / "benchmarks" / "memory.py", "MobileNet 0.25 96x96", "18000", "27000"]
    run = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    few, many = json.loads(run.stdout.splitlines()[-1])
    assert many <= LIMIT_MIB
    assert many <= few + NOISE_MIB
