"""More than one operator at once, and one that starts among many sessions that are at their end."""

from __future__ import annotations

import itertools
import uuid
from concurrent.futures import ThreadPoolExecutor

import builders
from builders import NOW, record, result
from trainingsession_operator.decide import decide
from trainingsession_operator.observed import Observed
from trainingsession_operator.resource import GROUP, PLURAL, VERSION

FINISHED = 1000
SESSIONS = 4


def test_two_operators_at_once_make_no_second_job_and_the_status_does_not_flap(lane):
    second = lane.another_operator()
    try:
        second.start()
        lane.followed(operators=2)
        uids = [lane.create(f"both-{uuid.uuid4().hex[:8]}") for _ in range(SESSIONS)]
        attempts = {uid: lane.attempt(uid) for uid in uids}
        for attempt in attempts.values():
            attempt.start()
        for uid, attempt in attempts.items():
            lane.phase(uid, "Extracting")
            attempt.train()
        for uid in uids:
            lane.phase(uid, "Training")
        published = {uid: attempt.publish(0.9625) for uid, attempt in attempts.items()}
        for attempt in attempts.values():
            attempt.end(0)
        for uid in uids:
            lane.check_succeeded(uid, published[uid])
            for kind in ("PodsReady", "Running", "Complete", "Failed", "Finished"):
                assert changes(lane.watch.statuses(uid), kind) <= {"PodsReady": 2, "Running": 2}.get(kind, 1)
        assert lane.operator.is_alive()
        assert second.is_alive()
    finally:
        second.close()


def changes(statuses, kind: str) -> int:
    """How often a condition's status changed."""
    seen = [builders.condition(status, kind)["status"] for status in statuses]
    return sum(one != other for one, other in itertools.pairwise(seen))


def test_among_a_thousand_finished_sessions_a_restart_writes_about_none_and_asks_for_none(lane):
    finished = decide(builders.session(), Observed(record=record(result=result())), NOW).status
    assert finished["phase"] == "Succeeded"
    lane.kill()

    def make(index: int) -> str:
        name = f"old-{index:04}"
        uid = lane.create(name)
        lane.patch_status(name, **finished)
        return uid

    with ThreadPoolExecutor(4) as pool:
        uids = set(pool.map(make, range(FINISHED)))
    listed = lane.custom.list_namespaced_custom_object(GROUP, VERSION, lane.namespace, PLURAL)["items"]
    assert sum(one["status"]["phase"] == "Succeeded" for one in listed) >= FINISHED
    for _ in range(2):
        lane.start()
        asked, written = len(lane.proxy.requests), len(lane.proxy.written)
        # It is in the same list, or after it.
        new = lane.create(f"new-{uuid.uuid4().hex[:8]}")
        lane.attempt(new).close()
        assert [w for w in lane.proxy.written[written:] if new.encode() in w.text]
        assert not [w for w in lane.proxy.written[written:] if any(uid.encode() in w.text for uid in uids)]
        assert not [request.path for _, request, _ in lane.proxy.requests[asked:] if "/old-" in request.path]
        lane.kill()
    lane.start()
