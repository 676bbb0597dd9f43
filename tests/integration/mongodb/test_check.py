"""What /readyz says of real mongods that cannot be used: one sentence with the remedy, never a password."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pymongo import MongoClient

import trainingsession_operator.mongodb as driver
from authority import Authority
from real_mongod import RealMongod, free_port
from trainingsession_operator.mongodb import connect, seeds_of, server_uri, with_authorities, with_host
from trainingsession_operator.mongodb_check import why_unusable

PASSWORD = "p/ss-w@rd"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """All servers are on this machine: whoever has not answered in two seconds will not."""
    monkeypatch.setattr(driver, "SELECTION_MS", 2_000)


def why(uri: str, *, managed: bool = True) -> str:
    client = connect(uri)
    try:
        sentence = why_unusable(client, uri, managed_users=managed)
    finally:
        client.close()
    assert "w@rd" not in sentence
    assert "w%40rd" not in sentence
    assert "\n" not in sentence
    return sentence


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealMongod]:
    """A replica set of one that asks for passwords."""
    folder = tmp_path_factory.mktemp("guarded")
    keyfile = folder / "keyfile"
    keyfile.write_text("c2VjcmV0" * 20)
    keyfile.chmod(0o400)
    server = RealMongod(folder, ("--auth", "--keyFile", str(keyfile)))
    server.start()
    server.initiate()
    with MongoClient(server.uri) as alone:
        alone.admin.command("createUser", "admin", pwd=PASSWORD, roles=["root"])
    with MongoClient(server.uri, username="admin", password=PASSWORD) as admin:
        admin.admin.command("createUser", "reader", pwd=PASSWORD, roles=["readAnyDatabase"])
    yield server
    server.stop()


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RealMongod, Authority]]:
    """A replica set that takes only TLS, with a certificate of localhost."""
    folder = tmp_path_factory.mktemp("secured")
    authority = Authority(folder / "authority").make()
    server = RealMongod(folder, (
        "--tlsMode=requireTLS", f"--tlsCertificateKeyFile={authority.issue('localhost')}",
        f"--tlsCAFile={authority.certificate}", "--tlsAllowConnectionsWithoutCertificates",
    ))  # fmt: skip
    server.start()
    with MongoClient(
        f"localhost:{server.port}", directConnection=True, tls=True, tlsCAFile=str(authority.certificate)
    ) as admin:
        members = [{"_id": 0, "host": f"localhost:{server.port}"}]
        admin.admin.command("replSetInitiate", {"_id": "rs0", "members": members})
    yield server, authority
    server.stop()


def test_one_that_can_be_used_has_no_sentence(guarded):
    assert why(server_uri(guarded.address, "rs0", "admin", PASSWORD)) == ""
    assert why(f"mongodb://admin:p%2Fss-w%40rd@{guarded.address}/") == ""


@pytest.mark.parametrize(
    "uri",
    ["mongodb://admin:w%40rd@{}/?replicaSet=rs0&authSource=admin", "mongodb://admin:p%2Fss-w%40rd@{}/?authSource=else"],
    ids=["password", "authSource"],
)
def test_a_wrong_password(guarded, uri):
    assert "refuses the user or the password; correct them, or authSource, in the Secret" in why(
        uri.format(guarded.address)
    )


def test_no_credentials_and_too_few_rights(guarded):
    assert "give it the role readWriteAnyDatabase and userAdminAnyDatabase" in why(guarded.uri)
    reader = server_uri(guarded.address, "rs0", "reader", PASSWORD)
    assert "userAdminAnyDatabase, or set mongodb.users to shared" in why(reader)
    assert why(reader, managed=False) == ""


def test_another_replica_set_than_the_uri_says(guarded):
    sentence = why(server_uri(guarded.address, "other", "admin", PASSWORD))
    assert f"{guarded.address} belongs to replica set rs0; write replicaSet=rs0 in the URI" in sentence


@pytest.mark.parametrize("options", ["", "?replicaSet=rs0"])
def test_a_standalone_server(tmp_path, options):
    server = RealMongod(tmp_path, replica_set="")
    server.start()
    try:
        with MongoClient(server.address, serverSelectionTimeoutMS=30_000) as client:
            client.admin.command("ping")
        sentence = why(f"mongodb://{server.address}/{options}")
        assert "is no replica set; start mongod with --replSet and initiate it" in sentence
    finally:
        server.kill()


def test_a_replica_set_that_was_never_initiated(tmp_path):
    server = RealMongod(tmp_path)
    server.start()
    try:
        with MongoClient(server.address, directConnection=True, serverSelectionTimeoutMS=30_000) as client:
            client.admin.command("ping")
        assert "was never initiated; initiate it" in why(server.uri)
    finally:
        server.kill()


def test_a_closed_port_and_a_name_that_nobody_has():
    port = free_port()
    assert f"127.0.0.1:{port}: nothing listens there" in why(f"mongodb://127.0.0.1:{port}/?replicaSet=rs0")
    assert "nowhere.invalid:27017: its name cannot be resolved" in why("mongodb://nowhere.invalid/?replicaSet=rs0")


def test_no_primary(tmp_path):
    server = RealMongod(tmp_path)
    server.start()
    try:
        server.initiate()
        with MongoClient(server.address, directConnection=True) as client:
            config = client.admin.command("replSetGetConfig")["config"]
            config["version"] += 1
            config["members"].append({"_id": 1, "host": (dead := f"127.0.0.1:{free_port()}")})
            client.admin.command("replSetReconfig", config, force=True)
            client.admin.command("replSetStepDown", 600, force=True)
        sentence = why(server.uri)
        assert "its replica set has no primary, and more than half of the members have to run" in sentence
        assert f"{dead} (so named by its replica set): nothing listens there" in sentence
    finally:
        server.kill()


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("right", ""),
        ("without TLS", "as a server that asks for TLS does; add tls=true to the URI"),
        ("the image's authorities", "is not signed by an authority that the operator trusts; give that authority"),
        ("another authority", "is not signed by an authority that the operator trusts; give that authority"),
        ("another name", "its certificate is for another name; give the URI a host that the certificate names"),
    ],
)
def test_tls(secured, tmp_path: Path, how, expected):
    server, authority = secured
    plain = f"mongodb://localhost:{server.port}/?replicaSet=rs0"
    uri = {
        "right": lambda: with_authorities(plain, str(authority.certificate)),
        "without TLS": lambda: plain,
        "the image's authorities": lambda: f"{plain}&tls=true",
        "another authority": lambda: with_authorities(plain, str(Authority(tmp_path / "o").make().certificate)),
        "another name": lambda: with_authorities(plain.replace("localhost", "127.0.0.1"), str(authority.certificate)),
    }[how]()
    assert expected in why(uri)
    assert bool(why(uri)) == bool(expected)


def test_tls_to_a_server_that_has_none(guarded):
    uri = server_uri(guarded.address, "rs0", "admin", PASSWORD) + "&tls=true"
    assert "it does not speak TLS; take tls=true and mongodb.external.caKey away" in why(uri)


def test_a_host_is_asked_without_credentials_by_the_same_way():
    uri = "mongodb://u:p@a:1,b:2/?replicaSet=r&authSource=admin&tls=true&tlsCAFile=%2Fca.crt"
    assert seeds_of(uri) == ["a:1", "b:2"]
    assert with_host(uri, "b:2") == "mongodb://b:2/?tls=true&tlsCAFile=%2Fca.crt"
    assert seeds_of("mongodb+srv://u:p@cluster.example.com/") == []
