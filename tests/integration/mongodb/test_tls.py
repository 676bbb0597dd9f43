"""A real mongod that takes only TLS: sidecar, operator and trainer trust the test's own authority."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError

import builders
from authority import Authority
from real_mongod import RealMongod
from trainingsession_operator.cluster import Cluster
from trainingsession_operator.errors import StartError
from trainingsession_operator.jobs import build_job
from trainingsession_operator.main import mongodb_server
from trainingsession_operator.mongodb import server_uri, with_authorities
from trainingsession_operator.mongodb_member import Rounds, Settings
from trainingsession_operator.records import COLLECTION, Records
from trainingsession_operator.resource import parse_session
from trainingsession_operator.trainer_pod import MONGODB_FOLDER
from trainingsession_trainer.errors import StorageError
from trainingsession_trainer.mongodb import connect as trainer_connect

SOON = 60.0


class Secrets:
    """One namespace and its Secret in memory."""

    def __init__(self) -> None:
        self.values: dict[str, str] | None = None

    def namespace_uid(self, namespace: str) -> str:
        return f"uid of {namespace}"

    def secret(self, namespace: str, name: str) -> dict[str, str] | None:
        return self.values

    def write_secret(self, namespace: str, name: str, values: dict[str, str], *, exists: bool) -> None:
        self.values = dict(values)


@dataclass(frozen=True)
class Guarded:
    """mongod with TLS and passwords, as the chart starts it, made ready by the sidecar."""

    host: str
    authority: Authority

    def uri(self) -> str:
        return with_authorities(server_uri(self.host, "rs0", "operator", "p/ss"), str(self.authority.certificate))


class Members:
    """mongods with TLS and passwords, as the chart starts them; their certificate is that of their name alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder / "authority").make()
        self.keyfile = folder / "keyfile"
        self.keyfile.write_text("c2VjcmV0" * 20)
        self.keyfile.chmod(0o400)
        self.credentials = folder / "server"
        self.credentials.mkdir()
        (self.credentials / "username").write_text("operator")
        (self.credentials / "password").write_text("p/ss")
        self.servers: list[RealMongod] = []

    def add(self) -> str:
        """Start one more and have its sidecar's rounds make it ready; the sidecar comes by 127.0.0.1."""
        folder = self.folder / f"member-{len(self.servers)}"
        folder.mkdir()
        server = RealMongod(folder, (
            "--auth", "--keyFile", str(self.keyfile), "--tlsMode=requireTLS",
            f"--tlsCertificateKeyFile={self.authority.issue('localhost')}",
            f"--tlsCAFile={self.authority.certificate}", "--tlsAllowConnectionsWithoutCertificates",
        ))  # fmt: skip
        self.servers.append(server)
        hosts = tuple(f"localhost:{each.port}" for each in self.servers)
        settings = Settings(
            server.address, hosts[-1], hosts, "rs0", self.credentials, "s", 0, self.authority.certificate
        )
        rounds = Rounds(settings)
        server.start()
        end = time.monotonic() + SOON
        while not (state := rounds.step()).ready:
            assert time.monotonic() < end, state.sentence
            time.sleep(0.1)
        return hosts[-1]

    def stop(self) -> None:
        for server in self.servers:
            server.kill()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    members = Members(tmp_path_factory.mktemp("tls"))
    yield Guarded(members.add(), members.authority)
    members.stop()


def test_a_member_joins_by_tls(tmp_path):
    members = Members(tmp_path)
    try:
        hosts = [members.add(), members.add()]
        uri = with_authorities(
            server_uri(",".join(hosts), "rs0", "operator", "p/ss"), str(members.authority.certificate)
        )
        with MongoClient[dict[str, Any]](uri, w="majority") as client:
            client.data.numbers.insert_one({"_id": 1})
            found = client.admin.command("replSetGetStatus")["members"]
        assert {member["name"]: member["stateStr"] for member in found} == {hosts[0]: "PRIMARY", hosts[1]: "SECONDARY"}
    finally:
        members.stop()


def test_operator_and_trainer_use_tls_with_the_same_uri_and_authorities(guarded):
    secrets = Secrets()
    settings = builders.settings(MONGODB_CA_FILE=str(guarded.authority.certificate))
    records = Records(mongodb_server(guarded.uri(), settings), cast("Cluster", secrets))
    assert records.ping() == ""
    session = parse_session(builders.resource(uid=str(uuid.uuid4())))
    records.prepare(session)
    records.close()
    assert secrets.values is not None
    assert secrets.values["ca.crt"] == guarded.authority.certificate.read_text().strip()
    database = trainer_connect(secrets.values["uri"], secrets.values["database"], patience=0)
    assert database[COLLECTION].count_documents({"_id": session.uid}) == 1
    assert database.client.options.pool_options._ssl_context is not None


@pytest.mark.parametrize("how", ["without TLS", "with the authorities of the machine", "with another authority"])
def test_whoever_does_not_trust_the_authority_does_not_speak_with_mongod(guarded, tmp_path, how):
    plain = server_uri(guarded.host, "rs0", "operator", "p/ss")
    uri = {
        "without TLS": lambda: plain,
        "with the authorities of the machine": lambda: f"{plain}&tls=true",
        "with another authority": lambda: with_authorities(
            plain, str(Authority(tmp_path / "other").make().certificate)
        ),
    }[how]()
    with pytest.raises(StorageError, match="Could not connect to MongoDB"):
        trainer_connect(uri, "admin", patience=0)


def test_a_certificate_of_another_name_is_refused(guarded):
    address = f"mongodb://{guarded.host.replace('localhost', '127.0.0.1')}/?directConnection=true"
    uri = with_authorities(address, str(guarded.authority.certificate))
    with (
        MongoClient[dict[str, Any]](uri, serverSelectionTimeoutMS=2_000) as client,
        pytest.raises(PyMongoError, match=r"certificate verify failed.*127\.0\.0\.1"),
    ):
        client.admin.command("ping")


@pytest.mark.parametrize(
    ("uri", "wanted"),
    [
        ("mongodb://a/?replicaSet=r", "mongodb://a/?replicaSet=r&tls=true&tlsCAFile=%2Fca.crt"),
        ("mongodb://a", "mongodb://a/?tls=true&tlsCAFile=%2Fca.crt"),
        ("mongodb://a/?tls=true", "mongodb://a/?tls=true&tlsCAFile=%2Fca.crt"),
        ("mongodb://a/?tls=true&tlsCAFile=%2Fother", "mongodb://a/?tls=true&tlsCAFile=%2Fother"),
    ],
)
def test_an_address_gets_what_it_does_not_say_itself(uri, wanted):
    assert with_authorities(uri, "/ca.crt") == wanted
    assert with_authorities(uri, "") == uri


def test_trainers_find_the_authorities_at_the_path_that_the_uri_names():
    def keys(**environment: str) -> set[str]:
        pod = build_job(builders.session(), builders.settings(**environment))["spec"]["template"]["spec"]
        volume = next(one for one in pod["volumes"] if one["name"] == "mongodb")
        return {item["path"] for item in volume["secret"]["items"]}

    assert keys() == {"uri", "database"}
    assert keys(MONGODB_CA_FILE=f"{MONGODB_FOLDER}/ca.crt") == {"uri", "database", "ca.crt"}


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_authorities_that_are_none_are_a_sentence_at_the_start(tmp_path, content):
    file = tmp_path / "ca.crt"
    if content is not None:
        file.write_text(content)
    with pytest.raises(StartError, match=r"ca\.crt"):
        mongodb_server("mongodb://a", builders.settings(MONGODB_CA_FILE=str(file)))
