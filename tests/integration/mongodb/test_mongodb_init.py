"""The sidecar against a real mongod with authentication: whatever it finds, it ends at a primary with its user."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from mongod_pod import MODULE, PASSWORD, USERNAME, Pod
from trainingsession_operator.mongodb_member import ROLES


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pod]:
    made = Pod(tmp_path)
    yield made
    made.end()


def users(pod: Pod) -> list[dict]:
    with pod.admin() as client:
        return client.admin.command("usersInfo")["users"]


def initiate(pod: Pod, **changed: object) -> None:
    """The sidecar's first step, as if it had been killed after it."""
    with pod.localhost() as client:
        member = {"_id": 0, "host": pod.mongod.address}
        client.admin.command("replSetInitiate", {"_id": "rs0", "members": [member], **changed})


def wait_until_primary(pod: Pod) -> None:
    # A connection that has to find the primary of the set returns when there is one.
    with MongoClient(pod.mongod.uri, serverSelectionTimeoutMS=30_000) as client:
        client.admin.command("hello")
        assert client.primary is not None


def test_an_empty_mongod_becomes_a_primary_with_the_operator_s_user(pod):
    sidecar = pod.sidecar()
    sidecar.wait_for("waiting for mongod on 127.0.0.1")
    code, sentence = sidecar.probe("/readyz")
    assert code == 503
    assert "waiting for mongod" in sentence
    assert sidecar.probe("/healthz")[0] == 200

    pod.mongod.start()
    sidecar.wait_for("initiated replica set rs0")
    sidecar.wait_for(f"made user {USERNAME}")
    sidecar.wait_for("ready: primary of rs0")
    assert sidecar.probe("/readyz") == (200, f"ready: primary of rs0, logged in as {USERNAME}\n")

    assert [user["user"] for user in users(pod)] == [USERNAME]
    with pod.admin() as client:
        config = client.admin.command("replSetGetStatus")
        assert [member["name"] for member in config["members"]] == [pod.mongod.address]
    assert PASSWORD not in "\n".join(sidecar.lines)


def test_the_operator_s_user_can_do_what_the_operator_does_and_strangers_nothing(pod):
    pod.mongod.start()
    pod.sidecar().wait_for("ready")
    with pod.admin() as client:
        database = client["trainings_team_a_12345678"]
        database.command("createUser", "tenant", pwd="secret", roles=[{"role": "readWrite", "db": database.name}])
        with client.watch([], max_await_time_ms=100) as changes:
            database.sessions.insert_one({"_id": "one"})
            assert next(changes)["documentKey"] == {"_id": "one"}
        database.command("updateUser", "tenant", pwd="another")
        database.command("dropUser", "tenant")
        client.drop_database(database.name)
        assert {role["role"] for role in client.admin.command("usersInfo", USERNAME)["users"][0]["roles"]} == set(ROLES)
    with pod.localhost() as stranger, pytest.raises(OperationFailure):
        stranger.admin.command("usersInfo")


def test_a_second_start_changes_nothing(pod):
    pod.mongod.start()
    first = pod.sidecar()
    first.wait_for("ready")
    assert first.end() == 0
    with pod.admin() as client:
        before = json.dumps(client.admin.command("replSetGetConfig")["config"], default=str), users(pod)
    second = pod.sidecar()
    second.wait_for("ready")
    with pod.admin() as client:
        assert (json.dumps(client.admin.command("replSetGetConfig")["config"], default=str), users(pod)) == before
    assert not [line for line in second.lines if "initiated" in line or "made user" in line]


def test_it_goes_on_where_it_was_killed_between_initiating_and_the_user(pod):
    pod.mongod.start()
    initiate(pod)
    sidecar = pod.sidecar()
    sidecar.wait_for("ready")
    assert not [line for line in sidecar.lines if "initiated" in line]
    assert [user["user"] for user in users(pod)] == [USERNAME]


@pytest.mark.parametrize("line", ["initiated replica set", "made user"])
def test_killed_after_any_line_the_next_one_converges(pod, line):
    pod.mongod.start()
    first = pod.sidecar()
    first.wait_for(line)
    first.end(signal.SIGKILL)
    pod.sidecar().wait_for("ready")
    assert [user["user"] for user in users(pod)] == [USERNAME]


def test_two_at_once_make_one_user(pod):
    pod.mongod.start()
    both = [pod.sidecar(), pod.sidecar()]
    for sidecar in both:
        sidecar.wait_for("ready")
    assert [user["user"] for user in users(pod)] == [USERNAME]


def test_not_ready_while_mongod_is_down_and_ready_again_after(pod):
    pod.mongod.start()
    sidecar = pod.sidecar()
    sidecar.wait_for("ready")
    pod.mongod.kill()
    sidecar.wait_for("waiting for mongod")
    assert sidecar.probe("/readyz")[0] == 503
    pod.mongod.start()
    sidecar.wait_for("ready")
    assert sidecar.probe("/readyz")[0] == 200


def test_not_ready_when_the_user_is_dropped_and_it_says_why(pod):
    pod.mongod.start()
    sidecar = pod.sidecar()
    sidecar.wait_for("ready")
    with pod.admin() as client:
        other = [{"role": "root", "db": "admin"}]
        client.admin.command("createUser", "other", pwd="other", roles=other)
        client.admin.command("dropUser", USERNAME)
    sidecar.wait_for(f"{USERNAME} cannot log in with the password of Secret the-server-secret; restore the Secret")
    assert sidecar.probe("/readyz")[0] == 503


def test_another_password_than_the_volume_s_is_a_sentence_and_is_mended_by_the_right_secret(pod):
    pod.mongod.start()
    pod.sidecar().wait_for("ready")
    (pod.credentials / "password").write_text("made-again")
    second = pod.sidecar()
    second.wait_for("restore the Secret that the volume was set up with")
    assert "made-again" not in "\n".join(second.lines)
    (pod.credentials / "password").write_text(PASSWORD)
    second.wait_for("ready")


def test_a_volume_of_another_pod_is_a_sentence(pod):
    pod.mongod.start()
    pod.sidecar().wait_for("ready")
    elsewhere = "other-mongodb-0.other-mongodb.elsewhere.svc:27017"
    other = pod.sidecar(host=elsewhere, members=elsewhere)
    other.wait_for(f"has the member {pod.mongod.address}, but this pod is other-mongodb-0.*install the chart under")
    assert other.probe("/readyz")[0] == 503


def test_a_volume_of_another_replica_set_is_a_sentence(pod):
    pod.mongod.start()
    initiate(pod)
    wait_until_primary(pod)
    pod.sidecar(replica_set="rs1").wait_for("belongs to replica set rs0, not rs1; set mongodb.replicaSet to rs0")


def test_a_name_that_does_not_resolve_yet_is_tried_again(pod):
    pod.mongod.start()
    missing = f"not-yet.invalid:{pod.mongod.port}"
    sidecar = pod.sidecar(host=missing, members=missing)
    sidecar.wait_for("cannot initiate replica set rs0 with not-yet.invalid")
    sidecar.end()
    pod.sidecar().wait_for("ready")


def test_a_missing_credential_is_waited_for(pod):
    (pod.credentials / "password").unlink()
    pod.mongod.start()
    sidecar = pod.sidecar()
    sidecar.wait_for("password")
    (pod.credentials / "password").write_text(PASSWORD)
    sidecar.wait_for("ready")


def test_sigterm_ends_it_at_once_with_zero(pod):
    sidecar = pod.sidecar()  # mongod never starts, so it hangs in a connection
    sidecar.wait_for("waiting for mongod")
    assert sidecar.end(signal.SIGTERM) == 0


def test_a_wrong_command_line_is_a_sentence():
    done = subprocess.run(
        [sys.executable, "-m", MODULE, "--replica-set=rs0"],
        capture_output=True, text=True, check=False, env=dict(os.environ),
    )  # fmt: skip
    assert done.returncode == 2
    assert "--host" in done.stderr


def test_a_host_that_is_no_member_is_a_sentence():
    told = ["--host=a:1", "--members=b:1,c:1", "--replica-set=rs0", "--credentials=/c", "--secret=s"]
    done = subprocess.run([sys.executable, "-m", MODULE, *told], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--host a:1 is not among --members b:1,c:1" in done.stderr
