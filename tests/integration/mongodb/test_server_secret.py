"""MongoDB's server Secret, made on a real API server: once, and never overwritten."""

from __future__ import annotations

import base64
import os
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from kubernetes import client, config

from trainingsession_operator.mongodb_server import ServerSecretError, ensure_server_secret

NAME = "trainingsession-mongodb-server"


@pytest.fixture(scope="module")
def api(repo: Path) -> client.CoreV1Api:
    kubeconfig = repo / ".cluster" / "kubeconfig"
    if not kubeconfig.is_file():
        missing = "there is no .cluster/kubeconfig; run `make cluster`"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return client.CoreV1Api(config.new_client_from_config(str(kubeconfig)))


@pytest.fixture
def namespace(api: client.CoreV1Api) -> Iterator[str]:
    name = f"server-secret-{uuid.uuid4().hex[:8]}"
    api.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=name)))
    yield name
    api.delete_namespace(name)


def stored(api: client.CoreV1Api, namespace: str) -> dict[str, str]:
    data = api.read_namespaced_secret(NAME, namespace).data
    return {key: base64.b64decode(value).decode() for key, value in data.items()}


def test_it_is_made_once_and_read_after(api, namespace):
    first = ensure_server_secret(api, namespace, NAME)
    made = stored(api, namespace)
    assert (made["username"], made["password"]) == (first.username, first.password)
    assert ensure_server_secret(api, namespace, NAME) == first
    assert stored(api, namespace) == made


def test_the_password_is_strong_and_stands_unquoted_in_an_address(api, namespace):
    password = ensure_server_secret(api, namespace, NAME).password
    assert len(password) >= 40
    assert password.replace("-", "").replace("_", "").isalnum()
    assert password not in repr(ensure_server_secret(api, namespace, NAME))


def test_the_keyfile_is_one_that_mongod_takes(api, namespace):
    ensure_server_secret(api, namespace, NAME)
    keyfile = stored(api, namespace)["keyfile"]
    assert 6 <= len(keyfile) <= 1024
    assert base64.b64decode(keyfile, validate=True)


def test_operators_starting_at_once_agree(api, namespace):
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: ensure_server_secret(api, namespace, NAME), range(8)))
    assert len(found) == 1


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        ({}, "its key username is missing or empty"),
        ({"username": "YQ==", "password": "", "keyfile": "YQ=="}, "its key password is missing or empty"),
        ({"username": "YQ==", "password": "YQ=="}, "its key keyfile is missing or empty"),
        ({"username": "YQ==", "password": "/w==", "keyfile": "YQ=="}, "its key password is not text"),
    ],
)
def test_a_damaged_secret_is_a_sentence_and_is_left_alone(api, namespace, data, fault):
    api.create_namespaced_secret(namespace, client.V1Secret(metadata=client.V1ObjectMeta(name=NAME), data=data))
    with pytest.raises(ServerSecretError, match=f"Secret {NAME} in namespace {namespace} .*{fault}; restore it"):
        ensure_server_secret(api, namespace, NAME)
    assert (api.read_namespaced_secret(NAME, namespace).data or {}) == data


def test_a_refusal_of_the_api_server_is_raised(api):
    with pytest.raises(client.ApiException) as refused:
        ensure_server_secret(api, "there-is-no-such-namespace", NAME)
    assert refused.value.status == 404
