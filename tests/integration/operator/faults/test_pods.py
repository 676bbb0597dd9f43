"""Pods that end otherwise than by their trainer; Kubernetes' own Job controller replaces them."""

from __future__ import annotations

import uuid

from builders import condition


def test_a_pod_that_is_deleted_by_hand_is_replaced_once_and_the_session_goes_on(lane):
    uid = lane.create(f"session-{uuid.uuid4().hex[:8]}")
    first = lane.attempt(uid)
    first.start()
    lane.phase(uid, "Extracting")
    lane.core.delete_namespaced_pod(first.name, lane.namespace)
    terminating = lambda: condition(lane.watch.status(uid), "PodsReady")["reason"] == "PodTerminating"  # noqa: E731
    lane.watch.wait_for("the pod's end in the status", terminating)
    assert len(lane.watch.pods_ever(uid)) == 1, "the next one is made when it has ended"
    first.end(75, "Stopped; the next attempt goes on.")
    second = lane.attempt(uid)
    alive = [pod["metadata"]["name"] for pod in lane.watch.pods(uid)]
    assert alive == [second.name], "never two pods on one GPU"
    second.start()
    lane.phase(uid, "Extracting")
    published = second.publish(0.9625)
    second.end(0)
    status = lane.finished(uid)
    assert status["phase"] == "Succeeded"
    assert status["artifacts"] == published["artifacts"]
    assert len(lane.watch.pods_ever(uid)) == 2
    assert len(lane.watch.jobs_ever(uid)) == 1


def test_a_job_that_is_deleted_by_hand_is_made_again_and_one_that_has_published_is_not(lane):
    name = f"session-{uuid.uuid4().hex[:8]}"
    uid = lane.create(name)
    first = lane.attempt(uid)
    first.start()
    lane.phase(uid, "Extracting")
    (job,) = lane.watch.jobs(uid)
    lane.delete_job(job)
    first.close()
    second = lane.attempt(uid)
    second.start()
    status = lane.phase(uid, "Extracting")
    assert condition(status, "Finished")["status"] == "False"
    assert len(lane.watch.jobs_ever(uid)) == 2
    lane.kill()
    published = second.publish(0.9625)
    second.close()
    lane.delete_job(*lane.watch.jobs(uid))
    lane.watch.wait_for("no Job", lambda: not lane.watch.jobs(uid))
    lane.start()
    assert lane.finished(uid)["artifacts"] == published["artifacts"]
    assert len(lane.watch.jobs_ever(uid)) == 2


def test_where_a_job_is_deleted_without_its_pod_the_next_one_is_made_when_the_pod_has_ended(lane):
    uid = lane.create(f"session-{uuid.uuid4().hex[:8]}")
    first = lane.attempt(uid)
    first.start()
    lane.phase(uid, "Extracting")
    lane.delete_job(*lane.watch.jobs(uid), propagation="Orphan")
    lane.watch.wait_for("the Job gone", lambda: not lane.watch.jobs(uid))
    remedy = f"kubectl delete pod {first.name} -n {lane.namespace}"
    said = lambda: condition(lane.watch.status(uid), "PodsReady")["message"]  # noqa: E731
    lane.watch.wait_for("its pod in the status", lambda: remedy in said())
    assert len(lane.watch.jobs_ever(uid)) == 1, "never two trainers of one session"
    first.end(75, "Stopped; the next attempt goes on.")
    second = lane.attempt(uid)
    second.start()
    published = second.publish(0.9625)
    second.end(0)
    assert lane.finished(uid)["artifacts"] == published["artifacts"]
    assert len(lane.watch.jobs_ever(uid)) == 2
