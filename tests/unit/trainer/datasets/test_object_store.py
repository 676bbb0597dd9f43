"""Objects of a real S3 server (moto) and an emulator of Google Cloud Storage, both on loopback."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import replace
from urllib.parse import quote
from urllib.request import Request, urlopen

import boto3
import pytest
from botocore.config import Config
from gcp_storage_emulator.server import create_server
from moto.backends import get_backend
from moto.server import ThreadedMotoServer

from local_server import LocalServer, content
from pictures import go_on, layout, quiet, stop_at, write_tar
from real_mongod import free_port
from trainingsession_trainer.config import parse_spec
from trainingsession_trainer.datasets import credentials, object_folder, object_store, open_dataset
from trainingsession_trainer.datasets import download as downloads
from trainingsession_trainer.datasets.download import download
from trainingsession_trainer.datasets.files import RESERVE_BYTES, Disk
from trainingsession_trainer.datasets.folder import open_folder
from trainingsession_trainer.errors import DataError, SpecError, Stopped

BODY = os.urandom(9_000_000)
KEYS = {"accessKeyId": "AKIDEXAMPLE", "secretAccessKey": "secret", "region": "eu-central-1"}


@pytest.fixture(scope="module")
def s3():
    """Keys with the endpoint of a server that has a bucket."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id="x",
        aws_secret_access_key="x",
        region_name="eu-central-1",
        config=Config(s3={"addressing_style": "path"}),
    )
    client.create_bucket(Bucket="flowers", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    client.put_object(Bucket="flowers", Key="a b/ü?.bin", Body=BODY)
    yield {**KEYS, "endpoint": endpoint}, client
    server.stop()


@pytest.fixture(scope="module")
def gs():
    """The endpoint of an emulator that has a bucket with an object."""
    port = free_port()
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket="flowers")
    server.start()
    address = f"http://127.0.0.1:{port}"
    upload = f"{address}/upload/storage/v1/b/flowers/o?uploadType=media&name=a%20b.bin"
    urlopen(Request(upload, BODY[:100_000], {"content-type": "application/octet-stream"})).close()
    yield {"endpoint": address}
    server.stop()


def fill(client, prefix, files):
    for name, body in files.items():
        client.put_object(Bucket="flowers", Key=prefix + name, Body=body)


@pytest.fixture(scope="module")
def folders(s3):
    """A folder of class folders in the bucket, with what does not count."""
    keys, client = s3
    files = layout(cat=5, dog=6)
    extra = {"": b"", "dog/": b"", "dog/.hidden.png": b"x", "readme.txt": b"x"}
    fill(client, "set/", files | extra)
    fill(client, "settle/", layout(cat=2))
    return keys, files


def opened(work, uri, keys, monkeypatch, stop=go_on, disk=None):
    """Open the data set at an address with the keys of a Secret."""
    folder = work / "secret"
    folder.mkdir(parents=True)
    for key, value in keys.items():
        (folder / key).write_text(value + "\n")
    monkeypatch.setitem(credentials.FOLDERS, "spec.dataset", folder)
    spec = parse_spec({"dataset": {"uri": uri, "secretName": "flowers"}, "baseModel": {"name": "MobileNet"}})
    return open_dataset(spec.dataset, work / "work", quiet(), stop, disk)


def test_a_folder_of_a_bucket_is_the_data_set_that_its_archive_is(tmp_path, folders, monkeypatch):
    keys, files = folders
    monkeypatch.setattr(object_folder, "BATCH", 4)
    found = opened(tmp_path, "s3://flowers/set/", keys, monkeypatch)
    packed = open_folder(write_tar(tmp_path / "a.tar", files), "a.tar", tmp_path / "unpacked", quiet(), go_on)
    assert found.class_names == ("cat", "dog")
    assert found.train.order_digest == packed.train.order_digest
    assert found.test.order_digest == packed.test.order_digest
    assert (found.train.image(0) == packed.train.image(0)).all()


def test_a_folder_of_google_cloud_storage_is_read(tmp_path, gs, monkeypatch):
    files = layout(train__cat=2, train__dog=2, test__cat=1, test__dog=1)
    for name, body in files.items():
        upload = f"{gs['endpoint']}/upload/storage/v1/b/flowers/o?uploadType=media&name=set%2F{quote(name, safe='')}"
        urlopen(Request(upload, body, {"content-type": "image/png"})).close()
    found = opened(tmp_path, "gs://flowers/set/", gs, monkeypatch)
    assert (len(found.train), len(found.test)) == (4, 2)


@pytest.mark.parametrize("uri", ["s3://flowers/nothing/", "s3://nobody/set/", "s3://flowers/set/none/"])
def test_a_folder_without_an_object_is_named(tmp_path, folders, monkeypatch, uri):
    with pytest.raises(DataError) as caught:
        opened(tmp_path, uri, folders[0], monkeypatch)
    assert str(caught.value) == f"spec.dataset.uri {uri} holds no object; check the bucket and the prefix."


def test_a_folder_without_an_image_says_what_an_image_is(tmp_path, s3, monkeypatch):
    fill(s3[1], "texts/", {"a.txt": b"x"})
    with pytest.raises(DataError, match="s3://flowers/texts/ holds no image"):
        opened(tmp_path, "s3://flowers/texts/", s3[0], monkeypatch)


def test_a_folder_larger_than_the_disk_is_refused_before_its_first_byte(tmp_path, folders, monkeypatch):
    with pytest.raises(DataError, match=r"bytes are still to come and 100 may be written; raise spec\.resources\.eph"):
        opened(
            tmp_path, "s3://flowers/set/", folders[0], monkeypatch, disk=Disk(tmp_path / "work", RESERVE_BYTES + 100)
        )
    assert list((tmp_path / "work/images").iterdir()) == []


def test_a_folder_of_too_many_objects_is_refused(tmp_path, folders, monkeypatch):
    monkeypatch.setattr(object_folder, "MOST_OBJECTS", 8)
    with pytest.raises(DataError, match="holds more than 8 objects; pack the images into an archive"):
        opened(tmp_path, "s3://flowers/set/", folders[0], monkeypatch)


def test_a_name_with_an_empty_part_is_refused_and_not_left_out(tmp_path, s3, monkeypatch):
    fill(s3[1], "odd/", {"cat//1.png": b"x"})
    with pytest.raises(DataError, match=r"odd/ holds flowers/odd/cat/+, a name with an empty part"):
        opened(tmp_path, "s3://flowers/odd/", s3[0], monkeypatch)


def test_a_session_is_stopped_between_two_objects(tmp_path, folders, monkeypatch):
    # Asked for each of three folders, then before each object, at each piece and while it is digested.
    with pytest.raises(Stopped, match="Stopped while the images were downloaded"):
        opened(tmp_path, "s3://flowers/set/", folders[0], monkeypatch, stop_at(8))


def test_an_image_that_grows_while_it_is_read_is_not_taken(tmp_path, folders, s3, monkeypatch):
    listed = object_store.Bucket.names

    def then_changed(self, folder):
        found = listed(self, folder)
        return [replace(one, size=one.size - 1) if one.path.endswith("/0.png") else one for one in found]

    monkeypatch.setattr(object_store.Bucket, "names", then_changed)
    with pytest.raises(DataError, match=r"changed while it was read \(cat/0\.png\)"):
        opened(tmp_path, "s3://flowers/set/", folders[0], monkeypatch)


# What Amazon answers, by its documentation: the emulator knows neither rights nor regions.
ANSWERS = {
    "no right": (403, "AccessDenied", "Access Denied", "name a Secret in spec.dataset.secretName whose keys may list"),
    "another region": (
        400,
        "AuthorizationHeaderMalformed",
        "The authorization header is malformed; the region 'eu-central-1' is wrong; expecting 'eu-west-1'",
        "set the keys region and endpoint of the Secret in spec.dataset.secretName to those of the bucket",
    ),
}


@pytest.mark.parametrize(("code", "name", "message", "remedy"), ANSWERS.values(), ids=ANSWERS.keys())
def test_what_s3_refuses_is_said_at_once_with_its_remedy(tmp_path, monkeypatch, code, name, message, remedy):
    body = f"<?xml version='1.0'?><Error><Code>{name}</Code><Message>{message}</Message></Error>".encode()

    def answer(request):
        request.send_response(code)
        request.send_header("Content-Type", "application/xml")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    with LocalServer(answer).running() as server, pytest.raises(DataError) as caught:
        opened(tmp_path, "s3://flowers/set/", {**KEYS, "endpoint": server.uri}, monkeypatch)
    assert message[:60] in str(caught.value)
    assert remedy in str(caught.value)


def test_a_folder_has_no_digest_of_its_own():
    for more in ({"sha256": "a" * 64}, {"format": "npz"}):
        with pytest.raises(SpecError, match=r"uri 's3://flowers/set/' ends with / and names a folder"):
            parse_spec({"dataset": {"uri": "s3://flowers/set/", **more}, "baseModel": {"name": "MobileNet"}})


def fetched(tmp_path, uri, keys, stop=go_on, disk=None, **options):
    return download(uri, "spec.dataset", tmp_path / "download", quiet(), stop, disk, keys, **options)


def refused(tmp_path, uri, keys, **options):
    """The sentence, and the seconds that would have been waited."""
    waited = []
    with pytest.raises(DataError) as caught:
        fetched(tmp_path, uri, keys, pause=waited.append, clock=lambda: sum(waited), **options)
    return str(caught.value), sum(waited)


def test_an_object_of_s3_is_read_whole(tmp_path, s3):
    assert fetched(tmp_path, "s3://flowers/a b/ü?.bin", s3[0]) == hashlib.sha256(BODY).hexdigest()
    assert (tmp_path / "download").read_bytes() == BODY


def test_the_role_of_a_service_account_reads_without_keys(tmp_path, s3, monkeypatch):
    """As EKS puts it into a pod: IRSA by a token for STS, Pod Identity by an address that gives keys."""
    keys, _ = s3
    (tmp_path / "token").write_text("of-the-account")
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL_STS"):
        monkeypatch.setenv(name, keys["endpoint"])
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    with monkeypatch.context() as irsa:
        irsa.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/flowers-reader")
        irsa.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
        assert fetched(tmp_path, "s3://flowers/a b/ü?.bin", {}) == hashlib.sha256(BODY).hexdigest()
        assumed = get_backend("sts")["123456789012"]["aws"].assumed_roles
        assert [role.role_arn for role in assumed] == ["arn:aws:iam::123456789012:role/flowers-reader"]
    given = {"AccessKeyId": "ASIA", "SecretAccessKey": "s", "Token": "t", "Expiration": "2100-01-01T00:00:00Z"}
    with LocalServer(content(json.dumps(given).encode())).running() as agent:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{agent.uri}/v1/credentials")
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))
        assert fetched(tmp_path, "s3://flowers/a b/ü?.bin", {}) == hashlib.sha256(BODY).hexdigest()
        assert agent.paths == ["/v1/credentials"]


def test_an_object_of_google_cloud_storage_is_read_whole(tmp_path, gs):
    digest = hashlib.sha256(BODY[:100_000]).hexdigest()
    assert fetched(tmp_path, "gs://flowers/a b.bin", gs) == digest


def test_an_object_that_is_not_there_is_named_and_not_waited_for(tmp_path, s3, gs):
    for uri, keys in (("s3://flowers/none", s3[0]), ("s3://nobody/none", s3[0]), ("gs://flowers/none", gs)):
        sentence, waited = refused(tmp_path, uri, keys)
        assert sentence.startswith(f"spec.dataset.uri {uri} cannot be downloaded (")
        assert waited == 0


def test_a_server_that_does_not_answer_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "RETRY_SECONDS", 2)
    sentence, waited = refused(tmp_path, "s3://flowers/a", {**KEYS, "endpoint": f"http://127.0.0.1:{free_port()}"})
    assert "Could not connect to the endpoint" in sentence
    assert waited == 1


def test_a_name_that_no_bucket_has_is_not_waited_for(tmp_path, s3):
    sentence, waited = refused(tmp_path, "s3://Flowers!/a", s3[0])
    assert "Invalid bucket name" in sentence
    assert waited == 0


def test_an_object_larger_than_the_disk_is_refused_before_its_first_byte(tmp_path, s3):
    sentence, _ = refused(tmp_path, "s3://flowers/a b/ü?.bin", s3[0], disk=Disk(tmp_path, RESERVE_BYTES + 1_000))
    assert "9,000,000 bytes are still to come and 1,000 may be written" in sentence
    assert not (tmp_path / "download").stat().st_size


def test_a_session_is_stopped_while_an_object_is_read(tmp_path, s3):
    with pytest.raises(Stopped, match="Stopped while a file was downloaded"):
        fetched(tmp_path, "s3://flowers/a b/ü?.bin", s3[0], stop_at(4))


def test_a_key_file_of_google_that_is_none_is_said_to_be(tmp_path):
    with pytest.raises(DataError, match=r"Key serviceAccount\.json of the address.s Secret is not JSON"):
        fetched(tmp_path, "gs://flowers/a", {"serviceAccount.json": "{"})


def test_a_session_reads_its_data_set_with_the_keys_of_its_secret(tmp_path, s3, monkeypatch):
    keys, client = s3
    archive = write_tar(tmp_path / "a.tar", layout(cat=5, dog=5)).read_bytes()
    client.put_object(Bucket="flowers", Key="flowers.tar", Body=archive)
    folder = tmp_path / "secret"
    folder.mkdir()
    for key, value in keys.items():
        (folder / key).write_text(value + "\n")
    monkeypatch.setitem(credentials.FOLDERS, "spec.dataset", folder)
    dataset = {
        "uri": "s3://flowers/flowers.tar",
        "secretName": "flowers",
        "sha256": hashlib.sha256(archive).hexdigest(),
    }
    spec = parse_spec({"dataset": dataset, "baseModel": {"name": "MobileNet"}})
    before = json.dumps(dict(os.environ), sort_keys=True)
    assert len(open_dataset(spec.dataset, tmp_path / "work", quiet(), go_on).train) == 8
    assert json.dumps(dict(os.environ), sort_keys=True) == before, "no key is put into the environment"
