"""The main job on the real cluster: apply, wait, accuracy, logs, artifacts, and what must survive."""

import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from gridfs import GridFSBucket
from pymongo import MongoClient

from real_cluster import condition
from real_mongod import free_port


@pytest.fixture(scope="module")
def team(stack):
    name = stack.namespace("e2e-team")
    yield name
    stack.delete_namespace(name)


@pytest.fixture(scope="module")
def first(stack, team, digits):
    """The sample as it is, at its end."""
    stack.apply(digits("digits"), namespace=team)
    stack.kubectl("wait", "-n", team, "ts/digits", "--for=condition=Complete", "--timeout=600s", timeout=630)
    return stack.session(team, "digits")


def test_digits_succeeds_with_its_accuracy(first):
    status = first["status"]
    assert status["phase"] == "Succeeded"
    assert float(status["accuracy"]) >= 0.95
    assert re.fullmatch(r"[01]\.\d{4}", status["accuracy"])
    assert condition(first, "Finished")["status"] == "True"
    assert condition(first, "Failed").get("status") != "True"
    assert status["progress"]["summary"] == "30/30"
    assert sum(status["samples"].values()) == 1797
    assert status["features"]["computed"] > 0
    assert status["attempts"] == 1
    assert status["startTime"] <= status["completionTime"]
    names = {artifact["name"] for artifact in status["artifacts"]}
    assert names == {
        "architecture.json", "head.weights.h5", "class_names.json", "model.keras", "training_log.csv", "metrics.json",
        "predictions.npz", "events.out.tfevents.0", "curves.png", "confusion.png", "worst_mistakes.json",
        "worst_mistakes.png", "doubtful_labels.json", "doubtful_labels.png", "learning_curve.json",
        "learning_curve.png", "reproducibility.json", "model_card.md", "log.txt",
    }  # fmt: skip
    assert 0.9 < float(status["validationAccuracy"]) <= 1
    evaluation = {name: float(value) for name, value in status["evaluation"].items()}
    assert evaluation["accuracyLow"] < float(status["accuracy"]) < evaluation["accuracyHigh"]
    assert evaluation["baseline"] < 0.2


def test_the_table_shows_what_people_look_for(stack, team, first):
    header, row = stack.kubectl("get", "trainingsessions", "-n", team, "digits").splitlines()
    assert header.split() == ["NAME", "PHASE", "ACCURACY", "EPOCH", "DATASET", "SUBSET", "BASE", "OPTIMIZER", "AGE"]
    accuracy = first["status"]["accuracy"]
    assert row.split()[:-1] == ["digits", "Succeeded", accuracy, "30/30", "digits", "1", "ResNet50", "adam"]


def test_logs_tell_the_story_without_control_characters(stack, team, first):
    log = stack.kubectl("logs", "-n", team, f"job/{first['status']['jobName']}")
    assert first["status"]["accuracy"] in log
    assert "epoch" in log.lower()
    assert "images/s" in log
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", log)


def test_the_pod_is_restricted_and_holds_a_gpu(stack, team, first):
    (pod,) = stack.get("pods", "-n", team, "-l", f"trainingsession.dev/session-uid={first['metadata']['uid']}")["items"]
    (container,) = pod["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert pod["spec"]["automountServiceAccountToken"] is False
    password = json.dumps(pod)
    assert "mongodb://" not in password


def readme_commands(repo):
    """The kubectl commands of the README that look at a session, with the sample's names put in."""
    text = (repo / "README.md").read_text().split("## See what it does")[1].split("## Map")[0]
    return [command.replace("cifar10-inceptionv3", "digits") for command in re.findall(r"`(kubectl [^`]+)`", text)]


def test_the_commands_of_the_readme_work(stack, team, first):
    commands = readme_commands(stack.repo)
    assert len(commands) >= 5
    for command in commands:
        kubectl, *arguments = shlex.split(command.split(",")[0])
        assert stack.ok(kubectl, "-n", team, *arguments).strip(), command


def test_the_way_of_mongofiles_in_the_readme_works(stack, team, first, tmp_path):
    """MongoDB's own tools cannot be had everywhere; without, the driver reads the same file under the same name."""
    text = (stack.repo / "README.md").read_text()
    forward, address, database, command = re.search(
        r"    (kubectl port-forward .* svc/\S+) \d+ &\n"
        r"    URI=\$\((.*?)\)\n"
        r"    DB=\$\((.*?)\)\n"
        r"    (mongofiles .*)\n",
        text, re.DOTALL,
    ).groups()  # fmt: skip
    prefix, local, name = re.search(r"--prefix (\S+) --local (\S+) get (\S+)", command).groups()
    uri, database = (
        stack.ok("bash", "-c", asked.replace("kubectl get", f"kubectl -n {team} get")).strip()
        for asked in (address, database)
    )
    port = free_port()
    with stack.started(*forward.split(), f"{port}:27017") as forwarding:
        assert "Forwarding from" in forwarding.stdout.readline()
        uri = uri.replace("localhost:27017", f"localhost:{port}")
        if shutil.which("mongofiles"):
            told = f"cd {tmp_path}; URI='{uri}' DB={database}; {command}"
            stack.ok("bash", "-c", told)
            content = (tmp_path / local).read_bytes()
        else:
            with MongoClient(uri) as mongodb:
                content = GridFSBucket(mongodb[database], prefix).open_download_stream_by_name(name).read()
    (artifact,) = (a for a in first["status"]["artifacts"] if a["name"] == name.split("/")[1])
    assert hashlib.sha256(content).hexdigest() == artifact["sha256"]


def test_no_secret_in_events_logs_or_status(stack, team, first):
    secret = stack.get("secret", "trainingsession-mongodb", "-n", team)
    import base64

    uri = base64.b64decode(secret["data"]["uri"]).decode()
    password = re.match(r"mongodb://[^:]+:([^@]+)@", uri).group(1)
    seen = stack.kubectl("get", "events,ts,jobs,pods", "-n", team, "-o", "json")
    seen += stack.kubectl("logs", "-n", "trainingsession", "deploy/trainingsession-operator", "--tail=-1")
    seen += stack.kubectl("logs", "-n", team, f"job/{first['status']['jobName']}")
    assert password not in seen


def test_a_second_session_on_the_same_features_computes_none(stack, team, digits, first):
    stack.apply(digits("second", training={"optimizer": {"name": "rmsprop"}, "epochs": 5}), namespace=team)
    session = stack.wait_finished(team, "second")
    assert session["status"]["phase"] == "Succeeded"
    assert session["status"]["features"]["computed"] == 0
    assert session["status"]["features"]["reused"] == first["status"]["features"]["computed"]
    assert session["status"]["features"]["key"] == first["status"]["features"]["key"]
    table = stack.kubectl("get", "ts", "-n", team, "--sort-by=.status.accuracy").splitlines()[1:]
    accuracies = [row.split()[2] for row in table if row.split()[1] == "Succeeded"]
    assert accuracies == sorted(accuracies)
    assert len(accuracies) >= 2


BAD = {
    "unknown-base": ({"baseModel": {"name": "ResNett50"}}, 64, ("baseModel.name", "ResNett50", "ResNet50")),
    "bad-argument": (
        {"training": {"optimizer": {"name": "adam", "config": {"learningrate": 0.1}}}}, 64,
        ("training.optimizer.config", "learningrate", "learning_rate"),
    ),
    "too-small": ({"baseModel": {"name": "InceptionV3", "inputSize": [64, 64]}}, 64, ("baseModel.inputSize", "75")),
    "layer-lambda": ({"head": {"layers": [{"type": "Lambda"}]}}, 64, ("head.layers[0]", "Lambda")),
}  # fmt: skip


def test_bad_sessions_fail_at_once_with_one_sentence_and_disturb_nobody(stack, team, digits, first):
    small = {"resources": {"cpu": "500m", "memory": "1Gi"}}
    stack.apply(*(digits(name, **spec, **small) for name, (spec, _, _) in BAD.items()), namespace=team)
    for name, (_, code, words) in BAD.items():
        session = stack.wait_finished(team, name)
        failed = condition(session, "Failed")
        assert session["status"]["phase"] == "Failed"
        assert session["status"]["attempts"] == 1
        assert f"exit code {code}" in failed["message"], failed
        for word in words:
            assert word in failed["message"], failed
    assert stack.session(team, "digits")["status"] == first["status"]


def test_a_session_that_waits_shows_the_words_of_whoever_holds_it_up(stack, team, digits):
    # Its features are stored, and it wants the GPUs all the same.
    stack.apply(digits("greedy", resources={"gpus": 16, "gpuWhenCached": "always"}), namespace=team)

    def unschedulable():
        return condition(stack.session(team, "greedy"), "PodsReady").get("reason") == "Unschedulable"

    stack.wait_for("the scheduler's words", unschedulable)
    session = stack.session(team, "greedy")
    assert session["status"]["phase"] == "Pending"
    assert "Insufficient nvidia.com/gpu" in condition(session, "PodsReady")["message"]
    stack.kubectl("delete", "ts", "greedy", "-n", team)


def test_deleting_a_session_removes_its_job_and_pod(stack, team, digits):
    stack.apply(digits("deleted", dataset={"subset": 0.5}), namespace=team)
    stack.wait_for("a Job", lambda: stack.session(team, "deleted").get("status", {}).get("jobName"))
    uid = stack.session(team, "deleted")["metadata"]["uid"]
    selector = f"trainingsession.dev/session-uid={uid}"
    stack.wait_for("a pod", lambda: stack.get("pods", "-n", team, "-l", selector)["items"])
    stack.kubectl("delete", "ts", "deleted", "-n", team)
    stack.wait_for("no Job and no pod", lambda: not stack.get("jobs,pods", "-n", team, "-l", selector)["items"])


def test_the_operator_killed_in_mid_session_changes_nothing(stack, team, digits):
    stack.apply(digits("survivor", baseModel={"inputSize": [48, 48]}), namespace=team)
    stack.wait_for(
        "the session running", lambda: condition(stack.session(team, "survivor"), "Running").get("status") == "True"
    )
    pods = ("pods", "-n", "trainingsession", "-l", "app.kubernetes.io/component=operator")
    stack.kubectl("delete", *pods, "--grace-period=0", "--force")
    session = stack.wait_finished(team, "survivor")
    assert session["status"]["phase"] == "Succeeded"
    uid = session["metadata"]["uid"]
    assert len(stack.get("jobs", "-n", team, "-l", f"trainingsession.dev/session-uid={uid}")["items"]) == 1


SCORE = """
import json, sys
import numpy as np, keras
from trainingsession_trainer.datasets.digits import test_images

images, labels = test_images()
model = keras.models.load_model(sys.argv[1])
right = np.argmax(model.predict(images, verbose=0), axis=1) == labels
print(f"{right.mean():.4f}")
"""


def test_the_downloaded_model_scores_the_accuracy_reported(stack, team, first, tmp_path):
    model = tmp_path / "model.keras"
    said = stack.download(team, "digits", "model.keras", model)
    (artifact,) = (a for a in first["status"]["artifacts"] if a["name"] == "model.keras")
    assert model.stat().st_size == artifact["bytes"]
    assert f"{artifact['bytes']} bytes, sha256 {artifact['sha256']}" in said
    done = subprocess.run([sys.executable, "-c", SCORE, str(model)], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == first["status"]["accuracy"]
