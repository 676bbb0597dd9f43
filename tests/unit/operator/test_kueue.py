"""What is asked of Kueue's API, and how its answers are read: a small HTTP server gives them by path."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import urllib3
from kubernetes import client

from builders import UID, job, session, suspended
from trainingsession_operator.cluster import Cluster
from trainingsession_operator.errors import ApiError
from trainingsession_operator.kueue import look_at_queue
from trainingsession_operator.queueing import Queue

QUEUED = session(scheduling={"queueName": "gpus"})
WORKLOADS = "/apis/kueue.x-k8s.io/{}/namespaces/team-a/workloads?labelSelector=kueue.x-k8s.io%2Fjob-uid%3D{}"
PENDING = "/apis/visibility.kueue.x-k8s.io/{}/namespaces/team-a/localqueues/gpus/pendingworkloads"
WORKLOAD = {"metadata": {"name": "job-digits"}, "status": {}}


class Kueue(ThreadingHTTPServer):
    """Answers with what `answers` holds for the path, else 404; it stores and checks nothing."""

    answers: dict[str, tuple[int, Any]]


@pytest.fixture
def kueue() -> Iterator[Kueue]:
    class Handler(BaseHTTPRequestHandler):
        server: Kueue

        def do_GET(self) -> None:
            code, found = self.server.answers.get(self.path, (404, {"message": "not found", "reason": "NotFound"}))
            body = json.dumps(found).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the parent's name
            pass

    with Kueue(("127.0.0.1", 0), Handler) as server:
        server.answers = {}
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def look(kueue: Kueue) -> Queue:
    settings = client.Configuration(host=f"http://127.0.0.1:{kueue.server_port}")
    settings.retries = urllib3.Retry(total=1, read=0, redirect=0, status=0)
    return look_at_queue(Cluster(client.ApiClient(settings)), QUEUED, suspended(job()))


def test_where_kueues_kind_is_not_served_it_is_not_installed(kueue):
    assert look(kueue) == Queue(installed=False)


@pytest.mark.parametrize("version", ["v1beta1", "v1beta2"])
def test_the_workload_of_the_job_and_its_place_are_found_in_either_version(kueue, version):
    others = [{"metadata": {"name": f"job-{n}"}, "positionInLocalQueue": n} for n in range(4)]
    kueue.answers = {
        WORKLOADS.format(version, "job-uid"): (200, {"items": [WORKLOAD]}),
        PENDING.format(version): (
            200, {"items": [*others, {"metadata": {"name": "job-digits"}, "positionInLocalQueue": 4}]},
        ),
    }  # fmt: skip
    assert look(kueue) == Queue(workload=WORKLOAD, position=4)


@pytest.mark.parametrize("code", [403, 404, 503])
def test_without_the_visibility_api_there_is_no_place(kueue, code):
    kueue.answers = {
        WORKLOADS.format("v1beta1", "job-uid"): (200, {"items": [WORKLOAD]}),
        PENDING.format("v1beta1"): (code, {"message": "no"}),
    }
    assert look(kueue) == Queue(workload=WORKLOAD)


def test_a_workload_of_the_session_itself_is_noticed(kueue):
    kueue.answers = {
        WORKLOADS.format("v1beta1", "job-uid"): (200, {"items": []}),
        WORKLOADS.format("v1beta1", UID): (200, {"items": [WORKLOAD]}),
    }
    assert look(kueue) == Queue(holds_session=True)


def test_an_answer_that_says_nothing_about_kueue_is_an_error(kueue):
    kueue.answers = {WORKLOADS.format("v1beta1", "job-uid"): (500, {"message": "etcd is away"})}
    with pytest.raises(ApiError, match="etcd is away"):
        look(kueue)
