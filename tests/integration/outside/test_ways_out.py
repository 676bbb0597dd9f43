"""What a trainer gets from outside, through a real proxy and from servers with a certificate of a private authority."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import boto3
import moto.settings
import pytest
from botocore.config import Config
from gcp_storage_emulator.server import create_server
from moto.server import ThreadedMotoServer

import builders
from forward_proxy import Authority, ForwardProxy, tls_in_front_of
from git_server import GitServer
from local_server import LocalServer, content
from real_mongod import free_port
from trainingsession_operator import s3
from trainingsession_operator.archives import Archives
from trainingsession_operator.bucket import Bucket
from trainingsession_operator.jobs import build_job
from trainingsession_operator.places import PlaceError
from trainingsession_operator.s3 import S3, Credentials

BODY = os.urandom(300_000)
DIGEST = hashlib.sha256(BODY).hexdigest()
KEYS = {"accessKeyId": "AKIDEXAMPLE", "secretAccessKey": "secret", "region": "eu-central-1"}
# What this machine itself may have set.
WAYS = ("PROXY", "_CERT", "CA_BUNDLE", "PIP_", "AWS_", "GOOGLE_", "GIT_")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def proxy() -> Iterator[ForwardProxy]:
    with ForwardProxy().running() as found:
        yield found


@pytest.fixture(scope="module")
def behind_tls(authority: Authority) -> Iterator[Any]:
    """Puts TLS in front of a port: gives the address under a name that only the proxy knows."""
    with ExitStack() as stack:
        yield lambda name, port: f"https://{name}.example.test:{stack.enter_context(tls_in_front_of(port, authority))}"


@pytest.fixture
def outside(tmp_path: Path, authority: Authority, proxy: ForwardProxy, repo: Path) -> Any:
    """Runs a worker in a trainer's environment, as the operator gives it; returns exit code and words."""

    def run(trusted: bool = True, extra: dict[str, str] | None = None, **asked: Any) -> tuple[int, str]:
        changed = {"TRAINER_HTTPS_PROXY": proxy.uri, "TRAINER_HTTP_PROXY": proxy.uri, **(extra or {})}
        given = builders.session(scheduling={"serviceAccountName": changed.pop("account", None)})
        pod = build_job(given, builders.settings(**changed))["spec"]["template"]["spec"]
        own = {item["name"]: item["value"] for item in pod["containers"][0]["env"]} | {"HOME": str(tmp_path)}
        plain = {name: value for name, value in os.environ.items() if not any(way in name.upper() for way in WAYS)}
        work = tmp_path / f"work-{len(list(tmp_path.iterdir()))}"
        work.mkdir()
        proxy.asked.clear()
        bundle = authority.certificate if trusted else tmp_path / "none"
        done = subprocess.run(
            [sys.executable, repo / "tests/support/outside_worker.py", bundle, work, json.dumps(asked)],
            env={**plain, **own, "PIP_CONFIG_FILE": os.devnull, **asked.get("environment", {})},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout.strip() if done.returncode == 0 else done.stderr

    return run


@pytest.fixture(scope="module")
def files(behind_tls: Any) -> Iterator[tuple[str, str]]:
    """One file, over https under a name, and over http under another."""
    with LocalServer(content(BODY)).running() as server:
        port = int(server.uri.rpartition(":")[2])
        yield f"{behind_tls('files', port)}/flowers.tar", f"http://plain.example.test:{port}/flowers.tar"


def test_a_data_set_comes_through_the_proxy_from_a_server_of_a_private_authority(outside, files, proxy):
    assert outside(kind="download", uri=files[0]) == (0, f'"{DIGEST}"')
    assert proxy.asked == ["files.example.test"]


def test_without_the_authority_it_is_refused_and_the_sentence_says_why(outside, files):
    code, words = outside(trusted=False, kind="download", uri=files[0])
    assert code == 1
    assert "certificate verify failed" in words


def test_http_goes_through_the_proxy_as_well(outside, files, proxy):
    assert outside(kind="download", uri=files[1]) == (0, f'"{DIGEST}"')
    assert proxy.asked == ["plain.example.test"]


def test_what_is_not_to_be_asked_for_through_the_proxy_is_not(outside, proxy):
    with LocalServer(content(BODY)).running() as server:
        assert outside(kind="download", uri=f"{server.uri}/flowers.tar")[0] == 0
        assert outside(kind="download", uri=server.uri, extra={"TRAINER_NO_PROXY": ".example.test"})[0] == 0
    assert proxy.asked == []
    code, words = outside(
        kind="download", uri="http://plain.example.test:1/", extra={"TRAINER_NO_PROXY": ".example.test"}
    )
    assert code == 1, "nobody but the proxy knows this name"
    assert "plain.example.test" in words
    assert proxy.asked == []


def test_an_object_of_s3(outside, behind_tls, proxy, monkeypatch):
    # The name of the server is none of a bucket.
    monkeypatch.setattr(moto.settings, "S3_IGNORE_SUBDOMAIN_BUCKETNAME", True)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        _, port = server.get_host_and_port()
        client = boto3.client(
            "s3", endpoint_url=f"http://127.0.0.1:{port}", aws_access_key_id="x", aws_secret_access_key="x",
            region_name="us-east-1", config=Config(s3={"addressing_style": "path"}, proxies={}),
        )  # fmt: skip
        # A dot keeps the bucket out of the name of the server.
        client.create_bucket(Bucket="team.flowers")
        client.put_object(Bucket="team.flowers", Key="flowers.tar", Body=BODY)
        keys = {**KEYS, "endpoint": behind_tls("s3", port)}
        code, words = outside(kind="download", uri="s3://team.flowers/flowers.tar", credentials=keys)
        assert (code, words) == (0, f'"{DIGEST}"')
        assert set(proxy.asked) == {"s3.example.test"}
    finally:
        server.stop()


def test_backups_reach_their_bucket(behind_tls, authority, proxy, monkeypatch, tmp_path):
    monkeypatch.setattr(moto.settings, "S3_IGNORE_SUBDOMAIN_BUCKETNAME", True)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        for key, value in KEYS.items():
            (tmp_path / key).write_text(value)
        _, port = server.get_host_and_port()
        address = behind_tls("s3", port)
        with S3("backups", f"http://127.0.0.1:{port}", "us-east-1", lambda: Credentials("x", "x"))._pool as direct:
            assert direct.request("PUT", f"http://127.0.0.1:{port}/through-a-proxy").status == 200
        monkeypatch.setattr(s3, "TRIES", s3.TRIES.new(total=0))
        for name in [name for name in os.environ if "PROXY" in name.upper()]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("HTTPS_PROXY", proxy.uri)
        monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1,.svc,.cluster.local")
        proxy.asked.clear()

        def bucket(authorities: str) -> Archives:
            given = {"endpoint": address, "region": "us-east-1", "secret": tmp_path}
            return Archives(Bucket("s3://through-a-proxy/team", authorities=authorities, **given))

        name = "trainingsession-20261126T023000Z.zip"
        bucket(str(authority.certificate)).store(name, lambda out: out.write(b"content"))
        assert bucket(str(authority.certificate)).names() == [name]
        assert set(proxy.asked) == {"s3.example.test"}
        with pytest.raises(PlaceError, match="unable to get local issuer certificate"):
            bucket("").names()
        with pytest.raises(PlaceError, match=r"the authorities in /nowhere cannot be used: .*No such file"):
            bucket("/nowhere")
    finally:
        server.stop()


def test_an_object_of_google_cloud_storage(outside, behind_tls, proxy):
    port = free_port()
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket="flowers")
    server.start()
    try:
        upload = f"http://127.0.0.1:{port}/upload/storage/v1/b/flowers/o?uploadType=media&name=flowers.tar"
        urlopen(Request(upload, BODY, {"content-type": "application/octet-stream"})).close()
        endpoint = {"endpoint": behind_tls("gs", port)}
        code, words = outside(kind="download", uri="gs://flowers/flowers.tar", credentials=endpoint)
        assert (code, words) == (0, f'"{DIGEST}"')
        assert set(proxy.asked) == {"gs.example.test"}

        # As GKE's metadata server answers the pods of a service account.
        identity = {"email": "flowers@example.test", "scopes": [], "aliases": ["default"]}
        token = {"access_token": "of-the-account", "expires_in": 600, "token_type": "Bearer"}

        def answer(request: Any) -> None:
            told = token if "/token" in request.path else identity
            request.send_response(200)
            body = json.dumps(told).encode()
            for name, value in (("Metadata-Flavor", "Google"), ("Content-Type", "application/json"),
                                ("Content-Length", str(len(body)))):  # fmt: skip
                request.send_header(name, value)
            request.end_headers()
            request.wfile.write(body)

        with LocalServer(answer).running() as metadata:
            host = {"GCE_METADATA_HOST": metadata.uri.removeprefix("http://")}
            code, words = outside(kind="download", uri="gs://flowers/flowers.tar", credentials=endpoint,
                                  environment=host, extra={"account": "flowers-reader"})  # fmt: skip
            assert (code, words) == (0, f'"{DIGEST}"')
            assert any("/token" in path for path in metadata.paths)
    finally:
        server.stop()


def test_a_module_s_code_from_git(outside, behind_tls, proxy, tmp_path_factory):
    with GitServer(tmp_path_factory.mktemp("git")).running() as server:
        revision = server.commit("heads", {"heads.py": "x = 1\n"})
        uri = behind_tls("git", int(server.uri.rpartition(":")[2]))
        assert outside(kind="git", uri=f"{uri}/heads", revision=revision) == (0, '["heads.py"]')
    assert set(proxy.asked) == {"git.example.test"}


def test_a_module_s_packages_from_a_mirror_of_the_index(outside, behind_tls, proxy, tmp_path):
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("greeting_of_a_test.py", "word = 'hello'\n")
        facts = "greeting_of_a_test-1.0.dist-info"
        archive.writestr(f"{facts}/METADATA", "Metadata-Version: 2.1\nName: greeting-of-a-test\nVersion: 1.0\n")
        archive.writestr(f"{facts}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{facts}/RECORD", "greeting_of_a_test.py,,\n")
    digest = hashlib.sha256(wheel.getvalue()).hexdigest()
    name = "greeting_of_a_test-1.0-py3-none-any.whl"

    def answer(request: Any) -> None:
        is_wheel = request.path.endswith(name)
        page = f'<!DOCTYPE html><html><body><a href="/files/{name}">{name}</a></body></html>'
        body = wheel.getvalue() if is_wheel else page.encode()
        request.send_response(200)
        request.send_header("Content-Type", "application/octet-stream" if is_wheel else "text/html")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    code = tmp_path / "module"
    code.mkdir()
    (code / "requirements.txt").write_text(f"greeting-of-a-test==1.0 --hash=sha256:{digest}\n")
    with LocalServer(answer).running() as server:
        index = f"{behind_tls('index', int(server.uri.rpartition(':')[2]))}/simple"
        exit_code, words = outside(kind="packages", code=str(code), extra={"PACKAGE_INDEX": index})
        assert exit_code == 0, words
        assert "greeting_of_a_test.py" in json.loads(words)
        assert server.paths == ["/simple/greeting-of-a-test/", f"/files/{name}"]
    assert set(proxy.asked) == {"index.example.test"}


def test_mlflow(outside, behind_tls, proxy):
    found = json.dumps({"experiment": {"experiment_id": "7", "lifecycle_stage": "active"}}).encode()
    with LocalServer(content(found)).running() as server:
        uri = behind_tls("mlflow", int(server.uri.rpartition(":")[2]))
        assert outside(kind="mlflow", uri=uri) == (0, '"7"')
    assert proxy.asked == ["mlflow.example.test"]


def test_the_image_s_own_authorities_stay_trusted(authority, tmp_path):
    from trainingsession_trainer import authorities

    before = dict(os.environ)
    try:
        assert authorities.trust(authority.certificate, tmp_path) == 1
        joined = (tmp_path / "authorities.pem").read_text()
        assert {os.environ[name] for name in authorities.VARIABLES} == {str(tmp_path / "authorities.pem")}
    finally:
        os.environ.clear()
        os.environ.update(before)
    assert authority.certificate.read_text() in joined
    own = Path("/etc/ssl/certs/ca-certificates.crt").read_text()
    assert own.count("BEGIN CERTIFICATE") > 100
    assert own in joined
