"""Peak resident memory while features are extracted, for few images and for ten times as many.

With random weights and a real mongod; images are noise that is made when it is read, so that none are kept. Every
measurement is a process of its own, as a peak never falls. Given a case and numbers of images, one process extracts
them one after the other and prints its peak after each, in MiB:

    python benchmarks/memory.py "MobileNet 0.25 96x96" 18000 27000
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

LIMIT_MIB = 1500
CASES: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "InceptionV3 139x139": ({"name": "InceptionV3", "inputSize": [139, 139]}, (500, 5_000)),
    "MobileNet 0.25 96x96": (
        {"name": "MobileNet", "arguments": {"alpha": 0.25}, "inputSize": [96, 96]},
        (5_000, 50_000),
    ),
}


def peak() -> float:
    """Give the highest resident memory of this process, in MiB; ru_maxrss begins with that of who started it."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def peaks(base_spec: dict[str, Any], counts: list[int]) -> list[float]:
    """Extract so many images, one lot after the other; give the process's peak in MiB after each."""
    import numpy as np

    from trainingsession_trainer import config
    from trainingsession_trainer.base_models import open_base_model
    from trainingsession_trainer.datasets.splits import Images, make_split
    from trainingsession_trainer.embedded import embedded_mongod
    from trainingsession_trainer.extraction import Extraction
    from trainingsession_trainer.feature_sets import FeatureSet, images_per_shard
    from trainingsession_trainer.feature_store import FeatureStore
    from trainingsession_trainer.mongodb import connect
    from trainingsession_trainer.reporting import Reporter

    class Noise(Images):
        def read(self, index: int) -> np.ndarray:
            return np.random.default_rng(index).integers(0, 256, (32, 32, 3), np.uint8)

        def shape(self, index: int) -> tuple[int, int, int]:
            return (32, 32, 3)

    def never() -> bool:
        return False

    reporter = Reporter(sys.stderr)
    spec = config.parse_spec({"dataset": {"name": "digits"}, "baseModel": {**base_spec, "weights": "none"}})
    base = open_base_model(spec.base_model, Path(), reporter, never).for_images((32, 32, 3))
    found = []
    with tempfile.TemporaryDirectory() as folder, embedded_mongod(Path(folder)) as uri:
        store = FeatureStore(connect(uri, "benchmark"), never)
        extraction = Extraction(store, base, never, reporter.info)
        for number, count in enumerate(counts):
            digests = [hashlib.sha256(b"%d" % index).digest() for index in range(count)]
            split = make_split("train", ("noise",), np.zeros(count, np.int32), digests, Noise())
            shard = images_per_shard(base.feature_shape)
            wanted = FeatureSet(f"{number}", "train", count, shard, base.feature_shape)
            done = extraction.complete(split, wanted, wanted.shards_for(count), lambda *_: None)
            assert sum(done.values()) == count
            found.append(peak())
    return found


def main() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if len(sys.argv) > 1:
        base, _ = CASES[sys.argv[1]]
        print(json.dumps(peaks(base, [int(count) for count in sys.argv[2:]])))
        return
    print(f"{'peak RSS in MiB, limit ' + str(LIMIT_MIB):28} {'images':>8} {'peak':>6}")
    for name, (_, counts) in CASES.items():
        for count in counts:
            command = [sys.executable, __file__, name, str(count)]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
            (peak,) = json.loads(output.splitlines()[-1])
            print(f"{name:28} {count:8,} {peak:6.0f}", flush=True)


if __name__ == "__main__":
    main()
