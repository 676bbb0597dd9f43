"""Load the session's model from MongoDB, then serve it. Ends with a sentence and exit code 1 where that cannot be."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from .errors import StartError
from .model import forms, load_model
from .settings import read_mongodb, read_settings
from .store import fetch_artifacts


def main() -> int:
    """Serve until SIGTERM."""
    # While the model is loaded, and once more when uvicorn has ended in order and passes the signal on.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    try:
        settings = read_settings(os.environ)
        uri, database = read_mongodb(Path(settings.mongodb_folder))
        with TemporaryDirectory(prefix="model-") as work:
            folder = Path(work)
            form = fetch_artifacts(uri, database, settings.session, forms(), folder)
            model = load_model(folder, form, threads=max(1, len(os.sched_getaffinity(0)) // settings.at_once))
    except StartError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    # Not before: a pod that cannot start says so at once.
    import uvicorn

    from .app import build_app

    sys.stderr.write(f"Serving {form[0]} of session {settings.session}: {len(model.class_names)} classes\n")
    uvicorn.run(
        build_app(model, settings),
        host=settings.host,
        port=settings.port,
        limit_concurrency=settings.waiting,
        timeout_graceful_shutdown=10,
        server_header=False,
        access_log=False,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
