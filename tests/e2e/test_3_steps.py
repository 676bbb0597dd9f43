"""Sessions in several Jobs and pods on a real cluster: no GPU where none is needed, pods that extract together."""

import base64
import contextlib
import re

import pytest
from pymongo import MongoClient

from real_mongod import free_port

# Two pods at once, beside the system's, on two cores.
SMALL = {"cpu": "800m", "memory": "2Gi"}


@pytest.fixture(scope="module")
def team(stack):
    name = stack.namespace("e2e-steps")
    yield name
    stack.delete_namespace(name)


@pytest.fixture(scope="module")
def stored(stack, team, digits):
    """A session that left its features in the store."""
    stack.apply(digits("first", training={"epochs": 3}), namespace=team)
    session = stack.wait_finished(team, "first")
    assert session["status"]["phase"] == "Succeeded"
    assert session["status"]["placement"]["device"] == "GPU"
    return session


@contextlib.contextmanager
def database(stack, team):
    """The namespace's database, by the way that the trainers have."""
    secret = stack.get("secret", "trainingsession-mongodb", "-n", team)["data"]
    uri = base64.b64decode(secret["uri"]).decode()
    port = free_port()
    forward = ("kubectl", "port-forward", "-n", "trainingsession", "svc/trainingsession-mongodb", f"{port}:27017")
    with stack.started(*forward) as forwarding:
        assert "Forwarding from" in forwarding.stdout.readline()
        here = re.sub(r"@[^/]+/", f"@localhost:{port}/", re.sub(r"replicaSet=[^&]*&?", "", uri))
        with MongoClient(here, directConnection=True) as client:
            yield client.get_default_database(base64.b64decode(secret["database"]).decode())


def pods(stack, team, session):
    label = f"trainingsession.dev/session-uid={session['metadata']['uid']}"
    return stack.get("pods", "-n", team, "-l", label)["items"]


def limits(pod):
    (container,) = pod["spec"]["containers"]
    return container["resources"]["limits"]


def test_a_session_whose_features_are_stored_holds_no_gpu(stack, team, digits, stored):
    stack.apply(digits("stored", training={"epochs": 4}), namespace=team)
    session = stack.wait_finished(team, "stored")
    status = session["status"]
    assert status["phase"] == "Succeeded"
    assert status["placement"]["device"] == "CPU"
    assert status["features"]["computed"] == 0
    assert status["features"]["reused"] == stored["status"]["features"]["computed"]
    assert status["features"]["secondsSaved"] > 0
    (pod,) = pods(stack, team, session)
    assert "nvidia.com/gpu" not in limits(pod)
    log = stack.kubectl("logs", "-n", team, pod["metadata"]["name"])
    assert "no image is read and no base model built" in log
    assert log.index("Accuracy") < log.index("Building ResNet50")
    assert "worst_mistakes.png" in {artifact["name"] for artifact in status["artifacts"]}, "from stored thumbnails"


def test_a_damaged_shard_brings_the_gpu_back(stack, team, digits, stored):
    with database(stack, team) as found:
        shard = found["feature_shards"].find_one({"set": stored["status"]["features"]["key"], "index": 0})
        chunk = found["features.chunks"].find_one({"files_id": shard["file"]})
        bad = bytes([chunk["data"][0] ^ 1]) + chunk["data"][1:]
        found["features.chunks"].update_one({"_id": chunk["_id"]}, {"$set": {"data": bad}})
    stack.apply(digits("damaged", training={"epochs": 3}), namespace=team)
    session = stack.wait_finished(team, "damaged")
    status = session["status"]
    assert status["phase"] == "Succeeded", status
    assert status["jobName"].endswith("-g")
    assert status["placement"]["device"] == "GPU"
    assert status["features"]["computed"] > 0
    assert status["attempts"] == 2
    assert status["accuracy"] == stored["status"]["accuracy"]
    (pod,) = pods(stack, team, session)  # the first Job is gone
    assert limits(pod)["nvidia.com/gpu"] == "1"


def test_the_gpu_is_given_back_before_the_head_is_trained(stack, team, digits):
    asked = digits(
        "halves", training={"epochs": 3}, baseModel={"inputSize": [48, 48]}, resources={"gpuForHead": "never"}
    )
    stack.apply(asked, namespace=team)
    session = stack.wait_finished(team, "halves")
    status = session["status"]
    assert status["phase"] == "Succeeded", status
    assert status["jobName"].endswith("-h")
    assert status["placement"]["device"] == "CPU"
    first, second = sorted(pods(stack, team, session), key=lambda pod: pod["metadata"]["creationTimestamp"])
    assert limits(first)["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" not in limits(second)
    assert "Training the head" not in stack.kubectl("logs", "-n", team, first["metadata"]["name"])
    assert "Accuracy" in stack.kubectl("logs", "-n", team, second["metadata"]["name"])


def test_two_workers_extract_together_and_each_image_is_computed_once(stack, team, digits):
    asked = digits(
        "together", training={"epochs": 3}, baseModel={"inputSize": [128, 128]},
        resources={"gpus": 0, "workers": 2, **SMALL},
    )  # fmt: skip
    stack.apply(asked, namespace=team)
    session = stack.wait_finished(team, "together")
    status = session["status"]
    assert status["phase"] == "Succeeded", status
    names = sorted(pod["metadata"]["name"] for pod in pods(stack, team, session))
    assert len(names) == 2
    assert status["attempts"] == 2
    logs = [stack.kubectl("logs", "-n", team, name) for name in names]
    assert "Helping to extract" not in logs[0]
    assert "Helping to extract" in logs[1]
    assert "Traceback" not in logs[0] + logs[1]
    with database(stack, team) as found:
        shards = list(found["feature_shards"].find({"set": status["features"]["key"]}))
        assert sum(shard["images"] for shard in shards) == sum(
            status["samples"][part] for part in ("train", "validation")
        )
        files = found["features.files"].count_documents({"filename": re.compile(f"^{status['features']['key']}/\\d+$")})
        assert files == len(shards)
