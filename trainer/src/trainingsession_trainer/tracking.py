"""Whether a session is told to a tracking server, and how its end is told there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from .errors import Stopped
from .mlflow import Client, MlflowRun
from .records import SessionRecord
from .reporting import Reporter
from .spec import Session

MLFLOW_SECRET = Path("/etc/trainingsession/mlflow-secret")
PARAMETERS = ("dataset", "baseModel", "head", "training", "module")
"""Parts of the spec that become parameters of the run."""


class Told:
    """Says in the log and the record what becomes of the run."""

    def __init__(self, reporter: Reporter, record: SessionRecord) -> None:
        self._reporter = reporter
        self._record = record
        self._run: dict[str, str] = {}

    def begun(self, experiment: str, run: str, url: str) -> None:
        """Name the run."""
        self._reporter.info(f"MLflow run {url}")
        self._run = {"experimentID": experiment, "runID": run, "url": url}
        self._record.tracked(self._run)

    def failed(self, sentence: str) -> None:
        """Say why it does not work."""
        self._reporter.info(sentence)
        self._record.tracked(self._run, sentence)

    def works(self) -> None:
        """Take that back."""
        self._reporter.info("MLflow takes part again")
        self._record.tracked(self._run)


@contextmanager
def tracked(session: Session, document: object, reporter: Reporter, record: SessionRecord) -> Iterator[None]:
    """Tell all of the session that happens in the block to the server that the spec names, if it names one."""
    mlflow = session.spec.tracking and session.spec.tracking.mlflow
    if not mlflow:
        yield
        return
    spec = document.get("spec", {}) if isinstance(document, Mapping) else {}
    said = {name: spec[name] for name in PARAMETERS if name in spec}
    client = Client(mlflow.uri, read_credentials(MLFLOW_SECRET))
    run = MlflowRun(client, mlflow.experiment, session.name, session.uid, said, Told(reporter, record))
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
