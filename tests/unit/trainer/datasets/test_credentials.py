from __future__ import annotations

import base64

import pytest

from local_server import LocalServer, content
from pictures import go_on, quiet
from trainingsession_trainer.config import parse_spec
from trainingsession_trainer.datasets.credentials import read_credentials
from trainingsession_trainer.datasets.download import download
from trainingsession_trainer.errors import DataError, SpecError


class Asked(LocalServer):
    """A server that remembers who asked."""

    def __init__(self, *answers):
        self.headers = []
        super().__init__(*[self._noting(answer) for answer in answers])

    def _noting(self, answer):
        def note(request):
            self.headers.append(request.headers.get("Authorization"))
            answer(request)

        return note


def secret(tmp_path, **keys):
    for key, value in keys.items():
        (tmp_path / key.replace("__", ".")).write_text(value)
    return tmp_path


def fetched(tmp_path, server, keys):
    return download(f"{server.uri}/a", "spec.dataset", tmp_path / "download", quiet(), go_on, None, keys)


@pytest.mark.parametrize(
    ("keys", "header"),
    [
        ({"bearerToken": "abc\n"}, "Bearer abc"),
        ({"username": "me", "password": "pä:ss"}, "Basic " + base64.b64encode("me:pä:ss".encode()).decode()),
    ],
)
def test_a_server_is_told_who_asks(tmp_path, keys, header):
    server = Asked(content(b"x"))
    with server.running():
        fetched(
            tmp_path, server, read_credentials("flowers", "https://host/a", "spec.dataset", secret(tmp_path, **keys))
        )
    assert server.headers == [header]


def test_a_server_is_told_nothing_without_a_secret_or_by_a_redirect(tmp_path):
    other, plain = Asked(content(b"x")), Asked(content(b"x"))

    def redirect(request):
        request.send_response(302)
        request.send_header("Location", f"{other.uri}/elsewhere")
        request.send_header("Content-Length", "0")
        request.end_headers()

    first = Asked(redirect)
    with other.running(), first.running(), plain.running():
        fetched(tmp_path, first, {"bearerToken": "abc"})
        fetched(tmp_path, plain, {})
    assert (first.headers, other.headers, plain.headers) == (["Bearer abc"], [None], [None])


@pytest.mark.parametrize(
    ("uri", "keys", "wanted"),
    [
        ("s3://a/b", {}, "accessKeyId and secretAccessKey, or endpoint"),
        ("s3://a/b", {"accessKeyId": "x"}, "accessKeyId and secretAccessKey, or endpoint"),
        ("gs://a/b", {"password": "x"}, "serviceAccount.json, or endpoint"),
        ("https://a/b", {"username": "x"}, "bearerToken, or username and password"),
        ("http://a/b", {"bearerToken": " \n"}, "bearerToken, or username and password"),
    ],
)
def test_a_secret_that_is_not_there_or_lacks_a_key_is_named_with_what_it_needs(tmp_path, uri, keys, wanted):
    with pytest.raises(DataError) as caught:
        read_credentials("flowers", uri, "spec.dataset", secret(tmp_path, **keys))
    assert str(caught.value).startswith("spec.dataset.secretName is flowers, and this namespace has no such Secret or")
    assert f"needs: {wanted}; create it" in str(caught.value)


def test_a_key_that_is_no_text_is_named_and_not_shown(tmp_path):
    (tmp_path / "bearerToken").write_bytes(b"\xff\xfesecret")
    with pytest.raises(DataError, match="Key bearerToken of Secret flowers cannot be read"):
        read_credentials("flowers", "https://a/b", "spec.dataset", tmp_path)


def test_a_secret_is_for_the_network():
    dataset = {"uri": "file:///a.tar", "claimName": "data", "secretName": "flowers"}
    with pytest.raises(SpecError, match=r"spec\.dataset\.secretName is 'flowers' but spec\.dataset\.uri is a file URI"):
        parse_spec({"dataset": dataset, "baseModel": {"name": "MobileNet"}})
