"""The version of MongoDB's data, on a real mongod: told, and raised by the user that the chart's sidecar makes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from mongod_pod import PASSWORD, USERNAME, Pod
from trainingsession_operator.mongodb import server_uri
from trainingsession_operator.mongodb_member import ROLES
from trainingsession_operator.mongodb_version import ROLE, said

BEFORE = {(6, 0): "5.0", (7, 0): "6.0", (8, 0): "7.0"}


def command(pod: Pod, tmp_path: Path, *arguments: str) -> str:
    (tmp_path / "uri").write_text(server_uri(pod.mongod.address, "rs0", USERNAME, PASSWORD))
    nobody = {"clusters": [{"name": "a", "cluster": {"server": "http://127.0.0.1:1"}}], "current-context": "a",
              "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
              "users": [{"name": "a", "user": {}}]}  # fmt: skip
    (tmp_path / "kubeconfig").write_text(json.dumps(nobody))
    told = {**os.environ, "KUBECONFIG": str(tmp_path / "kubeconfig"), "MONGODB_URI_FILE": str(tmp_path / "uri"),
            "TRAINER_IMAGE": "t"}  # fmt: skip
    line = [sys.executable, "-m", "trainingsession_operator.mongodb_version", *arguments]
    done = subprocess.run(line, env=told, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def test_data_of_the_version_before_are_told_and_raised(pod, tmp_path):
    with pod.admin() as client:
        own = tuple(client.server_info()["versionArray"][:2])
        older = BEFORE[own]
        client.admin.command("grantRolesToUser", USERNAME, roles=[{"role": ROLE, "db": "admin"}])
        confirmed = {"confirm": True} if own >= (7, 0) else {}
        client.admin.command("setFeatureCompatibilityVersion", older, **confirmed)
        client.admin.command("revokeRolesFromUser", USERNAME, roles=[{"role": ROLE, "db": "admin"}])
        assert {role["role"] for role in client.admin.command("usersInfo", USERNAME)["users"][0]["roles"]} == set(ROLES)
    words = f"MongoDB is {own[0]}.{own[1]} and its data are of version "
    looked = command(pod, tmp_path)
    assert looked.startswith(f"{words}{older}: the next major version would refuse them")
    assert command(pod, tmp_path) == looked, "only asked, nothing changes"
    raised = f"{words}{own[0]}.{own[1]}: the next major version can be installed"
    assert command(pod, tmp_path, "--raise") == raised
    assert command(pod, tmp_path, "--raise") == command(pod, tmp_path) == raised


def test_both_versions_are_named():
    assert "7.0 and its data are of version 6.0" in said((7, 0), (6, 0))
