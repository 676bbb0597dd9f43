"""A namespace's new password, on a real API server and a real mongod with passwords, with the trainer's own client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from pymongo import MongoClient

import builders
from real_mongod import RealMongod
from running_operator import kubeconfig
from trainingsession_operator.cluster import Cluster
from trainingsession_operator.errors import ApiError, StartError
from trainingsession_operator.jobs import PATIENT_EXIT_CODES
from trainingsession_operator.mongodb import server_uri
from trainingsession_operator.records import COLLECTION, Records
from trainingsession_operator.resource import parse_session
from trainingsession_operator.rotate import rotate
from trainingsession_operator.tenants import Server, drop_replaced_users
from trainingsession_operator.trainer_pod import TENANT_SECRET
from trainingsession_trainer.errors import StorageError
from trainingsession_trainer.mongodb import connect as trainer_connect
from trainingsession_trainer.mongodb import patiently

NOW, HOUR = timedelta(0), timedelta(hours=1)
Admin = MongoClient[dict[str, Any]]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The administrator's URI of a mongod that asks for passwords."""
    folder = tmp_path_factory.mktemp("guarded")
    keyfile = folder / "keyfile"
    keyfile.write_text("c2VjcmV0" * 20)
    keyfile.chmod(0o600)
    server = RealMongod(folder, ("--auth", "--keyFile", str(keyfile)))
    server.start()
    server.initiate()
    with MongoClient(server.uri) as alone:
        alone.admin.command("createUser", "admin", pwd="p/ss:w@rd", roles=["root"])
    yield server_uri(server.address, "rs0", "admin", "p/ss:w@rd")
    server.stop()


@pytest.fixture
def admin(uri: str) -> Iterator[Admin]:
    with MongoClient(uri) as client:
        yield client


@pytest.fixture
def before(api, uri, namespace) -> dict[str, str]:
    """The Secret of a namespace that has had a session."""
    prepare(api, uri, namespace)
    return secret(api, namespace)


def prepare(api: Any, uri: str, namespace: str) -> None:
    """A new operator looks at a new session."""
    session = builders.resource(uid=str(uuid.uuid4()))
    session["metadata"]["namespace"] = namespace
    records = Records(Server(uri, managed_users=True), Cluster(api))
    records.prepare(parse_session(session))
    records.close()


def secret(api: Any, namespace: str) -> dict[str, str]:
    return Cluster(api).secret(namespace, TENANT_SECRET) or {}


def users(admin: Admin, database: str) -> set[str]:
    return {user["user"] for user in admin[database].command("usersInfo")["users"]}


def sessions_seen(found: dict[str, str]) -> int:
    """By a trainer that starts with this Secret."""
    return trainer_connect(found["uri"], found["database"], patience=0)[COLLECTION].count_documents({})


def test_both_users_work_until_the_grace_is_over_and_then_the_new_one_only(api, uri, admin, namespace, before):
    said = rotate(Cluster(api), admin, Server(uri, True), namespace, HOUR)
    assert "1 old user(s) can be used until" in said
    after = secret(api, namespace)
    assert after["database"] == before["database"]
    assert after["uri"] != before["uri"]
    assert sessions_seen(before) == sessions_seen(after) == 1
    database = admin[before["database"]]
    assert drop_replaced_users(database) == [], "the grace is not over"
    database.command("updateUser", before["database"], customData={"dropAfter": database.command("hello")["localTime"]})
    assert drop_replaced_users(database) == [before["database"]]
    assert users(admin, before["database"]) == {urlsplit(after["uri"]).username}
    assert sessions_seen(after) == 1
    with pytest.raises(StorageError, match="user and password"):
        sessions_seen(before)


def test_the_next_operator_keeps_the_new_user_and_its_rights_are_the_namespaces_only(
    api, uri, admin, namespace, before
):
    rotate(Cluster(api), admin, Server(uri, True), namespace, NOW)
    after = secret(api, namespace)
    prepare(api, uri, namespace)
    assert secret(api, namespace) == after
    assert sessions_seen(after) == 2
    (user,) = admin[before["database"]].command("usersInfo")["users"]
    assert user["roles"] == [{"role": "readWrite", "db": before["database"]}]


def test_a_running_trainer_whose_user_is_dropped_ends_so_that_it_is_tried_again_with_the_new_one(
    api, uri, admin, namespace, before
):
    running = trainer_connect(before["uri"], before["database"])
    assert running[COLLECTION].count_documents({}) == 1
    assert "1 old user(s) dropped" in rotate(Cluster(api), admin, Server(uri, True), namespace, NOW)
    with pytest.raises(StorageError) as ended:
        patiently(lambda: running[COLLECTION].count_documents({}), "read the records", patience=0)
    assert ended.value.exit_code in PATIENT_EXIT_CODES
    assert sessions_seen(secret(api, namespace)) == 1


def test_a_stolen_password_that_was_given_a_day_can_be_ended_at_once(api, uri, admin, namespace, before):
    for grace in (timedelta(days=1), NOW):
        rotate(Cluster(api), admin, Server(uri, True), namespace, grace)
    assert users(admin, before["database"]) == {urlsplit(secret(api, namespace)["uri"]).username}


def test_a_rotation_that_was_interrupted_is_made_good_by_the_next(api, uri, admin, namespace, before):
    class Silent(Cluster):
        def write_secret(self, *_: Any, **__: Any) -> None:
            raise ApiError("cannot update the Secret: the API server does not answer")

    with pytest.raises(ApiError):
        rotate(Silent(api), admin, Server(uri, True), namespace, NOW)
    assert len(users(admin, before["database"])) == 2
    assert sessions_seen(before) == 1
    rotate(Cluster(api), admin, Server(uri, True), namespace, NOW)
    assert len(users(admin, before["database"])) == 1
    assert sessions_seen(secret(api, namespace)) == 1


def test_without_anything_to_rotate_it_says_so(api, uri, admin, namespace):
    with pytest.raises(StartError, match="there is no namespace gone"):
        rotate(Cluster(api), admin, Server(uri, True), "gone", NOW)
    with pytest.raises(StartError, match="has no Secret trainingsession-mongodb yet"):
        rotate(Cluster(api), admin, Server(uri, True), namespace, NOW)
    with pytest.raises(StartError, match=r"mongodb\.users is shared"):
        rotate(Cluster(api), admin, Server(uri, False), namespace, NOW)


def test_the_command_rotates_and_says_what_it_did(api, uri, namespace, before, tmp_path):
    (tmp_path / "kubeconfig").write_text(json.dumps(kubeconfig(api)))
    (tmp_path / "uri").write_text(uri)
    told = {"KUBECONFIG": str(tmp_path / "kubeconfig"), "MONGODB_URI_FILE": str(tmp_path / "uri"), "TRAINER_IMAGE": "t"}

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "trainingsession_operator.rotate", *arguments]
        return subprocess.run(line, env={**os.environ, **told}, capture_output=True, text=True, check=False)

    done = command(namespace, "--grace-minutes", "0")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"namespace {namespace}: new trainers use {before['database']}." in done.stdout
    assert "1 old user(s) dropped" in done.stdout
    after = secret(api, namespace)
    assert urlsplit(after["uri"]).password not in done.stdout
    assert sessions_seen(after) == 1
    missing = command("gone")
    assert (missing.returncode, missing.stderr) == (1, "there is no namespace gone\n")
