"""The trainer as a pod runs it: files in, one process, exit code, record and artifacts out."""

from __future__ import annotations

import hashlib
import re
import signal
from pathlib import Path
from typing import Any

import gridfs
import pytest
from bson import ObjectId

from trainingsession_trainer.yaml12 import load_all

# Small and quick; a head that does not fit the features is tried on it too (1x1 positions at 32 pixels).
QUICK = {
    "dataset": {"name": "digits", "subset": 0.1},
    "baseModel": {"name": "ResNet50", "weights": "none", "inputSize": [32, 32]},
    "training": {"epochs": 2, "optimizer": {"name": "adam"}},
    "resources": {"gpus": 0},
}


@pytest.fixture(scope="module")
def digits(make_pod, repo: Path):
    """The sample `digits.yaml`, run to its end."""
    spec = load_all((repo / "manifests/samples/digits.yaml").read_text("utf-8"))[0]["spec"]
    pod = make_pod(spec, "digits")
    return pod, *pod.run()


def test_the_sample_reaches_its_accuracy_and_says_so(digits, record_of) -> None:
    pod, code, out, err = digits
    assert code == 0, err
    result = record_of(pod)["result"]
    assert result["accuracy"] >= 0.95
    tested = record_of(pod)["samples"]["test"]
    assert f"Accuracy {result['accuracy']:.4f} on {tested} test images" in out
    assert pod.termination_log.read_text("utf-8") == ""


def test_a_session_begins_with_the_head_of_an_earlier_one(digits, make_pod, record_of) -> None:
    spec = load_all((digits[0].folder / "session/session.json").read_text("utf-8"))[0]["spec"]
    training = {**spec["training"], "epochs": 1}
    pod = make_pod({**spec, "head": {"fromSession": "digits"}, "training": training}, "onward")
    code, out, err = pod.run()
    assert code == 0, err
    record = record_of(pod)
    assert "The head and its weights are those of session digits" in out
    assert record["headFrom"] | {"sha256": ""} == {"name": "digits", "uid": digits[0].uid, "sha256": ""}
    assert record["result"]["accuracy"] >= 0.95, "after a single epoch"


def test_the_log_is_plain_lines(digits) -> None:
    _, _, out, err = digits
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ \S", line) for line in out.splitlines())
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", out)
    assert err == ""


def test_the_record_tells_what_the_status_shows(digits, record_of) -> None:
    record = record_of(digits[0])
    assert record["attempt"] == digits[0].attempt
    assert record["phase"] == "Publishing"
    assert sum(record["samples"].values()) == 1797
    assert record["samples"]["validation"] == pytest.approx(0.2 * (1797 - record["samples"]["test"]), abs=10)
    assert record["features"]["computed"] == 1797
    assert record["features"]["reused"] == 0
    assert set(record["trainer"]["versions"]) == {"trainer", "tensorflow", "keras", "python"}
    metrics = {metric["name"]: metric["value"] for metric in record["result"]["metrics"]}
    assert metrics["test_accuracy_low"] < record["result"]["accuracy"] < metrics["test_accuracy_high"]
    assert 0.9 < metrics["validation_accuracy"] <= 1.0
    assert record["result"]["validationAccuracy"] == metrics["validation_accuracy"]
    assert record["result"]["evaluation"]["baseline"] < 0.2 < record["result"]["evaluation"]["macroF1"]


def test_every_artifact_is_there_with_its_digest(digits, record_of, storage) -> None:
    artifacts = record_of(digits[0])["result"]["artifacts"]
    assert [artifact["name"] for artifact in artifacts] == [
        "architecture.json",
        "head.weights.h5",
        "class_names.json",
        "model.keras",
        "training_log.csv",
        "metrics.json",
        "predictions.npz",
        "events.out.tfevents.0",
        "curves.png",
        "confusion.png",
        "worst_mistakes.json",
        "worst_mistakes.png",
        "doubtful_labels.json",
        "doubtful_labels.png",
        "learning_curve.json",
        "learning_curve.png",
        "reproducibility.json",
        "model_card.md",
        "log.txt",
    ]
    bucket = gridfs.GridFSBucket(storage, "artifacts")
    for artifact in artifacts:
        stream = bucket.open_download_stream(ObjectId(artifact["id"]))
        data = stream.read()
        assert len(data) == artifact["bytes"]
        assert hashlib.sha256(data).hexdigest() == artifact["sha256"]
        assert stream.filename == f"digits/{artifact['name']}"
    assert bucket.find({}).collection.count_documents({"filename": {"$regex": "^digits/"}}) == len(artifacts)


def test_a_finished_session_is_not_run_again(digits, record_of) -> None:
    pod = digits[0]
    before = record_of(pod)
    pod.replace()
    code, out, _ = pod.run()
    assert code == 0
    assert "has its result already; nothing to do" in out
    assert record_of(pod) == before


def test_another_session_finds_the_features(digits, make_pod, repo: Path, record_of) -> None:
    spec = load_all((repo / "manifests/samples/digits.yaml").read_text("utf-8"))[0]["spec"]
    pod = make_pod({**spec, "training": {"optimizer": {"name": "sgd"}, "epochs": 2}}, "second")
    code, _, err = pod.run()
    assert code == 0, err
    features, first = record_of(pod)["features"], record_of(digits[0])["features"]
    assert features["computed"] == 0
    assert features["reused"] == first["computed"]
    assert features["key"] == first["key"]
    # From thumbnails: it reads no image.
    pictures = {artifact["name"] for artifact in record_of(pod)["result"]["artifacts"]}
    assert {"worst_mistakes.png", "doubtful_labels.png"} <= pictures


def test_a_stop_while_training_ends_with_75_and_the_next_attempt_goes_on(make_pod, record_of, storage) -> None:
    pod = make_pod({**QUICK, "training": {"epochs": 150, "batchSize": 4}})
    process = pod.start()
    for line in process.stdout:
        if "Epoch   2/150" in line:
            process.send_signal(signal.SIGTERM)
            break
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75
    stopped = re.search(r"Stopped in epoch (\d+) of 150; the next attempt goes on with epoch \1\.", err)
    assert stopped, err
    record = record_of(pod)
    assert record["failure"]["exitCode"] == 75
    assert record["checkpoint"]["epoch"] == int(stopped[1]) - 1
    assert "result" not in record
    assert pod.termination_log.read_text("utf-8") in err

    pod.replace()
    code, out, err = pod.run()
    assert code == 0, err
    assert f"Going on after epoch {record['checkpoint']['epoch']} of 150" in out
    assert out.count(" Epoch ") == 150 - record["checkpoint"]["epoch"]
    record = record_of(pod)
    assert record["progress"]["epoch"] == 150
    assert "checkpoint" not in record
    assert storage["checkpoints.files"].count_documents({"filename": pod.uid}) == 0


def test_divergence_ends_with_64_its_reason_and_nothing_to_go_on_from(make_pod, record_of, storage) -> None:
    # Weights that overflow once they are squared.
    dense = {"type": "Dense", "config": {"units": 4, "kernel_regularizer": {"class_name": "L2", "config": {}}}}
    training = {"optimizer": {"name": "sgd", "config": {"learning_rate": 1e30}}}
    pod = make_pod({**QUICK, "head": {"layers": [dense]}, "training": training})
    code, _, err = pod.run()
    assert code == 64, err
    failure = record_of(pod)["failure"]
    assert failure["reason"] == "Diverged"
    assert failure["message"].startswith("Training diverged: the loss became ")
    assert storage["checkpoints.files"].count_documents({"filename": pod.uid}) == 0


SENTENCES = {
    "unknown base model": ({**QUICK, "baseModel": {"name": "ResNet51"}}, "ResNet51"),
    "bad optimizer argument": (
        {**QUICK, "training": {"optimizer": {"name": "adam", "config": {"momentum": 0.9}}}},
        "spec.training.optimizer.config.momentum is not an argument of Adam",
    ),
    "head that does not fit": (
        {**QUICK, "head": {"layers": [{"type": "Conv2D", "config": {"filters": 4, "kernel_size": 2}}]}},
        "spec.head.layers[0] (Conv2D) does not fit an input of shape 1x1x2048",
    ),
    "unknown field": ({**QUICK, "seed": 4}, "spec.seed is not a field"),
}


@pytest.mark.parametrize(("spec", "sentence"), SENTENCES.values(), ids=SENTENCES.keys())
def test_a_spec_that_cannot_work_ends_with_64_before_any_image_is_read(
    make_pod, record_of, spec: dict[str, Any], sentence: str
) -> None:
    pod = make_pod(spec)
    code, out, err = pod.run()
    assert code == 64, err
    assert sentence in pod.termination_log.read_text("utf-8")
    assert err == pod.termination_log.read_text("utf-8") + "\n", "the sentence, and nothing besides"
    assert record_of(pod)["failure"]["message"] == pod.termination_log.read_text("utf-8")
    assert "Features of" not in out


def test_a_bad_password_ends_with_69_and_is_not_repeated(make_pod, mongod) -> None:
    pod = make_pod(QUICK)
    pod.folder.joinpath("mongodb/uri").write_text(mongod.uri.replace("//", "//me:hunter2@"), "utf-8")
    code, out, err = pod.run()
    assert code == 69
    assert "check the user and password in the Secret" in err
    assert "hunter2" not in out + err


def test_a_record_that_is_missing_ends_with_69(make_pod, storage) -> None:
    pod = make_pod(QUICK)
    storage["sessions"].delete_one({"_id": pod.uid})
    code, _, err = pod.run()
    assert code == 69
    assert f"The record of session {pod.uid} is not in the database" in err
