"""What `helm test` runs: wait until the operator says that it is ready, or give its own sentence why it is not.

python -m trainingsession_operator.ready http://RELEASE-operator-metrics:8081/readyz
"""

from __future__ import annotations

import sys
import time
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

WAIT_SECONDS = 120.0
"""After a fresh installation MongoDB's replica set is being made."""
_PAUSE_SECONDS = 2.0
_ANSWER_SECONDS = 5.0


def why_not_ready(address: str) -> str:
    """Give the operator's sentence, or what kept it from being asked; empty where it is ready."""
    try:
        # The operator is in the cluster, whatever proxy the environment names.
        with build_opener(ProxyHandler({})).open(address, timeout=_ANSWER_SECONDS):
            return ""
    except HTTPError as error:
        with error:
            return error.read(4096).decode("utf-8", "replace").strip()
    except OSError as error:
        return f"it cannot be reached at {address} ({getattr(error, 'reason', None) or error})"


def main(address: str, wait: float = WAIT_SECONDS) -> int:
    """Return the exit code."""
    end = time.monotonic() + wait
    while reason := why_not_ready(address):
        if time.monotonic() > end:
            sys.stderr.write(f"The operator is not ready: {reason}\n")
            return 1
        time.sleep(_PAUSE_SECONDS)
    sys.stdout.write("The operator is ready: sessions are served and MongoDB can be used.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
