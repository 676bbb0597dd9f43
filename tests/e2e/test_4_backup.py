"""The drill of docs/backup.md, with its own commands: MongoDB's volume is destroyed, and everything comes back."""

from __future__ import annotations

import base64
import hashlib
import re
import textwrap

import pytest

from real_cluster import condition

RELEASE = "trainingsession"
BACKUPS = ("--set", "backup.enabled=true", "--set", "backup.persistence.size=1Gi", "--set", "storage.intervalMinutes=1")

QUICK = {"dataset": {"subset": 0.25}, "training": {"epochs": 2}, "resources": {"cpu": "700m"}}


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


def model_of(stack, namespace, name):
    """The model's bytes by the README's command, base64 because kubectl's output is read as text."""
    asked = ["-m", "trainingsession_operator.download", namespace, name, "model.keras"]
    run = f"subprocess.check_output([sys.executable, *{asked}])"
    python = f"import base64, subprocess, sys; print(base64.b64encode({run}).decode())"
    text = stack.kubectl("exec", "-n", RELEASE, "deploy/trainingsession-operator", "--", "python", "-c", python)
    return base64.b64decode(text)


def wake(stack, namespace, digits):
    """Have the operator look at the storage soon: a deletion that it sees does."""
    short = digits("short")
    short["spec"]["suspend"] = True
    stack.apply(short, namespace=namespace)
    stack.kubectl("delete", "ts", "short", "-n", namespace)


def reason(stack, namespace, name):
    return condition(stack.session(namespace, name), "Finished").get("reason")


def test_sessions_survive_the_loss_of_mongodb_s_volume(backed_up, digits):
    stack = backed_up
    page = (stack.repo / "docs/backup.md").read_text()
    teams = [stack.namespace("e2e-backup-a"), stack.namespace("e2e-backup-b")]
    for team in teams:
        stack.apply(digits("digits", **QUICK), namespace=team)
    before = {team: stack.wait_finished(team, "digits")["status"] for team in teams}
    assert {status["phase"] for status in before.values()} == {"Succeeded"}

    for command in commands(page, "create job backup-now"):
        said = stack.ok("bash", "-c", command)
    (archive,) = set(re.findall(r"trainingsession-\w+\.zip", said))
    assert "read back and found whole" in said

    for command in commands(page, "delete pvc data-trainingsession-mongodb-0"):
        stack.ok("bash", "-c", command)
    wake(stack, teams[0], digits)
    for team in teams:
        stack.wait_for(
            "the loss is in the status", lambda team=team: reason(stack, team, "digits") == "ArtifactsMissing", 150
        )
        assert stack.session(team, "digits")["status"]["accuracy"] == before[team]["accuracy"]

    for command in commands(page, "create job restore-1"):
        said = stack.ok("bash", "-c", command)
    assert f"restored {archive}: " in said
    for team in teams:
        # Other tests' databases are restored too.
        assert re.search(rf"database trainings_{team}_\w+: [1-9]\d+ documents restored, \d+ were there already", said)

    # At once, before any status says so.
    for team in teams:
        (listed,) = (one for one in before[team]["artifacts"] if one["name"] == "model.keras")
        assert hashlib.sha256(model_of(stack, team, "digits")).hexdigest() == listed["sha256"]
    stack.apply(digits("after", **QUICK | {"training": {"epochs": 1, "seed": 5}}), namespace=teams[0])
    wake(stack, teams[1], digits)
    for team in teams:
        stack.wait_for(
            "the status is true again",
            lambda team=team: stack.session(team, "digits")["status"]["phase"] == "Succeeded",
            150,
        )
        after = stack.session(team, "digits")["status"]
        assert {key: after[key] for key in ("accuracy", "artifacts", "metrics")} == {
            key: before[team][key] for key in ("accuracy", "artifacts", "metrics")
        }
    after = stack.wait_finished(teams[0], "after")["status"]
    assert after["phase"] == "Succeeded"
    assert after["features"]["computed"] > 0, "features were not backed up"

    # One archive by its name, all of it there already; and a name that is not there.
    (pipeline,) = commands(page, "kubectl set env --local")
    pipeline = re.sub(r"ARCHIVE=\S+", f"ARCHIVE={archive}", pipeline)
    stack.ok("bash", "-c", pipeline)
    stack.kubectl("wait", "-n", RELEASE, "job/restore-2", "--for=condition=Complete", "--timeout=60s")
    said = stack.kubectl("logs", "-n", RELEASE, "job/restore-2")
    assert re.search(rf"restored {archive}: \d+ databases, \d+ documents, [1-9]\d* were there already", said)
    for team in teams:
        assert stack.session(team, "digits")["status"]["phase"] == "Succeeded"
        stack.delete_namespace(team)
    stack.kubectl("delete", "-n", RELEASE, "job/backup-now", "job/restore-1", "job/restore-2")
