"""One member of MongoDB becomes three under a training session, and the loss of the primary costs no session anything.

All members share the test cluster's one node, so nothing here says that they spread over nodes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from typing import Any

import pytest

from real_cluster import Cluster

RELEASE = "trainingsession"
MONGODB = "trainingsession-mongodb"
# Beside two more members of MongoDB on two cores; long enough to train while they come.
SMALL = {"gpus": 0, "cpu": "500m", "memory": "2Gi"}
LONG = {"epochs": 600}
ASK = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8082/readyz').read().decode())"


@pytest.fixture(scope="module")
def team(stack: Cluster) -> Iterator[str]:
    name = stack.namespace("e2e-members")
    yield name
    stack.delete_namespace(name)
    # There is no way back to one member but an empty volume.
    stack.helm("uninstall", RELEASE, "-n", RELEASE, "--wait")
    stack.delete_namespace(RELEASE)
    stack.ok("tests/cluster/install")


@pytest.fixture(scope="module")
def grown(stack: Cluster, team: str, digits: Any) -> dict[str, Any]:
    """The session that trained while one member became three, at its end."""
    stack.apply(digits("across", training=LONG, resources=SMALL, baseModel={"inputSize": [32, 32]}), namespace=team)

    def is_training() -> bool:
        return stack.session(team, "across").get("status", {}).get("progress", {}).get("epoch", 0) > 0

    stack.wait_for("training", is_training, 180)
    three = ("--set", "mongodb.members=3", "--set", "mongodb.podAntiAffinity=preferred")
    stack.ok("tests/cluster/install", *three, timeout=400)
    return stack.wait_finished(team, "across", 300)


def role(stack: Cluster, number: int) -> str:
    """What the sidecar of that member says to the kubelet."""
    done = stack.run(
        "kubectl", "exec", "-n", RELEASE, f"{MONGODB}-{number}", "-c", "init", "--", "python", "-c", ASK
    )  # fmt: skip
    return done.stdout


def digest(stack: Cluster, team: str, session: str, file: str) -> str:
    text = stack.kubectl(
        "exec", "-n", RELEASE, "deploy/trainingsession-operator", "--",
        "python", "-m", "trainingsession_operator.download", team, session, file,
    )  # fmt: skip
    return hashlib.sha256(text.encode()).hexdigest()


def test_a_session_trains_on_while_one_member_becomes_three(stack, team, grown):
    status = grown["status"]
    assert status["phase"] == "Succeeded", status
    roles = [role(stack, number) for number in range(3)]
    assert sorted(text.split()[1] for text in roles) == ["primary", "secondary", "secondary"]
    assert len(stack.get("pvc", "-n", RELEASE)["items"]) == 3
    uri = base64.b64decode(stack.get("secret", "trainingsession-mongodb", "-n", team)["data"]["uri"]).decode()
    assert all(f"{MONGODB}-{number}." in uri for number in range(3)), "the next trainers know all of them"


def test_the_primary_goes_with_its_volume_and_the_next_session_succeeds_and_artifacts_are_there(
    stack, team, grown, digits
):
    before = digest(stack, team, "across", "class_names.json")
    primary = next(number for number in range(3) if "ready: primary" in role(stack, number))
    pod = stack.get("pod", f"{MONGODB}-{primary}", "-n", RELEASE)
    claim = f"data-{MONGODB}-{primary}"
    volume = stack.get("pvc", claim, "-n", RELEASE)["metadata"]["uid"]
    # As a node that is gone with its disk: nobody steps down first.
    stack.kubectl("delete", "pvc", claim, "-n", RELEASE, "--wait=false")
    stack.kubectl("delete", "pod", pod["metadata"]["name"], "-n", RELEASE, "--force", "--grace-period=0")
    stack.apply(digits("after", resources=SMALL, baseModel={"inputSize": [32, 32]}), namespace=team)
    session = stack.wait_finished(team, "after", 300)
    assert session["status"]["phase"] == "Succeeded", session["status"]
    assert session["status"]["features"]["computed"] == 0, "its features were acknowledged before the loss"
    stack.kubectl(
        "wait", "-n", RELEASE, "deploy/trainingsession-operator", "--for=condition=Available", "--timeout=60s"
    )
    assert digest(stack, team, "across", "class_names.json") == before
    stack.kubectl("rollout", "status", "-n", RELEASE, f"sts/{MONGODB}", "--timeout=120s")
    again = stack.get("pod", f"{MONGODB}-{primary}", "-n", RELEASE)
    assert again["metadata"]["uid"] != pod["metadata"]["uid"]
    assert stack.get("pvc", claim, "-n", RELEASE)["metadata"]["uid"] != volume
    assert "ready: " in role(stack, primary)


def test_all_members_lose_their_addresses_at_once_and_find_each_other_again(stack, team, grown):
    """As after a power cut of the whole cluster: every name leads to another address than the members knew."""
    before = digest(stack, team, "across", "class_names.json")
    labels = "app.kubernetes.io/component=mongodb"
    stack.kubectl("delete", "pod", "-n", RELEASE, "-l", labels, "--force", "--grace-period=0")

    def roles() -> bool:
        # Not the StatefulSet's status, which tells of the pods before for a while.
        return sorted(role(stack, number).split()[1:2] for number in range(3)) == [["primary"], *[["secondary"]] * 2]

    stack.wait_for("a primary and two secondaries", roles, 240)
    stack.kubectl(
        "wait", "-n", RELEASE, "deploy/trainingsession-operator", "--for=condition=Available", "--timeout=120s"
    )
    assert digest(stack, team, "across", "class_names.json") == before
