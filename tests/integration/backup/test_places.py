"""Where backups go: a server that speaks S3 (moto, which takes any signature), and a folder that fails."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
import urllib3
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import ReadOnlyCredentials
from moto.server import ThreadedMotoServer

from real_mongod import free_port
from trainingsession_operator import bucket as bucket_module
from trainingsession_operator import s3 as s3_module
from trainingsession_operator.archives import Archives
from trainingsession_operator.backup import make, restore
from trainingsession_operator.bucket import Bucket
from trainingsession_operator.errors import StartError, StorageUnavailableError
from trainingsession_operator.places import Folder, PlaceError
from trainingsession_operator.s3 import Credentials, role_credentials, signed

NOW = datetime(2026, 11, 26, 2, 30, tzinfo=UTC)


@pytest.fixture(scope="module")
def s3() -> Iterator[tuple[str, Any]]:
    """Endpoint of a server that has a bucket, and a client of it."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client = boto3.client(
        "s3", endpoint_url=endpoint, aws_access_key_id="x", aws_secret_access_key="x", region_name="eu-central-1",
        config=Config(s3={"addressing_style": "path"}),
    )  # fmt: skip
    client.create_bucket(Bucket="backups", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    yield endpoint, client
    server.stop()


@pytest.fixture
def secret(tmp_path):
    folder = tmp_path / "secret"
    folder.mkdir()
    (folder / "accessKeyId").write_text("AKIDEXAMPLE\n")
    (folder / "secretAccessKey").write_text("hidden")
    return folder


def bucket(s3: tuple[str, Any], secret: Any, url: str = "s3://backups/team/a") -> Bucket:
    return Bucket(url, endpoint=s3[0], region="eu-central-1", secret=secret)


def keys(s3: tuple[str, Any]) -> list[str]:
    return sorted(one["Key"] for one in s3[1].list_objects_v2(Bucket="backups").get("Contents", []))


def test_backups_go_to_a_bucket_in_pieces_and_come_back_from_it(s3, secret, source, target, database, monkeypatch):
    monkeypatch.setattr(bucket_module, "UPLOAD_BYTES", 5 << 20)
    content = os.urandom(12_000_000)
    database["things"].insert_one({"_id": 1, "content": content})
    s3[1].put_object(Bucket="backups", Key="team/a/sub/folder.zip", Body=b"somebody else's")
    s3[1].put_object(Bucket="backups", Key="team/b", Body=b"somebody else's")
    archives = Archives(bucket(s3, secret))
    names = [make(source.client, archives, 2, features=False, now=NOW + timedelta(days=day)) for day in range(3)]
    found = {key.removeprefix("team/a/") for key in keys(s3)}
    assert found == {"team/b", "sub/folder.zip", *names[1:], *(f"{name}.sha256" for name in names[1:])}
    head = s3[1].head_object(Bucket="backups", Key=f"team/a/{names[2]}")
    assert head["ETag"].endswith('-3"'), "in three pieces"
    assert restore(target.client, archives) == names[2]
    assert target.client[database.name]["things"].find_one({"_id": 1})["content"] == content


def test_what_was_cut_off_is_no_object(s3, secret):
    before = keys(s3)

    def write(out: Any) -> None:
        out.write(b"x" * 1_000_000)
        raise StorageUnavailableError("MongoDB could not be read")

    with pytest.raises(StorageUnavailableError):
        Archives(bucket(s3, secret)).store("trainingsession-20261126T023000Z.zip", write)
    assert keys(s3) == before


def test_an_object_that_was_changed_is_refused(s3, secret):
    archives, name = Archives(bucket(s3, secret, "s3://backups/changed/")), "trainingsession-20261126T023000Z.zip"
    archives.store(name, lambda out: out.write(b"what was written"))
    with archives.open(name) as file:
        file.seek(5)
        assert file.read(3) == b"was"
    s3[1].put_object(Bucket="backups", Key=f"changed/{name}", Body=b"something else")
    with pytest.raises(PlaceError, match="its SHA-256 is not the one beside it"):
        archives.open(name)


def test_a_bucket_that_does_not_do_it_is_a_sentence_with_its_own_code_and_no_key(s3, secret):
    with pytest.raises(PlaceError, match=r"^s3://nobody cannot be listed: NoSuchBucket; check backup.s3") as refused:
        Archives(bucket(s3, secret, "s3://nobody")).names()
    assert "hidden" not in str(refused.value)
    with pytest.raises(PlaceError, match=r"cannot take a.zip: NoSuchBucket"):
        Archives(bucket(s3, secret, "s3://nobody")).store("a.zip", lambda out: out.write(b"x"))
    with pytest.raises(PlaceError, match=r"cannot give missing: HTTP status 404"):
        bucket(s3, secret).read("missing")


def test_a_cut_off_upload_leaves_no_pieces(s3, secret, monkeypatch):
    monkeypatch.setattr(bucket_module, "UPLOAD_BYTES", 5 << 20)

    def write(out: Any) -> None:
        out.write(bytes(11_000_000))
        raise StorageUnavailableError("MongoDB could not be read")

    with pytest.raises(StorageUnavailableError):
        Archives(bucket(s3, secret)).store("trainingsession-20261126T023000Z.zip", write)
    assert "Uploads" not in s3[1].list_multipart_uploads(Bucket="backups")


def test_reading_goes_on_after_a_cut_connection(s3, secret):
    content = os.urandom(9_000_000)
    s3[1].put_object(Bucket="backups", Key="team/a/content", Body=content)
    with bucket(s3, secret).read("content") as file:
        found = file.read(3_000_000)
        file.raw._answer.close()
        assert found + file.read() == content
        assert file.seek(-10, os.SEEK_END) == len(content) - 10
        assert file.read(100) == content[-10:]


def test_more_objects_than_one_answer_holds_are_listed(s3, secret, monkeypatch):
    monkeypatch.setattr(s3_module, "PAGE", 10)
    names = {f"n {number:02}&<.zip" for number in range(33)}
    for name in names:
        s3[1].put_object(Bucket="backups", Key=f"many/{name}", Body=b"")
    assert set(bucket(s3, secret, "s3://backups/many").names()) == names


def test_the_role_of_the_service_account_gives_credentials(s3, tmp_path, monkeypatch):
    (tmp_path / "token").write_text("a.token.of-the-cluster")
    role = {"AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/backup", "AWS_REGION": "eu-central-1",
            "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token"), "AWS_ENDPOINT_URL_STS": s3[0]}  # fmt: skip
    for name, value in role.items():
        monkeypatch.setenv(name, value)
    credentials = role_credentials(role)
    assert credentials().token
    assert credentials().until > datetime.now(UTC) + timedelta(minutes=30)
    assert credentials() is credentials(), "kept until shortly before its end"
    by_role = Bucket("s3://backups/role", endpoint=s3[0])
    Archives(by_role).store("a.zip", lambda out: out.write(b"content"))
    assert by_role.read("a.zip").read() == b"content"


def test_a_server_that_does_not_answer_and_a_token_that_is_missing_are_sentences(secret, tmp_path, monkeypatch):
    monkeypatch.setattr(s3_module, "TRIES", urllib3.Retry(0))
    away = Bucket("s3://backups", endpoint=f"http://127.0.0.1:{free_port()}", secret=secret)
    with pytest.raises(PlaceError, match=r"s3://backups cannot be listed: .*Connection refused; check backup\.s3"):
        away.names()
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/backup")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "nowhere"))
    with pytest.raises(PlaceError, match="the token of the service account cannot be read: No such file"):
        Bucket("s3://backups", endpoint="http://127.0.0.1:1").names()


def test_without_a_secret_and_a_role_it_is_a_sentence(monkeypatch):
    monkeypatch.delenv("AWS_ROLE_ARN", raising=False)
    with pytest.raises(PlaceError, match="name a Secret, or give the service account a role"):
        Bucket("s3://backups")


@pytest.mark.parametrize("token", ["", "session-token"])
@pytest.mark.parametrize(
    "path",
    ["/", "/team%20a/%C3%BC%26.zip", "/a?list-type=2&prefix=team%2Fa", "/a?partNumber=1&uploadId=x%2By", "/a?uploads="],
)
def test_requests_are_signed_as_amazon_s_own_client_signs_them(path, token):
    url, digest = f"https://backups.s3.eu-central-1.amazonaws.com{path}", hashlib.sha256(b"body").hexdigest()
    request = AWSRequest("PUT", url, headers={"range": "bytes=5-"}, data=b"body")
    S3SigV4Auth(ReadOnlyCredentials("AKIDEXAMPLE", "secret", token or None), "s3", "eu-central-1").add_auth(request)
    now = datetime.strptime(request.headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    ours = Credentials("AKIDEXAMPLE", "secret", token)
    found = signed("PUT", url, {"range": "bytes=5-"}, digest, ours, "eu-central-1", now)
    assert found["authorization"] == request.headers["Authorization"]


@pytest.mark.parametrize("url", ["https://backups", "s3://", "s3:///a", "s3://Upper"])
def test_an_address_that_is_no_bucket_s_is_a_sentence(url):
    with pytest.raises(StartError, match="write s3://NAME or s3://NAME/FOLDER"):
        Bucket(url)


def test_a_secret_without_a_key_is_a_sentence(secret):
    (secret / "accessKeyId").unlink()
    with pytest.raises(StartError, match="lacks accessKeyId or secretAccessKey"):
        Bucket("s3://backups", secret=secret)


def test_a_folder_that_is_full_says_so_and_keeps_nothing(tmp_path):
    """/dev/full takes nothing, as a full disk."""
    name = "trainingsession-20261126T023000Z.zip"
    (tmp_path / f"{name}.part").symlink_to("/dev/full")
    with pytest.raises(PlaceError, match=r"No space left on device; enlarge the volume, or set backup\.keep lower"):
        Archives(Folder(tmp_path)).store(name, lambda out: out.write(b"x" * 100_000))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_a_sentence(tmp_path):
    with pytest.raises(PlaceError, match="the folder of the backups cannot be listed: No such file or directory"):
        Archives(Folder(tmp_path / "nowhere")).names()


def test_the_digest_is_what_sha256sum_writes(tmp_path):
    archives, name = Archives(Folder(tmp_path)), "trainingsession-20261126T023000Z.zip"
    assert archives.store(name, lambda out: out.write(b"content")) == (7, 7)
    assert (tmp_path / f"{name}.sha256").read_text() == f"{hashlib.sha256(b'content').hexdigest()}  {name}\n"
