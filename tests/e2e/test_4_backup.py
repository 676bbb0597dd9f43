"""The drill of docs/backup.md, with its own commands: MongoDB's volume is destroyed, and everything comes back."""

from __future__ import annotations

import hashlib
import re
import textwrap

import pytest

from real_cluster import condition

RELEASE = "trainingsession"
BACKUPS = ("--set", "backup.enabled=true", "--set", "backup.persistence.size=1Gi", "--set", "storage.intervalMinutes=1")

QUICK = {"baseModel": {"inputSize": [32, 32]}, "resources": {"cpu": "700m"}}


@pytest.fixture
def backed_up(stack):
    """The chart with backups, and rounds over the storage as often as they can be."""
    stack.ok("tests/cluster/install", *BACKUPS)
    yield stack
    stack.ok("tests/cluster/install")
    stack.kubectl("delete", "-n", RELEASE, "pvc", "trainingsession-backup", "--ignore-not-found")


def commands(page: str, *words: str) -> list[str]:
    """The commands of the block in which all these words stand."""
    blocks = re.findall(r"(?:^ {4,}\S.*\n)+", page, re.MULTILINE)
    (found,) = (block for block in blocks if all(word in block for word in words))
    return [line for line in textwrap.dedent(found).replace(" |\n", " | ").splitlines() if line]


def wake(stack, namespace, digits):
    """Have the operator look at the storage soon: a deletion that it sees does."""
    short = digits("short")
    short["spec"]["suspend"] = True
    stack.apply(short, namespace=namespace)
    stack.kubectl("delete", "ts", "short", "-n", namespace)


def reason(stack, namespace, name):
    return condition(stack.session(namespace, name), "Finished").get("reason")


def test_sessions_survive_the_loss_of_mongodb_s_volume(backed_up, digits, tmp_path):
    stack, names = backed_up, ("one", "two")
    page = (stack.repo / "docs/backup.md").read_text()
    team = stack.namespace("e2e-backup")
    for seed, name in enumerate(names):
        stack.apply(digits(name, **QUICK, training={"epochs": 2, "seed": seed}), namespace=team)
    before = {name: stack.wait_finished(team, name)["status"] for name in names}
    assert {status["phase"] for status in before.values()} == {"Succeeded"}

    for command in commands(page, "create job backup-now"):
        said = stack.ok("bash", "-c", command)
    (archive,) = set(re.findall(r"trainingsession-\w+\.zip", said))
    assert "read back and found whole" in said

    (suspend,) = commands(page, "patch cronjob")
    stack.ok("bash", "-c", suspend)
    for command in commands(page, "delete pvc", "rollout status"):
        stack.ok("bash", "-c", command)
    # Another mongod answers, and so the operator looks: nobody has to wake it.
    for name in names:
        stack.wait_for(
            "the loss is in the status", lambda name=name: reason(stack, team, name) == "ArtifactsMissing", 300
        )
        assert stack.session(team, name)["status"]["accuracy"] == before[name]["accuracy"]

    for command in commands(page, "create job restore-1"):
        said = stack.ok("bash", "-c", command)
    assert f"restored {archive}: " in said
    # Other tests' databases are restored too.
    assert re.search(rf"database trainings_{team}_\w+: [1-9]\d+ documents restored, \d+ were there already", said)

    # At once, before any status says so.
    for name in names:
        (listed,) = (one for one in before[name]["artifacts"] if one["name"] == "model.keras")
        stack.download(team, name, "model.keras", model := tmp_path / name)
        with model.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        assert (model.stat().st_size, digest) == (listed["bytes"], listed["sha256"])
    stack.apply(digits("after", **QUICK, training={"epochs": 1, "seed": 5}), namespace=team)
    wake(stack, team, digits)
    kept = ("phase", "accuracy", "artifacts", "metrics")
    for name in names:
        stack.wait_for(
            "the status is true again",
            lambda name=name: stack.session(team, name)["status"]["phase"] == "Succeeded", 180,
        )  # fmt: skip
        status = stack.session(team, name)["status"]
        assert {key: status[key] for key in kept} == {key: before[name][key] for key in kept}
    after = stack.wait_finished(team, "after")["status"]
    assert after["phase"] == "Succeeded"
    assert after["features"]["computed"] > 0, "features were not backed up"

    stack.ok("bash", "-c", suspend.replace("true", "false"))
    # The same archive by its name: all of it is there already.
    (pipeline,) = commands(page, "kubectl set env --local")
    stack.ok("bash", "-c", re.sub(r"ARCHIVE=\S+", f"ARCHIVE={archive}", pipeline))
    stack.kubectl("wait", "-n", RELEASE, "job/restore-2", "--for=condition=Complete", "--timeout=60s")
    said = stack.kubectl("logs", "-n", RELEASE, "job/restore-2")
    assert re.search(rf"restored {archive}: \d+ databases, \d+ documents, [1-9]\d* were there already", said)
    stack.kubectl("delete", "-n", RELEASE, "job/backup-now", "job/restore-1", "job/restore-2", "--ignore-not-found")
    stack.delete_namespace(team)
