"""How answers of an API server become the operator's errors: a small HTTP server gives the answers."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from kubernetes import client

from builders import NAMESPACE
from trainingsession_operator import api_calls as module
from trainingsession_operator.cluster import Cluster
from trainingsession_operator.errors import ApiError, ConflictError
from trainingsession_operator.metrics import Metrics
from trainingsession_operator.rate_limit import RequestLimit
from trainingsession_operator.transport import Transport, request_of

JOB = {"metadata": {"namespace": NAMESPACE, "name": "digits-1"}}


def connected(port: int, limit: RequestLimit | None = None, metrics: Metrics | None = None) -> Cluster:
    settings = client.Configuration(host=f"http://127.0.0.1:{port}")
    settings.retries = module.retries()
    api = client.ApiClient(settings)
    unlimited = RequestLimit(1e6, 1_000_000, threading.Event())
    api.rest_client = Transport(settings, limit or unlimited, metrics or Metrics())
    return Cluster(api)


class Answering(ThreadingHTTPServer):
    """Gives one answer to every request; it stores and checks nothing."""

    code, body, retry_after = 200, b"", ""


@pytest.fixture(scope="module")
def server() -> Iterator[Answering]:
    class Handler(BaseHTTPRequestHandler):
        server: Answering

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(self.server.code)
            self.send_header("Content-Type", "application/json")
            if self.server.retry_after:
                self.send_header("Retry-After", self.server.retry_after)
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


@pytest.mark.parametrize(
    ("method", "path", "request_"),
    [
        ("GET", "/apis/trainingsession.dev/v1alpha1/namespaces/a/trainingsessions/digits", ("get", "trainingsessions")),
        ("GET", "/apis/trainingsession.dev/v1alpha1/trainingsessions", ("list", "trainingsessions")),
        ("PATCH", "/apis/trainingsession.dev/v1alpha1/namespaces/a/trainingsessions/digits/status",
         ("patch", "trainingsessions/status")),
        ("POST", "/apis/batch/v1/namespaces/a/jobs", ("create", "jobs")),
        ("DELETE", "/apis/batch/v1/namespaces/a/jobs/j", ("delete", "jobs")),
        ("GET", "/api/v1/namespaces/a/pods", ("list", "pods")),
        ("PUT", "/api/v1/namespaces/a/secrets/s", ("update", "secrets")),
        ("GET", "/api/v1/namespaces/a", ("get", "namespaces")),
        ("GET", "/k8s/clusters/c/api/v1/namespaces/a/events", ("list", "events")),
        ("GET", "/readyz", ("get", "other")),
    ],
)  # fmt: skip
def test_a_request_is_counted_by_kubernetes_verb_and_resource(method, path, request_):
    assert request_of(method, f"https://10.0.0.1:443{path}?limit=1") == request_


def counted(metrics: Metrics, verb: str, resource: str, code: str) -> float | None:
    labels = {"verb": verb, "resource": resource, "code": code}
    return metrics.registry.get_sample_value("rest_client_requests_total", labels)


def test_answers_and_refusals_are_counted_by_their_code(server):
    metrics = Metrics()
    asking = connected(server.server_address[1], metrics=metrics)
    server.code, server.body = 200, b"{}"
    asking.session(NAMESPACE, "digits")
    refuse(server, 404, "NotFound", "not found")
    for _ in range(2):
        asking.session(NAMESPACE, "digits")
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    with pytest.raises(ApiError, match="does not answer"):
        connected(port, metrics=metrics).job(NAMESPACE, "j")
    assert counted(metrics, "get", "trainingsessions", "200") == 1
    assert counted(metrics, "get", "trainingsessions", "404") == 2
    assert counted(metrics, "get", "jobs", "<error>") == 1


class Rests(RequestLimit):
    """Remembers the rests that were asked for."""

    def __init__(self) -> None:
        super().__init__(1e6, 1_000, threading.Event())
        self.asked: list[float] = []

    def rest(self, seconds: float) -> None:
        self.asked.append(seconds)


@pytest.mark.parametrize(
    ("code", "said", "asked"),
    [(429, "7", [7.0]), (503, "1", [1.0]), (429, "", [0.0]), (429, "Wed, 21 Oct 2026", [0.0]), (500, "7", [])],
)
def test_a_server_that_asks_to_be_left_alone_is_and_its_words_are_kept(server, code, said, asked):
    limit = Rests()
    refuse(server, code, "TooManyRequests", "the server has received too many requests")
    server.retry_after = said
    try:
        with pytest.raises(ApiError, match="too many requests") as found:
            connected(server.server_address[1], limit).job(NAMESPACE, "j")
    finally:
        server.retry_after = ""
    assert found.value.status == code
    assert limit.asked == asked


def test_a_request_that_would_wait_is_given_up_when_the_operator_stops(server):
    stop = threading.Event()
    stop.set()
    asking = connected(server.server_address[1], RequestLimit(0.001, 1, stop))
    server.code, server.body = 200, b"{}"
    assert asking.job(NAMESPACE, "j") == {}
    with pytest.raises(ApiError, match="the operator is stopping"):
        asking.job(NAMESPACE, "j")
