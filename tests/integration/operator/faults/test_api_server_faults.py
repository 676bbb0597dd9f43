"""The API server refuses, is away, loses answers and lets watches die; the operator is a process and stays the same."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest

from builders import condition
from fault_proxy import Request, writes
from killer import gaps
from operator_lane import Lane
from trainingsession_operator.watches import kopf_settings

OUTAGE_SECONDS = 180
SILENT_SECONDS = 75


@pytest.fixture(scope="module", autouse=True)
def stalled(new_lane: Callable[[], Lane]) -> tuple[Lane, str]:
    """A lane whose watches went silent, and a session that was made after that; begun first, as it takes a minute."""
    lane = new_lane()
    lane.start()
    assert lane.proxy.stall_watches() == 3
    return lane, lane.create("unheard")


def a_name() -> str:
    return f"session-{uuid.uuid4().hex[:8]}"


def trained(lane: Lane, uid: str) -> None:
    """Live the rest of the session's life, and check the five sentences."""
    attempt = lane.attempt(uid)
    attempt.start()
    lane.phase(uid, "Extracting")
    published = attempt.publish(0.9625)
    attempt.end(0)
    lane.check_succeeded(uid, published)


def watches_of(resource: str) -> Callable[[Request], bool]:
    return lambda request: request.is_watch and request.path.endswith(f"/{resource}")


def test_after_410_on_every_watch_all_is_listed_again_and_nothing_is_done_twice(lane):
    name = a_name()
    uid, ghost = lane.create(name), lane.create(f"ghost-{name}")
    attempt, lost = lane.attempt(uid), lane.attempt(ghost)
    attempt.start()
    lost.start()
    lane.phase(uid, "Extracting")
    lane.phase(ghost, "Extracting")
    with lane.proxy.answering(503, lambda request: request.method == "GET" and request.path.endswith("sessions")):
        assert lane.proxy.end_watches() == 3
        # Of this no event tells any more: the next list has the one, and the other is in no list.
        new = lane.create(a_name())
        lane.delete(f"ghost-{name}")
        before = len(lane.proxy.written)
        lost.publish(0.5)
        lost.close()
    trained(lane, new)
    published = attempt.publish(0.9375)
    attempt.end(0)
    lane.check_succeeded(uid, published)
    assert not [w.name for w in lane.proxy.written[before:] if ghost.encode() in w.text and w.code < 300]
    lane.watch.wait_for("the ghost's Job gone", lambda: not lane.watch.jobs(ghost))


@pytest.mark.parametrize(("code", "headers"), [(500, {}), (503, {}), (429, {"Retry_After": "1"})])
def test_an_api_server_that_only_answers_errors_is_asked_less_and_less_and_the_process_stays(lane, code, headers):
    process, uid = lane.operator.pid, lane.create(a_name())
    attempt = lane.attempt(uid)
    asked = len(lane.proxy.requests)

    def attempts(resource: str) -> list[float]:
        mine = watches_of(resource)
        return [at for at, request, _ in lane.proxy.requests[asked:] if mine(request)]

    with lane.proxy.answering(code, **headers):
        lane.proxy.disconnect()
        new = lane.create(a_name())
        attempt.start()
        lane.proxy.wait_for("three attempts at a watch", lambda: len(attempts("jobs")) >= 3)
        assert lane.operator.probe() == 200
        waited = gaps(attempts("jobs"))
        backoffs = tuple(kopf_settings().networking.error_backoffs)
        assert all(gap >= backoff - 0.1 for gap, backoff in zip(waited, backoffs, strict=False)), waited
        assert sum(backoffs) > OUTAGE_SECONDS, "a watch is tried for longer than the outage"
    published = attempt.publish(0.9375)
    attempt.end(0)
    lane.check_succeeded(uid, published)
    trained(lane, new)
    assert lane.operator.pid == process
    assert lane.operator.is_alive()


def test_an_api_server_that_refuses_connections_is_waited_for_and_the_process_stays(lane):
    process, uid = lane.operator.pid, lane.create(a_name())
    attempt = lane.attempt(uid)
    lane.proxy.down()
    try:
        attempt.start()
        new = lane.create(a_name())
        published = attempt.publish(0.9375)
        attempt.end(0)
        lane.watch.wait_for("the Job's end", lambda: lane.watch.jobs(uid)[0]["status"].get("completionTime"))
        assert lane.operator.probe() == 200
    finally:
        lane.proxy.up()
    lane.check_succeeded(uid, published)
    trained(lane, new)
    assert lane.operator.pid == process
    assert lane.operator.is_alive()


def test_a_request_that_hangs_holds_up_no_other_session(lane):
    slow = a_name()
    with lane.proxy.holding(lambda request: f"/{slow}" in request.path):
        held = lane.create(slow)
        trained(lane, lane.create(a_name()))
        assert lane.watch.status(held) == {}
    trained(lane, held)


def test_a_watch_that_ends_with_another_error_than_410_is_begun_anew_and_soon_again_ends_the_process(new_lane):
    lane = new_lane()
    lane.start()
    process, uid = lane.operator.pid, lane.create(a_name())
    attempt = lane.attempt(uid)
    attempt.start()
    lane.phase(uid, "Extracting")
    asked = len(lane.proxy.requests)
    # kopf takes it for an error of its own, and ends, some five seconds later.
    lane.proxy.end_watches(watches_of("jobs"), code=500)
    paths = lambda: [request.path for _, request, _ in lane.proxy.requests[asked:]]  # noqa: E731
    lane.proxy.wait_for("kopf's first question", lambda: "/apis" in paths())
    lane.followed()
    trained(lane, lane.create(a_name()))
    assert (lane.operator.pid, lane.operator.is_alive()) == (process, True)
    assert lane.operator.probe() == 200
    # Now it is not worth another try; Kubernetes starts the operator again.
    lane.proxy.end_watches(watches_of("jobs"), code=500)
    lane.operator.wait(30)
    published = attempt.publish(0.9375)
    lane.kill()
    lane.start()
    attempt.end(0)
    assert lane.finished(uid)["artifacts"] == published["artifacts"]
    lane.check_trained_once(uid)


def test_every_kind_of_write_loses_its_answer_once_and_nothing_is_done_twice(lane):
    lost: set[str] = set()

    def first_of_its_kind(request: Request) -> bool:
        fresh = writes(request) and request.name not in lost
        if fresh:
            lost.add(request.name)
        return fresh

    lane.forget_credentials()
    with lane.proxy.losing_answers(first_of_its_kind):
        trained(lane, lane.create(a_name()))
    assert lost == {"POST secrets", "PATCH trainingsessions/status", "POST jobs", "POST events"}


def test_a_conflict_on_a_status_is_tried_again_on_the_fresh_session(lane):
    statuses = lambda request: request.name == "PATCH trainingsessions/status"  # noqa: E731
    asked = len(lane.proxy.requests)
    with lane.proxy.answering(409, statuses, times=5):
        trained(lane, lane.create(a_name()))
    refused = [request for _, request, code in lane.proxy.requests[asked:] if code == 409]
    assert len(refused) == 5


def test_a_status_that_is_edited_by_hand_is_put_right(lane):
    name = a_name()
    uid = lane.create(name)
    attempt = lane.attempt(uid)
    attempt.start()
    lane.phase(uid, "Extracting")
    lane.patch_status(name, phase="Succeeded", accuracy="1.0000", attempts=1, startTime=None)
    status = lane.watch.wait_for(
        "the true status", lambda: (s := lane.watch.status(uid)).get("phase") == "Extracting" and "startTime" in s and s
    )
    assert "accuracy" not in status
    published = attempt.publish(0.9375)
    attempt.end(0)
    assert lane.finished(uid)["accuracy"] == f"{published['accuracy']:.4f}"
    lane.check_trained_once(uid)


def test_without_the_right_to_list_the_operator_ends_with_a_sentence_and_works_when_it_has_it(new_lane):
    lane = new_lane()
    with lane.proxy.answering(403, lambda request: request.path.endswith("/trainingsessions")):
        lane.operator.start()
        lane.operator.wait(30)
        assert "cannot start: the operator cannot list sessions" in lane.operator.said()
    lane.kill()
    lane.start()
    trained(lane, lane.create(a_name()))


def test_without_the_definition_the_operator_ends_with_a_sentence(new_lane):
    lane = new_lane()
    with lane.proxy.answering(404, lambda request: request.path.endswith("/trainingsession.dev/v1alpha1")):
        lane.operator.start()
        lane.operator.wait(30)
    assert "cannot start: the definition trainingsessions.trainingsession.dev is not served" in lane.operator.said()


def test_when_the_definition_is_deleted_while_it_runs_it_ends_with_a_sentence_and_goes_on_when_it_is_back(new_lane):
    lane = new_lane()
    lane.start()
    uid = lane.create(a_name())
    attempt = lane.attempt(uid)
    attempt.start()
    lane.phase(uid, "Extracting")
    of_sessions = lambda request: "/trainingsession.dev/v1alpha1" in request.path  # noqa: E731
    with lane.proxy.answering(404, of_sessions):
        # Kubernetes ends the watch in the same moment.
        lane.proxy.end_watches(watches_of("trainingsessions"))
        lane.operator.wait(30)
        assert "the definition trainingsessions.trainingsession.dev is not served" in lane.operator.said()
    assert lane.watch.jobs(uid)
    published = attempt.publish(0.9375)
    lane.kill()
    lane.start()
    attempt.end(0)
    lane.check_succeeded(uid, published)


def test_a_right_that_is_lost_while_it_runs_is_waited_for(lane):
    with lane.proxy.answering(403, lambda request: request.method == "POST" and request.path.endswith("/jobs")):
        name = a_name()
        uid = lane.create(name)
        lane.watch.wait_for(
            "the refusal in the status",
            lambda: (s := lane.watch.status(uid)) and condition(s, "PodsReady")["reason"] == "JobRefused",
        )
    # It would be looked at within a minute without being asked.
    lane.touch(name)
    trained(lane, uid)


def test_watches_that_are_silent_with_the_connection_open_are_noticed(stalled):
    lane, uid = stalled
    settings = kopf_settings().watching
    assert settings.inactivity_timeout + settings.reconnect_backoff <= SILENT_SECONDS
    process = lane.operator.pid
    lane.watch.wait_for("the session's Job", lambda: lane.watch.jobs(uid), SILENT_SECONDS + 30)
    trained(lane, uid)
    assert lane.operator.pid == process
    assert lane.operator.is_alive()
