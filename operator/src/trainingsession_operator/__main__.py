"""`python -m trainingsession_operator`: the process of the operator's Deployment."""

from __future__ import annotations

import logging
import os
import signal
import sys

from .errors import StartError
from .logs import configure_logging, toggle_on_signal
from .main import run
from .settings import read_settings


def main() -> int:
    """Run the operator; returns the exit code."""
    configure_logging("info")
    # The first process of a container ignores what it has no handler for; kopf sets its own when it runs.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        settings = read_settings(os.environ)
        configure_logging(settings.log_level, settings.log_format)
        toggle_on_signal(settings.log_level)
        run(settings)
    except StartError as error:
        logging.getLogger(__name__).error("cannot start: %s", error)  # noqa: TRY400 - the sentence says it all
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
