"""When two sessions are the same experiment, so that one result answers both: pure."""

from __future__ import annotations

import hashlib
import json

from .recipe import plain, recipe_digest
from .resource import Session

VERSION = 1
DATASET = ("subset", "testSubset", "validationSplit")
EXPERIMENT = ("head", "training", "module")


def identity(session: Session, image: str) -> str | None:
    """Digest of everything that decides the result (64 hex digits); None where only reading the files would tell.

    How a session is run, on which device and with how many workers, is not in it.
    """
    recipe = recipe_digest(session.spec)
    if recipe is None or (session.spec.get("head") or {}).get("fromSession"):
        # Another session's name may stand for another head tomorrow.
        return None
    exports = (session.spec.get("artifacts") or {}).get("exports")
    decides = {
        "version": VERSION,
        "recipe": recipe,
        "dataset": {name: session.spec["dataset"].get(name) for name in DATASET},
        "image": image,
        # None asks for the image's own default.
        "exports": None if exports is None else sorted(exports),
        **{name: session.spec.get(name) for name in EXPERIMENT},
    }
    text = json.dumps(plain(decides), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()
