"""How answers of an API server become the operator's errors: a small HTTP server gives the answers."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import urllib3
from kubernetes import client

from builders import NAMESPACE
from trainingsession_operator import cluster as module
from trainingsession_operator.cluster import Cluster
from trainingsession_operator.errors import ApiError, ConflictError

JOB = {"metadata": {"namespace": NAMESPACE, "name": "digits-1"}}


def connected(port: int) -> Cluster:
    settings = client.Configuration(host=f"http://127.0.0.1:{port}")
    settings.retries = urllib3.Retry(total=1, read=0, redirect=0, status=0)
    return Cluster(client.ApiClient(settings))


class Answering(ThreadingHTTPServer):
    """Gives one answer to every request; it stores and checks nothing."""

    code, body = 200, b""


@pytest.fixture(scope="module")
def server() -> Iterator[Answering]:
    class Handler(BaseHTTPRequestHandler):
        server: Answering

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(self.server.code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(self.server.body)))
            self.end_headers()
            self.wfile.write(self.server.body)

        do_POST = do_GET  # noqa: N815 - the parent's name

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the parent's name
            pass

    with Answering(("127.0.0.1", 0), Handler) as answering:
        threading.Thread(target=answering.serve_forever, daemon=True).start()
        yield answering
        answering.shutdown()


def refuse(server: Answering, code: int, reason: str, message: str) -> Cluster:
    status: dict[str, Any] = {"kind": "Status", "status": "Failure", "reason": reason, "message": message, "code": code}
    server.code, server.body = code, json.dumps(status).encode()
    return connected(server.server_address[1])


def test_a_job_that_is_there_is_a_conflict(server):
    refusing = refuse(server, 409, "AlreadyExists", 'jobs.batch "digits-1" already exists')
    with pytest.raises(
        ConflictError, match=r'^cannot create Job team-a/digits-1: jobs\.batch "digits-1" already exists$'
    ):
        refusing.create_job(JOB)


def test_a_quota_that_many_write_at_once_is_not_taken_for_a_job_that_is_there(server):
    refusing = refuse(server, 409, "Conflict", "Operation cannot be fulfilled on resourcequotas: try again")
    with pytest.raises(ApiError) as found:
        refusing.create_job(JOB)
    assert not isinstance(found.value, ConflictError)
    assert found.value.status == 409


def test_what_is_not_there_is_none(server):
    assert refuse(server, 404, "NotFound", 'jobs.batch "digits-1" not found').job(NAMESPACE, "digits-1") is None


@pytest.mark.parametrize("body", [b"", b"no JSON", b"[]", b'{"reason": "x"}'])
def test_an_answer_without_a_sentence_is_one_too(server, body):
    server.code, server.body = 503, body
    with pytest.raises(ApiError, match=r"^cannot read Job team-a/j: HTTP 503 Service Unavailable$"):
        connected(server.server_address[1]).job(NAMESPACE, "j")


def test_an_answer_that_is_no_json_names_its_likely_cause(server):
    server.code, server.body = 200, b"<html>Please log in</html>"
    with pytest.raises(ApiError, match=r"^cannot read Job team-a/j: the answer is no JSON; is there a proxy before"):
        connected(server.server_address[1]).job(NAMESPACE, "j")


CALLS = {
    "the definition": lambda c: c.is_defined(),
    "the access to all namespaces": lambda c: c.check_access(()),
    "the access to one namespace": lambda c: c.check_access((NAMESPACE,)),
    "a session": lambda c: c.session(NAMESPACE, "digits"),
    "a Job": lambda c: c.job(NAMESPACE, "j"),
    "a new Job": lambda c: c.create_job(JOB),
    "a Secret": lambda c: c.secret(NAMESPACE, "s"),
}


def test_a_server_that_says_nothing_is_given_up_in_every_call(monkeypatch):
    assert all(isinstance(seconds, int) for seconds in module.REQUEST_TIMEOUT), "the client ignores anything else"
    monkeypatch.setattr(module, "REQUEST_TIMEOUT", (1, 1))
    said: dict[str, str] = {}

    def ask(name: str) -> None:
        with pytest.raises(ApiError) as found:
            CALLS[name](connected(silent.getsockname()[1]))
        said[name] = str(found.value)

    with socket.create_server(("127.0.0.1", 0)) as silent:
        asking = [threading.Thread(target=ask, args=(name,), daemon=True) for name in CALLS]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join(20)
    assert set(said) == set(CALLS), "the others are still waiting after 20 s"
    assert all("does not answer" in words for words in said.values())
