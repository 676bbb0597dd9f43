"""Whether a session is told to a tracking server, and how its end is told there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from .errors import Stopped
from .mlflow import Client, MlflowRun
from .reporting import Reporter
from .spec import Session

MLFLOW_SECRET = Path("/etc/trainingsession/mlflow-secret")
PARAMETERS = ("dataset", "baseModel", "head", "training", "module")
"""Parts of the spec that become parameters of the run."""


@contextmanager
def tracked(session: Session, document: object, reporter: Reporter) -> Iterator[None]:
    """Tell all of the session that happens in the block to the server that the spec names, if it names one."""
    mlflow = session.spec.tracking and session.spec.tracking.mlflow
    if not mlflow:
        yield
        return
    spec = document.get("spec", {}) if isinstance(document, Mapping) else {}
    said = {name: spec[name] for name in PARAMETERS if name in spec}
    client = Client(mlflow.uri, read_credentials(MLFLOW_SECRET))
    run = MlflowRun(client, mlflow.experiment, session.name, session.uid, said, reporter.info)
    reporter.track(run)
    try:
        yield
    except Stopped:
        run.close("")
        raise
    except BaseException:
        run.close("FAILED")
        raise
    run.close("FINISHED")


def read_credentials(folder: Path) -> tuple[str, str] | str | None:
    """Read what a Secret with username and password, or with bearerToken, has mounted there; None without one."""
    files = {name: folder / name for name in ("username", "password", "bearerToken")}
    found = {name: file.read_text("utf-8").strip() for name, file in files.items() if file.is_file()}
    if "username" in found and "password" in found:
        return found["username"], found["password"]
    return found.get("bearerToken")
