"""Whole sessions with own Python: from a commit on a git server to the published result."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import gridfs
import numpy as np
import pytest
from bson import ObjectId

from pictures import go_on, quiet
from trainingsession_trainer import model_export
from trainingsession_trainer.errors import SpecError


@pytest.fixture(scope="module")
def sample(git, repo):
    """Address and commit of the sample repository."""
    return f"{git.uri}/sample", git.commit("sample", {}, repo / "tests/data/module-sample")


@pytest.fixture(scope="module")
def keras_head(make_pod, sample):
    module = {
        "git": {"url": sample[0], "revision": sample[1], "entryPoint": "heads.keras_head:build"},
        "parameters": {"width": 48, "rate": 0.003, "note": None, "nested": {"a": [1, 2.5, True]}},
    }
    pod = make_pod(module, "keras-head", training={"epochs": 8, "batchSize": 32, "seed": 5})
    return pod, *pod.run()


def artifact(storage, record, name: str) -> bytes:
    (found,) = [item for item in record["result"]["artifacts"] if item["name"] == name]
    return gridfs.GridFSBucket(storage, "artifacts").open_download_stream(ObjectId(found["id"])).read()


def test_a_keras_model_is_trained_and_published(keras_head, record_of, storage) -> None:
    pod, code, out, err = keras_head
    assert code == 0, out + err
    record = record_of(pod)
    result = record["result"]
    assert result["accuracy"] > 0.7
    # The weights of the epoch with the lowest validation loss were kept: its accuracy is among those that were told.
    told = re.findall(r"Epoch \d/8  .*val_accuracy=(\d\.\d{4})", out)
    assert f"{result['validationAccuracy']:.4f}" in told
    assert record["progress"]["epoch"] == 8
    assert "module | a head of 48 units for 10 classes" in out
    assert len(re.findall(r"Epoch \d/8  .*val_accuracy=\d\.\d{4}", out)) == 8
    assert f"Result  test_accuracy={result['accuracy']:.4f}" in out
    assert [item["name"] for item in result["artifacts"]] == [
        "architecture.json", "head.weights.h5", "class_names.json", "training_log.csv", "metrics.json",
        "predictions.npz", "model.keras", "reproducibility.json", "log.txt",
    ]  # fmt: skip
    metrics = json.loads(artifact(storage, record, "metrics.json"))
    assert metrics["accuracy"] == result["accuracy"]
    assert np.sum(metrics["confusion"]) == record["samples"]["test"]
    how = json.loads(artifact(storage, record, "reproducibility.json"))
    assert how["spec"]["module"]["git"]["entryPoint"] == "heads.keras_head:build"
    assert how["features"]["train"]["madeOf"]["weights"]["seed"] == 0
    assert "a head of 48 units for 10 classes" in artifact(storage, record, "log.txt").decode()


def test_the_complete_model_gives_the_predictions_that_were_published(keras_head, record_of, storage, tmp_path) -> None:
    import keras

    from trainingsession_trainer.datasets import digits

    record = record_of(keras_head[0])
    (tmp_path / "model.keras").write_bytes(artifact(storage, record, "model.keras"))
    (tmp_path / "predictions.npz").write_bytes(artifact(storage, record, "predictions.npz"))
    model = keras.models.load_model(tmp_path / "model.keras")
    test = digits.load().test
    images = np.stack([test.image(index) for index in range(32)])
    with np.load(tmp_path / "predictions.npz") as kept:
        assert (kept["labels"][:32] == test.labels[:32]).all()
        assert [digest.tobytes() for digest in kept["digests"]] == list(test.digests[: len(kept["labels"])])
        assert (kept["predicted"] == kept["probabilities"].argmax(axis=1)).all()
        np.testing.assert_allclose(model.predict(images, verbose=0), kept["probabilities"][:32], atol=2e-3)


def test_no_model_is_made_later_of_a_module_s_head_alone(keras_head, record_of, storage, tmp_path) -> None:
    name = "reproducibility.json"
    (tmp_path / name).write_bytes(artifact(storage, record_of(keras_head[0]), name))
    with pytest.raises(SpecError, match=r"^The session's head is its module's, and it has left no model\.keras;"):
        model_export._joined(storage, tmp_path, quiet(), go_on)


def test_the_same_session_gives_the_same_accuracy_from_stored_features(keras_head, make_pod, record_of) -> None:
    again = make_pod(None, "again")
    document = json.loads((keras_head[0].folder / "session/session.json").read_text())
    document["metadata"] = json.loads((again.folder / "session/session.json").read_text())["metadata"]
    (again.folder / "session/session.json").write_text(json.dumps(document))
    code, out, err = again.run("--task", "train")
    assert code == 0, out + err
    assert record_of(again)["features"]["computed"] == 0
    assert record_of(again)["result"]["accuracy"] == record_of(keras_head[0])["result"]["accuracy"]


@pytest.fixture(scope="module")
def on_images(make_pod, sample):
    module = {
        "git": {"url": sample[0], "revision": sample[1], "entryPoint": "heads.centroids:predict"},
        "input": "images",
        "parameters": {"temperature": 20},
    }
    pod = make_pod(module, "centroids")
    return pod, *pod.run()


def test_a_module_that_trains_itself_on_images_is_judged_by_its_predictions(on_images, record_of) -> None:
    pod, code, out, err = on_images
    assert code == 0, out + err
    record = record_of(pod)
    assert record["result"]["accuracy"] > 0.7
    assert record["samples"]["train"] + record["samples"]["validation"] == 289
    assert [item["name"] for item in record["result"]["artifacts"]] == [
        "class_names.json", "training_log.csv", "metrics.json", "predictions.npz", "reproducibility.json",
        "log.txt",
    ]  # fmt: skip
    metrics = {metric["name"]: metric["value"] for metric in record["result"]["metrics"]}
    assert record["result"]["validationAccuracy"] == metrics["module_val_accuracy"] > 0.7
    assert "Features of" in out
    assert "base model" not in out


def test_a_module_that_came_with_the_image_is_found_there(make_pod, record_of, repo) -> None:
    image = {"name": f"example.org/heads@sha256:{'a' * 64}", "entryPoint": "heads.centroids:predict"}
    pod = make_pod({"image": image, "input": "images", "parameters": {"temperature": 20}}, "brought")
    path = f"{os.environ.get('PYTHONPATH', '')}:{repo / 'tests/data/module-sample'}"
    code, out, err = pod.run(PYTHONPATH=path.lstrip(":"))
    assert code == 0, out + err
    assert "The module is part of the image" in out
    assert record_of(pod)["result"]["accuracy"] > 0.7


def test_a_pod_that_would_only_help_has_nothing_to_do_for_a_module_on_images(make_pod, sample, record_of) -> None:
    git = {"url": sample[0], "revision": sample[1], "entryPoint": "heads.centroids:predict"}
    pod = make_pod({"git": git, "input": "images"}, "helper")
    code, out, err = pod.run(JOB_COMPLETION_INDEX="1")
    assert code == 0, err
    assert "nothing to share" in out
    assert "attempt" not in record_of(pod)


SPY = """
import os, pathlib, signal

def look(task):
    folder = pathlib.Path(task.parameters["secret"])
    for doing in (
        lambda: (folder / "uri").read_text(),
        lambda: os.listdir(folder),
        lambda: pathlib.Path(task.parameters["token"]).read_text(),
        lambda: open(f"/proc/{os.getppid()}/mem", "rb").read(1),
        lambda: (pathlib.Path(task.parameters["elsewhere"]) / "mine").write_text("x"),
        lambda: os.kill(os.getppid(), signal.SIGKILL),
    ):
        try:
            doing()
        except OSError as error:
            print("refused", type(error).__name__)
        else:
            print("possible")
    (task.workdir / "mine").write_text("x")
    print("environment", sorted(name for name in os.environ if name.startswith(("MONGO", "TRAININGSESSION", "AWS"))))
    raise RuntimeError("seen enough")
"""


def test_a_module_cannot_reach_the_credentials_nor_the_trainer(git, make_pod, record_of) -> None:
    revision = git.commit("spy", {"spy.py": SPY})
    pod = make_pod({"git": {"url": f"{git.uri}/spy", "revision": revision, "entryPoint": "spy:look"}}, "spy")
    document = json.loads((pod.folder / "session/session.json").read_text())
    token = pod.folder / "identity/token"
    token.parent.mkdir()
    token.write_text("of the pod's service account")
    places = {"secret": str(pod.folder / "mongodb"), "elsewhere": str(pod.folder), "token": str(token)}
    document["spec"]["module"]["parameters"] = places
    (pod.folder / "session/session.json").write_text(json.dumps(document))
    code, out, err = pod.run(AWS_WEB_IDENTITY_TOKEN_FILE=str(token), AWS_ROLE_ARN="arn:aws:iam::123456789012:role/r")
    assert code == 64, out + err
    lines = [line.split("module | ")[1] for line in out.splitlines() if "module | " in line]
    assert lines[:6] == ["refused PermissionError"] * 6
    assert "environment []" in lines
    assert record_of(pod)["failure"]["message"] == (
        "spec.module: spy:look failed (RuntimeError: seen enough) at spy.py:22; see the log above."
    )


SLOW = """
import subprocess, sys, time

def run(task):
    helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    print("helper", helper.pid)
    time.sleep(1000)
"""


def test_a_stop_ends_the_module_and_all_that_it_started_with_75(git, make_pod, record_of) -> None:
    revision = git.commit("slow", {"slow.py": SLOW})
    pod = make_pod({"git": {"url": f"{git.uri}/slow", "revision": revision, "entryPoint": "slow:run"}}, "slow")
    process = pod.start()
    helper = 0
    for line in process.stdout:
        if found := re.search(r"helper (\d+)", line):
            helper = int(found[1])
            process.send_signal(signal.SIGTERM)
            break
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert "Stopped while the module ran; the next attempt runs it from its start." in err
    assert record_of(pod)["failure"]["exitCode"] == 75
    # Whoever adopts it has to bury it, too.
    ended = Path(f"/proc/{helper}/stat")
    assert not ended.exists() or ended.read_text().rpartition(")")[2].split()[0] == "Z"
