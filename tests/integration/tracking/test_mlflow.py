"""A session in a real MLflow server: parameters, metrics of every epoch, files; and sessions whose server is away."""

from __future__ import annotations

import json
import threading
import uuid

import pytest
import urllib3

from local_server import LocalServer, content, status
from real_mlflow import RealMlflow, environment
from trainingsession_operator import record_view
from trainingsession_trainer import mlflow
from trainingsession_trainer.mlflow import Client, MlflowError, MlflowRun

SPEC = {
    "dataset": {"name": "digits", "subset": 0.1},
    "baseModel": {"name": "MobileNet", "arguments": {"alpha": 0.25}, "weights": "none", "inputSize": [32, 32]},
    "training": {"epochs": 2},
    "artifacts": {"exports": []},
    "resources": {"gpus": 0},
}


@pytest.fixture(scope="module")
def server(repo, tmp_path_factory):
    running = RealMlflow(tmp_path_factory.mktemp("mlflow"), environment(repo))
    running.start()
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """What is told, and not how fast a busy machine is."""
    monkeypatch.setattr(mlflow, "REQUEST_SECONDS", 120.0)
    monkeypatch.setattr(mlflow, "FINISH_SECONDS", 240.0)


class Heard:
    """What a run told."""

    def __init__(self):
        self.runs, self.sentences = [], []
        self.broken, self.repaired = threading.Event(), threading.Event()

    def begun(self, *run):
        self.runs.append(run)

    def failed(self, sentence):
        self.sentences.append(sentence)
        self.broken.set()

    def works(self):
        self.repaired.set()


def ask(server, method: str, path: str, **body):
    http = urllib3.PoolManager()
    if method == "GET":
        answer = http.request(method, f"{server.uri}/api/2.0/{path}", fields=body)
    else:
        answer = http.request(method, f"{server.uri}/api/2.0/{path}", json=body)
    assert answer.status == 200, answer.data
    return answer.json()


def run_of(server, experiment: str, uid: str):
    found = ask(server, "GET", "mlflow/experiments/get-by-name", experiment_name=experiment)
    asked = {
        "experiment_ids": [found["experiment"]["experiment_id"]],
        "filter": f"tags.`trainingsession.uid` = '{uid}'",
    }
    (run,) = ask(server, "POST", "mlflow/runs/search", **asked)["runs"]
    return run


def test_a_run_has_parameters_every_epoch_and_small_files(server, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(mlflow, "FILE_BYTES", 1000)
    uid, heard = uuid.uuid4().hex, Heard()
    spec = {"training": {"epochs": 3, "optimizer": {"name": "adam"}}, "head": {"layers": [{"type": "Flatten"}]}}
    spec["module"] = {"parameters": {f"p{i}": "x" * 600 for i in range(120)}}
    run = MlflowRun(Client(server.uri), "flöwers of 2030", "digits", uid, spec, heard)
    for epoch in (1, 2, 3):
        run.epoch(epoch, {"loss": 1 / epoch, "val_accuracy": 0.5})
    run.result({"test_accuracy": 0.9})
    for name, size in (("metrics.json", 20), ("model.keras", 2000)):
        (tmp_path / name).write_bytes(b"x" * size)
    run.files([tmp_path / "metrics.json", tmp_path / "model.keras"])
    run.close("FINISHED")

    found = run_of(server, "flöwers of 2030", uid)
    assert (found["info"]["status"], found["info"]["run_name"]) == ("FINISHED", "digits")
    params = {param["key"]: param["value"] for param in found["data"]["params"]}
    assert params["training.optimizer.name"] == "adam"
    assert params["training.epochs"] == "3"
    assert json.loads(params["head.layers"]) == [{"type": "Flatten"}]
    assert len([name for name in params if name.startswith("module.parameters.p")]) == 120
    run_id = found["info"]["run_id"]
    history = ask(server, "GET", "mlflow/metrics/get-history", run_id=run_id, metric_key="loss")["metrics"]
    assert [(metric["step"], metric["value"]) for metric in history] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert {m["key"]: m["value"] for m in found["data"]["metrics"]}["test_accuracy"] == 0.9
    files = ask(server, "GET", "mlflow/artifacts/list", run_id=run_id)["files"]
    assert [(file["path"], file["file_size"]) for file in files] == [("metrics.json", 20)]
    experiment = found["info"]["experiment_id"]
    assert heard.runs == [(experiment, run_id, f"{server.uri}/#/experiments/{experiment}/runs/{run_id}")]
    assert not heard.sentences


def test_the_next_attempt_goes_on_with_the_same_run(server) -> None:
    uid = uuid.uuid4().hex
    for attempt, end in ((1, ""), (2, "FAILED")):
        run = MlflowRun(Client(server.uri), "again", "digits", uid, {"a": 1}, Heard())
        run.epoch(attempt, {"loss": 0.5})
        run.close(end)
    assert run_of(server, "again", uid)["info"]["status"] == "FAILED"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (status(503), "HTTP 503"),
        (content(b"<html>"), "something else than JSON"),
        (content(b"[]"), "something else than an object"),
    ],
)
def test_a_server_that_does_not_do_it_is_told_once_and_changes_nothing(answer, words, tmp_path) -> None:
    heard = Heard()
    with LocalServer(answer).running() as broken:
        run = MlflowRun(Client(broken.uri), "x", "digits", "uid", {}, heard)
        run.epoch(1, {"loss": 0.5})
        run.close("FINISHED")
    (sentence,) = heard.sentences
    assert words in sentence
    assert sentence.endswith("; the session goes on without it")


def test_a_server_that_is_away_is_told(monkeypatch) -> None:
    heard = Heard()
    MlflowRun(Client("http://127.0.0.1:9"), "x", "digits", "uid", {}, heard).close("FINISHED")
    assert heard.sentences == [
        "MLflow at http://127.0.0.1:9 does not take part ([Errno 111] Connection refused); "
        "the session goes on without it"
    ]


def test_a_server_that_comes_back_gets_what_was_kept_for_it(server, monkeypatch) -> None:
    monkeypatch.setattr(mlflow, "PAUSE_SECONDS", 0.05)
    uid, heard, client = uuid.uuid4().hex, Heard(), Client("http://127.0.0.1:9")
    run = MlflowRun(client, "back", "digits", uid, {"a": 1}, heard)
    run.epoch(1, {"loss": 0.5})
    assert heard.broken.wait(60)
    client.uri = server.uri
    assert heard.repaired.wait(120)
    run.close("FINISHED")
    assert (len(heard.sentences), len(heard.runs)) == (1, 1)
    assert {m["key"]: m["value"] for m in run_of(server, "back", uid)["data"]["metrics"]} == {"loss": 0.5}


def test_a_password_is_sent_and_never_told() -> None:
    with LocalServer(status(401)).running() as guarded, pytest.raises(MlflowError) as caught:
        Client(guarded.uri, ("me", "hunter2")).experiment("x")
    assert "hunter2" not in str(caught.value)


def test_a_session_is_told_from_its_pod(server, make_pod, record_of) -> None:
    pod = make_pod({**SPEC, "tracking": {"mlflow": {"uri": server.uri, "experiment": "sessions"}}}, "tracked")
    code, out, err = pod.run()
    assert code == 0, err
    assert f"MLflow run {server.uri}/#/experiments/" in out
    run = run_of(server, "sessions", pod.uid)
    metrics = {metric["key"]: metric["value"] for metric in run["data"]["metrics"]}
    assert metrics["test_accuracy"] == pytest.approx(record_of(pod)["result"]["accuracy"])
    assert {"loss", "val_loss", "validation_accuracy"} <= set(metrics)
    listed = ask(server, "GET", "mlflow/artifacts/list", run_id=run["info"]["run_id"])["files"]
    assert {"metrics.json", "training_log.csv", "class_names.json"} <= {file["path"] for file in listed}
    told = record_view.tracking(record_of(pod))["mlflow"]
    assert told["runID"] == run["info"]["run_id"]
    assert f"MLflow run {told['url']}" in out


def test_a_session_whose_server_is_away_succeeds_with_a_warning(make_pod, record_of) -> None:
    mlflow_away = {"mlflow": {"uri": "http://127.0.0.1:9", "experiment": "sessions"}}
    pod = make_pod({**SPEC, "tracking": mlflow_away}, "untracked")
    code, _, err = pod.run()
    assert code == 0, err
    (warning,) = record_view.warnings(record_of(pod))
    assert warning["reason"] == "TrackingFailed"
    assert warning["message"].startswith("MLflow at http://127.0.0.1:9 does not take part (")
    assert record_view.tracking(record_of(pod)) == {}
