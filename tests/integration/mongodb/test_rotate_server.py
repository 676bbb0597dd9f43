"""A new administrator of the chart's own MongoDB, on a real mongod with its sidecar: both are known for the grace."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from mongod_pod import USERNAME, Pod
from trainingsession_operator.mongodb import connect, server_uri
from trainingsession_operator.mongodb_member import ROLES
from trainingsession_operator.rotate_server import end_administrators, make_administrator
from trainingsession_operator.tenants import drop_replaced_users

HOUR, NOW = timedelta(hours=1), timedelta(0)


def logged_in(pod: Pod) -> MongoClient[dict[str, Any]]:
    """As the operator that starts now."""
    user, password = (pod.credentials / "username").read_text(), (pod.credentials / "password").read_text()
    return connect(server_uri(pod.mongod.address, "rs0", user, password))


def users(client: MongoClient[dict[str, Any]]) -> set[str]:
    return {user["user"] for user in client.admin.command("usersInfo")["users"]}


def give(pod: Pod, made: tuple[str, str]) -> None:
    """Write the Secret's files, as the kubelet does in its time."""
    for key, value in zip(("username", "password"), made):
        (pod.credentials / key).write_text(value)


def test_both_can_be_used_until_the_grace_is_over_and_the_members_follow(pod):
    (sidecar,) = pod.sidecars
    with logged_in(pod) as before:
        made = make_administrator(before)
        give(pod, made)
        with logged_in(pod) as after:
            said = end_administrators(after, HOUR)
            assert said.startswith(f"MongoDB's administrator is {made[0]}; 0 old user(s) dropped; 1 old user(s) can be")
            roles = after.admin.command("usersInfo", made[0])["users"][0]["roles"]
            assert {role["role"] for role in roles} == set(ROLES)
            assert before.admin.command("ping")["ok"] == 1
            assert drop_replaced_users(after.admin) == [], "the grace is not over"
            now = after.admin.command("hello")["localTime"]
            after.admin.command("updateUser", USERNAME, customData={"dropAfter": now})
            assert drop_replaced_users(before.admin) == [], "an operator that was not restarted keeps its own"
            assert drop_replaced_users(after.admin) == [USERNAME]
            assert users(after) == {made[0]}
        with pytest.raises(OperationFailure):
            before.admin.command("usersInfo")
    sidecar.wait_for(f"ready: primary of rs0, logged in as {made[0]}")
    assert not [line for line in sidecar.lines if "restore the Secret" in line or made[1] in line]


def test_one_that_was_interrupted_leaves_nothing_that_the_next_does_not_end(pod):
    with logged_in(pod) as client:
        lost = make_administrator(client)
        made = make_administrator(client)
    give(pod, made)
    with logged_in(pod) as client:
        client.admin.command("createUser", "somebody", pwd="else", roles=[{"role": "read", "db": "a"}])
        client.admin.command("createUser", f"{USERNAME}-two", pwd="else", roles=[{"role": "read", "db": "a"}])
        assert users(client) == {USERNAME, lost[0], made[0], "somebody", f"{USERNAME}-two"}
        assert "2 old user(s) dropped" in end_administrators(client, NOW)
        assert users(client) == {made[0], "somebody", f"{USERNAME}-two"}
        again = make_administrator(client)
    assert again[0].startswith(f"{USERNAME}.")
    assert again[0].count(".") == 1, "names do not grow"


def test_a_mongodb_of_one_s_own_is_not_rotated(tmp_path):
    (tmp_path / "uri").write_text("mongodb://a:b@localhost:1/?replicaSet=rs0")
    told = {**os.environ, "MONGODB_URI_FILE": str(tmp_path / "uri"), "TRAINER_IMAGE": "t"}
    line = [sys.executable, "-m", "trainingsession_operator.rotate_server", "new"]
    done = subprocess.run(line, env=told, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("MongoDB is not the chart's own (mongodb.external): make its new password there")
