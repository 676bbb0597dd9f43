"""One thing that a trainer gets from outside of the cluster, in a process of its own, as its pod would do it.

python outside_worker.py BUNDLE WORK JSON: {"kind": download | git | packages | mlflow, …}; prints what came.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from trainingsession_trainer.authorities import trust

bundle, work, asked = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
trust(bundle, work)

# After that, as in the trainer.
from trainingsession_trainer.datasets import download as downloads  # noqa: E402
from trainingsession_trainer.errors import TrainerError  # noqa: E402
from trainingsession_trainer.mlflow import Client, MlflowError  # noqa: E402
from trainingsession_trainer.modules.git import fetch_code  # noqa: E402
from trainingsession_trainer.modules.requirements import install  # noqa: E402
from trainingsession_trainer.reporting import Reporter  # noqa: E402


def get(reporter: Reporter) -> Any:
    """Get what was asked for."""
    match asked["kind"]:
        case "download":
            downloads.RETRY_SECONDS = 0
            return downloads.download(asked["uri"], "spec.dataset", work / "file", reporter, lambda: False,
                                      credentials=asked.get("credentials", {}))  # fmt: skip
        case "git":
            target = work / "code"
            target.mkdir()
            fetch_code(asked["uri"], asked["revision"], "", target, None, reporter, lambda: False)
            return sorted(path.name for path in target.iterdir())
        case "packages":
            install(Path(asked["code"]), work / "packages", reporter, lambda: False)
            return sorted(path.name for path in (work / "packages").iterdir())
        case _:
            return Client(asked["uri"]).experiment("flowers")


try:
    print(json.dumps(get(Reporter(sys.stderr))))
except (TrainerError, MlflowError) as error:
    sys.exit(str(error))
