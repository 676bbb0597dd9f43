"""A session's parameters, metrics and small files in MLflow, over its REST API; training never waits for it.

A client library would be 70 MB and 40 packages; what is needed of it are these calls
(https://mlflow.org/docs/latest/rest-api.html). They are made in a thread of their own. What cannot be delivered is told
once, and the session goes on without it.
"""

from __future__ import annotations

import base64
import json
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any, Protocol
from urllib.error import HTTPError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

from .structure import clip

REQUEST_SECONDS = 10.0
PAUSE_SECONDS = 15.0
"""Between a failure and the next try."""
FINISH_SECONDS = 30.0
"""For all that is left when the session is over."""
FILE_BYTES, FILES_BYTES = 10 << 20, 50 << 20
"""Of one artifact, and of all; larger ones are in MongoDB alone."""
_WAITING = 10_000
_AT_ONCE, _PARAMETERS_AT_ONCE, _VALUE_LENGTH = 500, 100, 500
_UID_TAG = "trainingsession.uid"

Json = dict[str, Any]


class MlflowError(Exception):
    """The server cannot be reached, or does not do what was asked; the message is a clause."""


class Client:
    """The calls of MLflow's REST API that a session needs; all raise MlflowError."""

    def __init__(self, uri: str, credentials: tuple[str, str] | str | None = None) -> None:
        """`credentials` are user and password, or a token."""
        self.uri = uri.rstrip("/")
        self._headers: dict[str, str] = {}
        if isinstance(credentials, tuple):
            plain = ":".join(credentials).encode()
            self._headers["Authorization"] = f"Basic {base64.b64encode(plain).decode()}"
        elif credentials:
            self._headers["Authorization"] = f"Bearer {credentials}"

    def experiment(self, name: str) -> str:
        """Find the experiment, or make it; gives its id."""
        found = self._find_experiment(name)
        if found is None:
            try:
                return str(self._call("experiments/create", {"name": name})["experiment_id"])
            except MlflowError:
                # Another session was faster, or it is for a real reason.
                found = self._find_experiment(name)
                if found is None:
                    raise
        return found

    def run(self, experiment: str, name: str, uid: str) -> Json:
        """Find the run of a session that an earlier attempt began, or begin it; gives its info."""
        asked = {"experiment_ids": [experiment], "filter": f"tags.`{_UID_TAG}` = '{uid}'", "max_results": 1}
        for run in self._call("runs/search", asked).get("runs") or []:
            return dict(run["info"])
        tags = [{"key": _UID_TAG, "value": uid}, {"key": "mlflow.source.name", "value": "trainingsession"}]
        begun = {"experiment_id": experiment, "run_name": name, "start_time": _now(), "tags": tags}
        return dict(self._call("runs/create", begun)["run"]["info"])

    def log(self, run: str, *, params: Iterable[Json] = (), metrics: Iterable[Json] = ()) -> None:
        """Store parameters or metrics, at most as many as one request takes."""
        self._call("runs/log-batch", {"run_id": run, "params": list(params), "metrics": list(metrics)})

    def end(self, run: str, status: str) -> None:
        """End the run as FINISHED, FAILED or KILLED."""
        self._call("runs/update", {"run_id": run, "status": status, "end_time": _now()})

    def upload(self, info: Json, path: Path) -> None:
        """Store a file with the run, through the server's own proxy of its artifacts."""
        place = str(info.get("artifact_uri", ""))
        if not place.startswith("mlflow-artifacts:"):
            raise MlflowError("its artifacts are not served by itself (start it with --serve-artifacts)")
        folder = place.removeprefix("mlflow-artifacts:").lstrip("/")
        target = quote(f"{folder}/{path.name}")
        self._send(
            "PUT", f"/api/2.0/mlflow-artifacts/artifacts/{target}", path.read_bytes(), "application/octet-stream"
        )

    def _find_experiment(self, name: str) -> str | None:
        query = urlencode({"experiment_name": name})
        try:
            answer = self._send("GET", f"/api/2.0/mlflow/experiments/get-by-name?{query}", None, "")
        except MlflowError as error:
            if "RESOURCE_DOES_NOT_EXIST" in str(error):
                return None
            raise
        found = _object(answer).get("experiment") or {}
        if found.get("lifecycle_stage") == "deleted":
            raise MlflowError(f"the experiment {clip(name)} is deleted; restore it or name another")
        return str(found["experiment_id"])

    def _call(self, what: str, body: Json) -> Json:
        return _object(self._send("POST", f"/api/2.0/mlflow/{what}", json.dumps(body).encode(), "application/json"))

    def _send(self, method: str, path: str, body: bytes | None, kind: str) -> bytes:
        headers = {**self._headers, **({"Content-Type": kind} if kind else {})}
        try:
            request = Request(self.uri + path, body, headers, method=method)  # noqa: S310 - the schema admits only http
            with urlopen(request, timeout=REQUEST_SECONDS) as answer:  # noqa: S310
                data: bytes = answer.read(1 << 20)
                return data
        except HTTPError as error:
            with error:
                words = _words(error.read(1 << 16))
            raise MlflowError(f"HTTP {error.code} {words or error.reason}") from error
        except (OSError, HTTPException, ValueError) as error:
            raise MlflowError(clip(str(getattr(error, "reason", None) or error)) or type(error).__name__) from error


class Listener(Protocol):
    """Who hears of the run; called from its thread, and must not raise."""

    def begun(self, experiment: str, run: str, url: str) -> None:
        """The run is there, by these IDs, and people find it at `url`."""

    def failed(self, sentence: str) -> None:
        """The server does not do what was asked; it is asked again."""

    def works(self) -> None:
        """What was asked in vain is done."""


class MlflowRun:
    """One session's run; every method returns at once, but the last."""

    def __init__(
        self, client: Client, experiment: str, name: str, uid: str, spec: Mapping[str, Any], listener: Listener
    ) -> None:
        """`spec` is what becomes the run's parameters."""
        self._client, self._experiment, self._name, self._uid = client, experiment, name, uid
        self._listener = listener
        self._info: Json = {}
        self._params = [{"key": key, "value": value} for key, value in flatten(spec)]
        self._news: queue.Queue[Json] = queue.Queue(_WAITING)
        self._files: list[Path] = []
        self._status = ""
        self._over = threading.Event()
        self._failed = False
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:
        """Log an epoch's figures."""
        now = _now()
        for name, value in figures.items():
            if not self._news.full():
                self._news.put({"key": name, "value": value, "timestamp": now, "step": number})

    def result(self, figures: Mapping[str, float]) -> None:
        """Log the session's last figures."""
        self.epoch(0, figures)

    def files(self, paths: Iterable[Path]) -> None:
        """Have these files stored before the end."""
        left = FILES_BYTES
        for path in sorted(paths, key=lambda path: path.stat().st_size):
            left -= path.stat().st_size
            if path.stat().st_size <= FILE_BYTES and left >= 0:
                self._files.append(path)

    def close(self, status: str) -> None:
        """Deliver what is left and end the run as `status`; "" leaves it open for the next attempt. Bounded in time."""
        self._status = status
        self._over.set()
        self._thread.join(FINISH_SECONDS)
        if self._thread.is_alive():
            self._tell("it answers too slowly")

    def _work(self) -> None:
        pending: list[Json] = []
        while True:
            over = self._over.wait(PAUSE_SECONDS if self._failed else 1.0)
            while not self._news.empty():
                pending.append(self._news.get())
            try:
                self._deliver(pending)
                if over:
                    self._finish()
            except MlflowError as error:
                self._tell(str(error))
                self._failed = True
            else:
                if self._failed:
                    self._listener.works()
                self._failed = False
            if over:
                return

    def _deliver(self, pending: list[Json]) -> None:
        """Store what is there; what is stored is taken out of the lists."""
        if not self._info:
            experiment = self._client.experiment(self._experiment)
            self._info = self._client.run(experiment, self._name, self._uid)
            run = str(self._info["run_id"])
            self._listener.begun(experiment, run, f"{self._client.uri}/#/experiments/{experiment}/runs/{run}")
        while self._params:
            self._client.log(self._info["run_id"], params=self._params[:_PARAMETERS_AT_ONCE])
            del self._params[:_PARAMETERS_AT_ONCE]
        while pending:
            self._client.log(self._info["run_id"], metrics=pending[:_AT_ONCE])
            del pending[:_AT_ONCE]

    def _finish(self) -> None:
        try:
            for path in self._files:
                self._client.upload(self._info, path)
        finally:
            if self._status:
                self._client.end(self._info["run_id"], self._status)

    def _tell(self, words: str) -> None:
        if not self._failed:
            self._listener.failed(
                f"MLflow at {self._client.uri} does not take part ({words}); the session goes on without it"
            )


def flatten(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Give an object's values as MLflow's parameters: dotted names, texts of bounded length; lists as JSON."""
    if isinstance(value, Mapping) and value:
        for key, below in value.items():
            yield from flatten(below, f"{path}.{key}" if path else str(key))
        return
    name = "".join(char if char.isalnum() or char in "_-. /" else "_" for char in path)[:250]
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    yield name, clip(text, _VALUE_LENGTH)


def _object(data: bytes) -> Json:
    try:
        found = json.loads(data or b"{}")
    except ValueError as error:
        raise MlflowError("it answers with something else than JSON; is it MLflow?") from error
    if not isinstance(found, dict):
        raise MlflowError("it answers with something else than an object; is it MLflow?")
    return found


def _words(data: bytes) -> str:
    try:
        found = json.loads(data)
        return clip(" ".join(f"{found['error_code']}: {found['message']}".split()))
    except (ValueError, KeyError, TypeError):
        return ""


def _now() -> int:
    return int(time.time() * 1000)
