"""The operator is killed after every write of whole lives of sessions, in turn: before its answer arrives, and after.

The write is done in both cases; in the first the operator never knew. Three lanes share the work.
"""

from __future__ import annotations

import itertools
import json
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from killer import Write
from operator_lane import Lane

LANES = 3
SENTENCE = "The spec cannot work: no such layer."
CREDENTIALS = (b"/secrets", b"createUser", b"updateUser")
"""Parts of what is written for a namespace and not for a session."""


@pytest.fixture(scope="module")
def lanes(new_lane) -> list[Lane]:
    made = [new_lane() for _ in range(LANES)]
    for lane in made:
        lane.start()
    return made


Life = Callable[[Lane, str, list[bytes]], None]


def good_and_bad(lane: Lane, tag: str, marks: list[bytes]) -> None:
    """A session that succeeds, beside one that its trainer refuses."""
    good, bad = lane.create(f"good-{tag}"), lane.create(f"bad-{tag}")
    marks += (good.encode(), bad.encode())
    first, second = lane.attempt(good), lane.attempt(bad)
    first.start()
    second.start()
    lane.phase(good, "Extracting")
    second.end(64, SENTENCE)
    first.train()
    lane.phase(good, "Training")
    published = first.publish(0.9625)
    first.end(0)
    lane.check_succeeded(good, published)
    lane.check_failed(bad, "SpecRefusedByTrainer", SENTENCE)
    for name in (f"good-{tag}", f"bad-{tag}"):
        lane.delete(name)


def made_again(lane: Lane, tag: str, marks: list[bytes]) -> None:
    """A session that is deleted while it trains and made again under its name; the old trainer publishes after that."""
    name = f"again-{tag}"
    old = lane.create(name)
    marks.append(old.encode())
    first = lane.attempt(old)
    first.start()
    lane.phase(old, "Extracting")
    lane.delete(name)
    new = lane.create(name)
    marks.append(new.encode())
    first.publish(0.1111)
    first.close()
    second = lane.attempt(new)
    second.start()
    lane.phase(new, "Extracting")
    published = second.publish(0.9625)
    second.end(0)
    lane.check_succeeded(new, published)
    assert "0.1111" not in json.dumps(lane.watch.statuses(new))
    lane.check_never_claimed_what_was_not_so(old)
    assert len(lane.watch.jobs_ever(old)) == 1
    lane.watch.wait_for("the old Job gone", lambda: not lane.watch.jobs(old))
    lane.delete(name)


def suspended_and_resumed(lane: Lane, tag: str, marks: list[bytes]) -> None:
    """A session whose Job is taken away in the middle and made again."""
    name = f"pause-{tag}"
    uid = lane.create(name)
    marks.append(uid.encode())
    first = lane.attempt(uid)
    first.start()
    lane.phase(uid, "Extracting")
    lane.suspend(name, suspend=True)
    lane.phase(uid, "Suspended")
    first.close()
    assert lane.watch.jobs(uid) == []
    lane.suspend(name, suspend=False)
    second = lane.attempt(uid)
    second.start()
    lane.phase(uid, "Extracting")
    published = second.publish(0.9625)
    second.end(0)
    assert lane.finished(uid)["artifacts"] == published["artifacts"]
    assert len(lane.watch.jobs_ever(uid)) == 2
    assert len(lane.watch.pods_ever(uid)) == 2
    phases = [status["phase"] for status in lane.watch.statuses(uid)]
    assert phases.count("Succeeded") == 1
    assert "Failed" not in phases
    lane.delete(name)


def naming_one_of(marks: list[bytes]) -> Callable[[Write], bool]:
    return lambda write: any(mark in write.text for mark in marks)


def killed_after_every_write(lanes: list[Lane], life: Life) -> list[Write]:
    """Live the life once for every write and moment; returns after which writes the operator was killed."""
    struck: list[Write] = []
    failures: list[str] = []
    over = threading.Event()
    lock = threading.Lock()
    runs = ((at, answered) for at in itertools.count(1) for answered in (False, True))

    def work(lane: Lane) -> None:
        while not over.is_set() and not failures:
            with lock:
                at, answered = next(runs)
            tag = uuid.uuid4().hex[:8]
            marks = [tag.encode(), *CREDENTIALS]
            lane.forget_credentials()
            lane.killer.arm(at, answered=answered, counts=naming_one_of(marks))
            died = None
            try:
                life(lane, tag, marks)
            except Exception as error:  # noqa: BLE001 - every run is told with its kill
                died = error
            killed_by, counted = lane.killer.struck, [write.name for write in lane.killer.writes]
            lane.killer.disarm()
            if died is not None:
                moment = f"write {at}, {killed_by.name if killed_by else 'which did not come'}"
                how = "after its answer arrived" if answered else "before its answer arrived"
                failures.append(f"killed at {moment}, {how}: {died!r}\nwrites: {counted}\n{lane.operator.said()}")
            elif killed_by is None:
                over.set()
            else:
                struck.append(killed_by)

    with ThreadPoolExecutor(len(lanes)) as pool:
        list(pool.map(work, lanes))
    assert not failures, "\n\n".join(failures)
    return struck


def kinds(struck: list[Write]) -> set[str]:
    return {"mongodb createUser" if "createUser" in write.name else write.name for write in struck}


EVERY_KIND = {
    "POST secrets", "mongodb createUser", "mongodb update sessions", "PATCH trainingsessions/status", "POST jobs",
    "POST events",
}  # fmt: skip


def test_killed_after_any_write_a_good_session_succeeds_and_a_bad_one_beside_it_fails(lanes):
    struck = killed_after_every_write(lanes, good_and_bad)
    assert kinds(struck) >= EVERY_KIND
    assert len(struck) >= 2 * 16, "two whole lives have at least sixteen writes"


def test_killed_after_any_write_a_session_made_again_under_its_name_takes_nothing_of_the_old_one(lanes):
    struck = killed_after_every_write(lanes, made_again)
    assert kinds(struck) >= EVERY_KIND
    assert len(struck) >= 2 * 14, "a life and a half have at least fourteen writes"


def test_killed_after_any_write_a_suspended_session_holds_nothing_and_goes_on_when_it_is_resumed(lanes):
    struck = killed_after_every_write(lanes, suspended_and_resumed)
    assert kinds(struck) >= {*EVERY_KIND, "DELETE jobs"}


def test_the_operator_killed_between_the_end_of_the_job_and_its_status_fills_in_the_same_values(lanes):
    lane, name = lanes[0], f"late-{uuid.uuid4().hex[:8]}"
    uid = lane.create(name)
    attempt = lane.attempt(uid)
    attempt.start()
    lane.phase(uid, "Extracting")
    lane.kill()
    published = attempt.publish(0.875)
    attempt.end(0)
    lane.watch.wait_for(
        "the Job's end", lambda: any("completionTime" in job.get("status", {}) for job in lane.watch.jobs(uid))
    )
    lane.start()
    lane.check_succeeded(uid, published)


def test_a_session_deleted_while_no_operator_runs_takes_its_job_along_and_nothing_is_written_about_it(lanes):
    lane, name = lanes[1], f"gone-{uuid.uuid4().hex[:8]}"
    uid = lane.create(name)
    attempt = lane.attempt(uid)
    attempt.start()
    lane.phase(uid, "Extracting")
    attempt.close()
    lane.kill()
    lane.delete(name)
    lane.watch.wait_for("the Job gone", lambda: not lane.watch.jobs(uid))
    lane.watch.wait_for("its pod gone", lambda: not lane.watch.pods(uid))
    before = len(lane.proxy.written)
    lane.start()
    # By then what it listed at its start has been looked at.
    other = lane.create(f"next-{uuid.uuid4().hex[:8]}")
    lane.attempt(other).close()
    assert not [w.name for w in lane.proxy.written[before:] if uid.encode() in w.text]
