"""Suspending, deadlines, disruptions and queues: what is decided, row by row."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from builders import (
    EARLIER,
    ENDED,
    JOB,
    NOW,
    STARTED,
    condition,
    created,
    disrupted,
    ended,
    job,
    pod,
    record,
    result,
    running,
    session,
    suspended,
    terminating,
    unschedulable,
)  # fmt: skip
from trainingsession_operator import plan
from trainingsession_operator.decide import decide
from trainingsession_operator.jobs import ATTEMPTS_ANNOTATION, ENDED_ANNOTATION
from trainingsession_operator.observed import CreateJob, Decision, DeleteJob, EndJob, Observed
from trainingsession_operator.queueing import Queue
from trainingsession_operator.status import State

THIS = DeleteJob(JOB, "job-uid")
RUNNING = {"jobName": JOB, "phase": "Training", "startTime": STARTED, "attempts": 1, "progress": {"percent": 40}}
FAILED = ("Failed", "BackoffLimitExceeded", "too many")
BY_DEADLINE = ("Failed", "DeadlineExceeded", "Job was active longer than specified deadline")
COMPLETE = ("Complete", "CompletionsReached", "")


def decided(observed: Observed, status: dict[str, Any] | None = None, **spec: Any) -> Decision:
    return decide(session(status, **spec), observed, NOW)


def told(decision: Decision, kind: str) -> tuple[str, str]:
    found = condition(decision.status, kind)
    return found["status"], found["reason"]


def test_a_suspended_session_that_never_ran_makes_no_job():
    decision = decided(Observed(record=record(), step=None), suspend=True)
    assert (decision.status["phase"], told(decision, "Suspended")) == ("Suspended", ("True", "SuspendedByUser"))
    assert (decision.actions, decision.chooses) == ((), None)
    assert told(decision, "Finished") == ("False", "NotFinished")


def test_a_suspended_session_stays_so_while_storage_is_away():
    before = decided(Observed(record=record()), {"jobName": JOB}, suspend=True).status
    away = State("False", "StorageUnavailable", "MongoDB is away.")
    for observed in (Observed(waits=away), Observed(waits=away, step=None)):
        decision = decided(observed, before, suspend=True)
        assert decision.status["phase"] == "Suspended"
        assert told(decision, "Suspended") == ("True", "SuspendedByUser")
    at_work = decided(Observed(waits=away, earlier=(job(active=1),)), before, suspend=True)
    assert at_work.status["phase"] == "Pending"


def test_what_is_said_of_the_suspension_is_never_that_nobody_asked_for_it():
    away = State("False", "StorageUnavailable", "MongoDB is away.")
    for observed in (
        Observed(job(COMPLETE), waits=away),
        Observed(job(COMPLETE), record=record(result=result())),
    ):
        found = condition(decided(observed, RUNNING, suspend=True).status, "Suspended")
        assert found["message"] == "spec.suspend is true, and the session has not been suspended."


def test_a_deadline_of_the_job_alone_is_not_called_the_sessions():
    decision = decided(Observed(job(BY_DEADLINE, deadline=60), record=record()), RUNNING)
    found = condition(decision.status, "Failed")
    assert (found["reason"], found["message"]) == ("JobFailed", f"The Job failed: {BY_DEADLINE[2]}")


def test_suspending_deletes_the_job_and_says_so_until_it_is_gone():
    known = record(progress={"epoch": 8, "epochs": 20, "percent": 40})
    decision = decided(Observed(job(active=1), (running(),), record=known), RUNNING, suspend=True)
    assert decision.actions == (THIS,)
    assert (decision.status["phase"], told(decision, "Suspended")) == ("Training", ("False", "Suspending"))
    going = decided(Observed(job(deleted=True), (running(),), record=known), decision.status, suspend=True)
    assert (going.actions, told(going, "Suspended")) == ((), ("False", "Suspending"))
    gone = decided(Observed(record=known), going.status, suspend=True)
    assert (gone.status["phase"], told(gone, "Suspended"), gone.actions) == (
        "Suspended", ("True", "SuspendedByUser"), (),
    )  # fmt: skip
    assert "startTime" not in gone.status, "deadlines count anew, as in a Job"
    assert gone.status["progress"]["percent"] == 40
    assert gone.status["attempts"] == 1


def test_a_session_that_goes_on_makes_its_job_again_and_counts_none_as_lost():
    held = decided(Observed(record=record()), RUNNING, suspend=True)
    decision = decided(Observed(record=record()), held.status)
    assert decision.actions == (CreateJob(),)
    assert told(decision, "Suspended") == ("False", "NotSuspended")


def test_a_session_that_goes_on_waits_for_its_old_job():
    held = decided(Observed(job(deleted=True), record=record()), RUNNING, suspend=True)
    decision = decided(Observed(job(deleted=True), record=record()), held.status)
    assert (decision.actions, told(decision, "PodsReady")) == ((), ("False", "OldJobTerminating"))
    assert decided(Observed(record=record()), decision.status).actions == (CreateJob(),)


@pytest.mark.parametrize(
    ("observed", "phase"),
    [
        (Observed(job(COMPLETE), (ended(0),), record=record(result=result())), "Succeeded"),
        (Observed(record=record(result=result())), "Succeeded"),
        (Observed(job(FAILED), (ended(1),), record=record()), "Failed"),
    ],
)
def test_an_end_stays_an_end_when_it_is_suspended(observed, phase):
    decision = decided(observed, RUNNING, suspend=True)
    assert decision.status["phase"] == phase
    assert told(decision, "Suspended") == ("False", "NotSuspended")


def test_a_suspended_session_does_not_take_its_next_step():
    gpu = {"gpuForHead": "never"}
    extracted = Observed(job(COMPLETE), (ended(0),), record=record(extracted=True), step=plan.EXTRACT)
    assert decided(extracted, resources=gpu).chooses == plan.HEAD
    decision = decided(extracted, resources=gpu, suspend=True)
    assert (decision.chooses, decision.actions, decision.status["phase"]) == (None, (), "Suspended")


def test_suspending_ends_the_job_of_an_earlier_step_too():
    decision = decided(Observed(record=record(), step=plan.AGAIN, earlier=(job(active=1),)), RUNNING, suspend=True)
    assert (decision.actions, told(decision, "Suspended")) == ((THIS,), ("False", "Suspending"))


def test_a_job_from_before_a_change_of_the_resources_is_replaced():
    made = {plan.RUN_ANNOTATION: plan.run_digest(session())}
    observed = Observed(job(active=1, annotations=made), (running(),), record=record())
    assert decided(observed, RUNNING).actions == ()
    decision = decided(observed, RUNNING, resources={"memory": "8Gi"})
    assert decision.actions == (THIS,)
    assert "jobName" not in decision.status
    assert decided(Observed(record=record()), decision.status, resources={"memory": "8Gi"}).actions == (CreateJob(),)


def test_what_is_as_by_default_does_not_replace_a_job():
    bare, full = session(), session(resources={"gpuForHead": "always"})
    assert plan.run_digest(bare) == plan.run_digest(full)
    assert plan.run_digest(bare) != plan.run_digest(session(runPolicy={"backoffLimit": 3}))
    assert not plan.is_outdated(bare, job()), "a Job of an older operator says nothing"


PENDING = Observed(job(active=1), (unschedulable("0/3 nodes are available."),), record=record())


@pytest.mark.parametrize(
    ("limit", "status", "observed", "actions"),
    [
        (3600, {"jobName": JOB}, PENDING, (EndJob("PendingDeadlineExceeded"),)),
        (3601, {"jobName": JOB}, PENDING, ()),
        (3600, {"jobName": JOB}, Observed(suspended(job()), record=record()), (THIS,)),
        (3600, {"jobName": JOB, "startTime": STARTED}, PENDING, ()),
        (3600, {"jobName": JOB}, Observed(job(active=1), (running(),), record=record()), ()),
        (None, {"jobName": JOB}, PENDING, ()),
    ],
)
def test_a_session_that_waits_too_long_for_its_start_is_ended(limit, status, observed, actions):
    policy = {"pendingDeadlineSeconds": limit} if limit else {}
    assert decided(observed, status, runPolicy=policy).actions == actions


def test_the_wait_counts_from_when_a_suspended_session_went_on():
    held = decided(Observed(record=record()), None, suspend=True)
    later = NOW + timedelta(seconds=50)
    policy = {"pendingDeadlineSeconds": 60}
    on = decide(session(held.status, runPolicy=policy), Observed(record=record()), later)
    assert on.actions == (CreateJob(),)
    for seconds, actions in ((59, ()), (60, (EndJob("PendingDeadlineExceeded"),))):
        at = later + timedelta(seconds=seconds)
        assert decide(session(on.status, runPolicy=policy), PENDING, at).actions == actions


def test_it_is_looked_at_when_the_wait_is_over():
    decision = decided(PENDING, {"jobName": JOB}, runPolicy={"pendingDeadlineSeconds": 3610})
    assert decision.look_again == 11


def test_why_it_waited_too_long_is_told_to_the_end():
    policy = {"pendingDeadlineSeconds": 3600}
    before = decide(session({"jobName": JOB}), PENDING, NOW - timedelta(hours=1)).status
    ending = decided(PENDING, before, runPolicy=policy)
    asked = job(active=1, annotations={ENDED_ANNOTATION: "PendingDeadlineExceeded"})
    assert decided(Observed(asked, PENDING.pods, record=record()), ending.status, runPolicy=policy).actions == ()
    failed = job(BY_DEADLINE, annotations={ENDED_ANNOTATION: "PendingDeadlineExceeded"})
    decision = decided(Observed(failed, record=record()), ending.status, runPolicy=policy)
    assert told(decision, "Failed") == ("True", "PendingDeadlineExceeded")
    assert condition(decision.status, "Failed")["message"] == (
        "The trainer did not start within runPolicy.pendingDeadlineSeconds, 3600 s. "
        "It waited for this: 0/3 nodes are available."
    )
    gone = decided(Observed(record=record()), ending.status, runPolicy=policy)
    assert (told(gone, "Failed"), gone.actions) == (("True", "PendingDeadlineExceeded"), ())


FIRST, SECOND, THIRD = "2024-05-06T11:10:00Z", "2024-05-06T11:20:00Z", "2024-05-06T11:40:00Z"


def test_disruptions_are_counted_once_each():
    first = created(ended(75, "pod-1"), FIRST)
    one = decided(Observed(job(active=1), (first,), record=record()), RUNNING)
    assert (one.status["disruptions"], one.status["lastDisruption"]["pod"]) == (1, f"{JOB}-pod-1")
    same = decided(Observed(job(active=1), (first,), record=record()), one.status)
    assert same.status["disruptions"] == 1
    second = created(disrupted(running("pod-2")), SECOND)
    two = decided(Observed(job(active=1), (first, second), record=record()), same.status)
    assert two.status["disruptions"] == 2
    assert two.status["lastDisruption"]["message"] == "preempting to accommodate a higher priority pod"
    # The first pod was collected, and the second one is seen again.
    again = decided(Observed(job(active=1), (second, created(running("pod-3"), THIRD)), record=record()), two.status)
    assert again.status["disruptions"] == 2
    assert again.status["attempts"] == 3, "the one that is gone is counted too"
    # The next Job begins with what is known so far.
    before = {"trainingsession.dev/disruptions-before": "2", ATTEMPTS_ANNOTATION: "3"}
    third = job(active=1, annotations=before)
    assert decided(Observed(third, (running("pod-4"),), record=record()), again.status).status["attempts"] == 4


@pytest.mark.parametrize(
    ("observed", "spec"),
    [
        (Observed(job(failed=1), (created(ended(1), FIRST),), record=record()), {}),
        (Observed(suspended(job()), (created(ended(75), FIRST),), record=record()), {}),
        (Observed(job(deleted=True), (created(ended(75), FIRST),), record=record()), {}),
        (Observed(job(active=1), (created(ended(75), FIRST),), record=record()), {"suspend": True}),
    ],
)
def test_failures_and_stops_that_were_asked_for_are_no_disruptions(observed, spec):
    assert "disruptions" not in decided(observed, RUNNING, **spec).status


def test_a_session_that_is_disrupted_too_often_is_ended():
    observed = Observed(job(active=1), (created(disrupted(running()), FIRST),), record=record())
    policy = {"maxDisruptions": 2}
    assert decided(observed, {**RUNNING, "disruptions": 1}, runPolicy=policy).actions == ()
    decision = decided(observed, {**RUNNING, "disruptions": 2}, runPolicy=policy)
    assert decision.actions == (EndJob("DisruptedTooOften"),)
    failed = job(BY_DEADLINE, annotations={ENDED_ANNOTATION: "DisruptedTooOften"})
    end = decided(Observed(failed, record=record()), decision.status, runPolicy=policy)
    assert told(end, "Failed") == ("True", "DisruptedTooOften")
    assert condition(end.status, "Failed")["message"].startswith("3 attempts were disrupted, more than runPolicy.max")


QUEUED = {"scheduling": {"queueName": "team-a"}}
HELD = suspended(job())


def held(seconds_ago: int) -> dict[str, Any]:
    at = (NOW - timedelta(seconds=seconds_ago)).isoformat()
    return {**HELD, "metadata": {**HELD["metadata"], "creationTimestamp": at}}


def workload(*conditions: tuple[str, str, str]) -> dict[str, Any]:
    given = [{"type": kind, "status": status, "message": message} for kind, status, message in conditions]
    return {"metadata": {"name": "job-x"}, "status": {"conditions": given}}


QUEUES = {
    "a Job that Kueue has let run": (job(active=1), Queue(), ("True", "Admitted"), "Queue team-a has let the Job run."),
    "a Job that Kueue has not looked at": (held(5), Queue(), ("False", "WaitingForQuota"), "Kueue has not looked at"),
    "a Job without quota, in Kueue's words and with its place": (
        held(500),
        Queue(workload=workload(("QuotaReserved", "False", "couldn't assign flavors to pod set main")), position=2),
        ("False", "WaitingForQuota"),
        "couldn't assign flavors to pod set main It is number 3 in queue team-a.",
    ),
    "a Job that was preempted": (
        held(500),
        Queue(workload=workload(("Evicted", "True", "Preempted to accommodate a workload"))),
        ("False", "WaitingForQuota"),
        "Preempted to accommodate a workload",
    ),
    "a Job with quota that waits for an admission check": (
        held(500),
        Queue(workload=workload(("QuotaReserved", "True", ""), ("Admitted", "False", "The check dws is pending."))),
        ("True", "Admitted"),
        "The check dws is pending.",
    ),
    "a cluster without Kueue": (held(61), Queue(installed=False), ("False", "KueueMissing"), "Kueue is not installed"),
    "a Kueue that does not look after Jobs": (held(61), Queue(), ("False", "KueueMissing"), "Kueue has made no Work"),
    "a Kueue that looks after sessions": (
        held(61), Queue(holds_session=True), ("False", "SessionQueuedInsteadOfJob"), "Kueue is set up to queue Train",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("at", "queue", "state", "words"), QUEUES.values(), ids=QUEUES.keys())
def test_a_session_in_a_queue_tells_what_it_waits_for(at, queue, state, words):
    decision = decided(Observed(at, record=record(), queue=queue), {"jobName": JOB}, **QUEUED)
    assert told(decision, "QuotaReserved") == state
    assert condition(decision.status, "QuotaReserved")["message"].startswith(words)
    if at is not job and at["spec"].get("suspend"):
        assert condition(decision.status, "PodsReady")["message"].startswith(words)
    assert decision.actions == ()
    assert decision.status["phase"] == "Pending"


def test_a_session_outside_of_queues_has_no_condition_about_quota():
    decision = decided(PENDING, {"jobName": JOB})
    assert "QuotaReserved" not in [c["type"] for c in decision.status["conditions"]]


def test_a_node_that_is_gone_is_named_when_the_pods_time_is_over():
    late = terminating(running(), node="gpu-1")
    late["metadata"]["deletionTimestamp"] = ENDED
    decision = decided(Observed(job(active=1), (late,), record=record()), RUNNING)
    assert told(decision, "PodsReady") == ("False", "PodTerminating"), "a minute is not yet too long"
    decision = decide(session(RUNNING), Observed(job(active=1), (late,), record=record()), NOW + timedelta(seconds=1))
    assert told(decision, "PodsReady") == ("False", "NodeLost")
    assert "kubectl delete node gpu-1" in condition(decision.status, "PodsReady")["message"]


@pytest.mark.parametrize("suspend", [True, False])
@pytest.mark.parametrize("of", ["this step", "an earlier step"])
def test_a_node_that_is_gone_is_named_too_where_its_job_is_to_go(suspend, of):
    late = terminating(running(), node="gpu-1")
    seen = Observed(job(deleted=True), (late,), record=record())
    if of == "an earlier step":
        seen = Observed(record=record(), step=plan.AGAIN, earlier=(job(deleted=True),), orphans=(late,))
    before = decide(session(RUNNING, suspend=suspend), seen, NOW)
    assert told(before, "PodsReady") == ("False", "Suspending" if suspend else "OldJobTerminating")
    decision = decide(session(before.status, suspend=suspend), seen, NOW + timedelta(minutes=1))
    assert told(decision, "PodsReady") == ("False", "NodeLost")
    assert decision.actions == ()
    for kind in ("PodsReady", "Suspended") if suspend else ("PodsReady",):
        assert "kubectl delete node gpu-1" in condition(decision.status, kind)["message"]
    assert told(decision, "Suspended")[0] == "False"
    asked = Observed(job(active=1), (late,), record=record())
    decision = decide(session(RUNNING, suspend=True), asked, NOW + timedelta(minutes=1))
    assert (decision.actions, told(decision, "PodsReady")) == ((THIS,), ("False", "NodeLost"))


LEFT = f"The Job of pod {JOB}-pod-1 is gone, and the pod is"
ENDING = f"{LEFT} being deleted; the session goes on when it has ended."
STAYING = (
    f"{LEFT} still there; the session goes on when it has ended. To end it: kubectl delete pod {JOB}-pod-1 -n team-a"
)


@pytest.mark.parametrize(
    ("left", "reason", "words"),
    [
        (terminating(running(), node="gpu-1"), "OldJobTerminating", ENDING),
        (running(), "OldJobTerminating", STAYING),
        (terminating(running(), node="gone") | {"metadata": {**running()["metadata"], "deletionTimestamp": STARTED}},
         "NodeLost", "kubectl delete node gone"),
    ],
    ids=["until it has saved", "with --cascade=orphan", "on a node that is gone"],
)  # fmt: skip
@pytest.mark.parametrize("extracted", [False, True])
def test_a_pod_that_outlives_its_job_is_waited_for_and_no_job_made_beside_it(left, reason, words, extracted):
    step = plan.EXTRACT if extracted else plan.WHOLE
    seen = Observed(record=record(extracted=extracted), step=step, orphans=(left,))
    decision = decided(seen, RUNNING)
    assert (decision.actions, decision.chooses, decision.status["phase"]) == ((), None, "Pending")
    assert told(decision, "PodsReady") == ("False", reason)
    assert words in condition(decision.status, "PodsReady")["message"]
    ended = decided(Observed(record=record(), step=plan.WHOLE), decision.status)
    assert ended.actions == (CreateJob(lost=True),)

    held = decided(seen, RUNNING, suspend=True)
    assert (held.actions, held.chooses, told(held, "Suspended")) == ((), None, ("False", "Suspending"))
    assert told(held, "PodsReady") == ("False", reason)
    assert words in condition(held.status, "Suspended")["message"]
    again = decided(seen, held.status, suspend=True)
    assert told(again, "Suspended") == ("False", "Suspending")
    assert decided(Observed(record=record(), step=step), again.status, suspend=True).status["phase"] == "Suspended"


def test_a_session_with_a_pod_that_outlives_its_job_is_not_called_suspended_while_storage_is_away():
    away = State("False", "StorageUnavailable", "MongoDB is away.")
    decision = decided(Observed(waits=away, orphans=(running(),)), RUNNING, suspend=True)
    assert told(decision, "PodsReady") == ("False", "StorageUnavailable")


def test_a_pod_that_outlives_its_job_and_publishes_ends_the_session():
    decision = decided(Observed(record=record(result=result()), orphans=(running(),)), RUNNING)
    assert decision.status["phase"] == "Succeeded"


def test_the_pullers_words_do_not_flap():
    def pulling(reason: str, message: str) -> Observed:
        state = {"waiting": {"reason": reason, "message": message}}
        return Observed(job(active=1), (pod("pod-1", "Pending", state),), record=record())

    first = decided(pulling("ErrImagePull", "not found"), {"jobName": JOB})
    second = decided(pulling("ImagePullBackOff", "Back-off pulling image"), first.status)
    assert second.status == first.status


def test_the_pullers_words_are_those_of_its_last_failure():
    def pulling(reason: str, message: str) -> Observed:
        state = {"waiting": {"reason": reason, "message": message}}
        return Observed(job(active=1), (pod("pod-1", "Pending", state),), record=record())

    status: dict[str, Any] = {"jobName": JOB}
    shown = []
    for reason, message in (
        ("ImagePullBackOff", "Back-off pulling image"),
        ("ErrImagePull", "read tcp 10.0.0.7:40312: i/o timeout"),
        ("ImagePullBackOff", "Back-off pulling image"),
        ("ErrImagePull", "read tcp 10.0.0.7:51207: i/o timeout"),
        ("ErrImagePull", "401 Unauthorized"),
        ("ImagePullBackOff", "Back-off pulling image"),
    ):
        status = decided(pulling(reason, message), status).status
        shown.append((condition(status, "PodsReady")["reason"], condition(status, "PodsReady")["message"]))
        assert condition(status, "Running")["message"] == condition(status, "PodsReady")["message"]
    timeout, denied = ("ErrImagePull", "read tcp 10.0.0.7:40312: i/o timeout"), ("ErrImagePull", "401 Unauthorized")
    assert shown == [("ImagePullBackOff", "Back-off pulling image"), timeout, timeout, timeout, denied, denied]


def test_gpu_seconds_are_those_of_pods_with_gpus_and_of_jobs_before():
    limits = {"containers": [{"resources": {"limits": {"nvidia.com/gpu": "2"}}}]}
    one = {**ended(1), "spec": limits}
    annotations = {"trainingsession.dev/gpu-seconds-before": "100"}
    observed = Observed(job(FAILED, annotations=annotations), (one, ended(0, "pod-2")), record=record())
    assert decided(observed, RUNNING).status["gpuSeconds"] == 100 + 2 * 29 * 60


GPUS = {"containers": [{"resources": {"limits": {"nvidia.com/gpu": "2"}}}]}


def test_gpu_seconds_of_an_attempt_that_is_gone_stay_counted_and_none_is_counted_twice():
    first = {**created(running("pod-1", "2024-05-06T12:00:00Z"), "2024-05-06T12:00:00Z"), "spec": GPUS}
    drained = terminating(first, node="gpu-1") | {"spec": GPUS | {"nodeName": "gpu-1"}}
    second = {**created(running("pod-2", "2024-05-06T13:10:00Z"), "2024-05-06T13:10:00Z"), "spec": GPUS}
    status: dict[str, Any] = RUNNING
    counted = []
    for minutes, pod_, kind in ((30, first, 1), (60, drained, 1), (60, drained, 1), (71, second, 1), (120, second, 0)):
        seen = job(active=1) if kind else job(COMPLETE)
        known = record() if kind else record(result=result())
        status = decide(session(status), Observed(seen, (pod_,), record=known), NOW + timedelta(minutes=minutes)).status
        counted.append(status.get("gpuSeconds"))
    assert counted[1] == counted[2] == 2 * 3600
    assert counted[-1] == 2 * (3600 + 50 * 60)
    assert status["gpuSecondsUntil"] == "2024-05-06T14:00:00Z"


def test_gpu_seconds_of_a_pod_are_those_of_its_own_clock():
    ahead = {"exitCode": 1, "startedAt": "2024-05-06T12:50:00Z", "finishedAt": "2024-05-06T12:55:00Z"}
    one = {**created(pod("pod-1", "Failed", {"terminated": ahead}), "2024-05-06T11:50:00Z"), "spec": GPUS}
    assert decided(Observed(job(FAILED), (one,), record=record()), RUNNING).status["gpuSeconds"] == 2 * 5 * 60


def test_a_claim_counts_as_one_gpu():
    claiming = {"containers": [{"resources": {"limits": {"cpu": "2"}, "claims": [{"name": "gpu"}]}}]}
    observed = Observed(job(FAILED), ({**ended(1), "spec": claiming},), record=record())
    assert decided(observed, RUNNING).status["gpuSeconds"] == 29 * 60


def test_the_gpu_seconds_of_a_job_are_told_before_it_is_deleted():
    limits = {"containers": [{"resources": {"limits": {"nvidia.com/gpu": "1"}}}]}
    observed = Observed(job(active=1), ({**running(), "spec": limits},), record=record(), progress_due=False)
    before = {**RUNNING, "phase": "Extracting", "gpuSeconds": 5}
    assert decided(observed, before).status["gpuSeconds"] == 5, "it changes all the time"
    decision = decided(observed, before, suspend=True)
    assert (decision.actions, decision.status["gpuSeconds"]) == ((THIS,), 30 * 60)


def test_while_mongodb_is_away_at_a_jobs_end_the_phase_stays():
    away = State("False", "StorageUnavailable", "MongoDB is away.")
    decision = decided(Observed(job(FAILED), (ended(1),), waits=away), RUNNING)
    assert (decision.status["phase"], told(decision, "PodsReady")) == ("Training", ("False", "StorageUnavailable"))


def test_an_out_of_memory_kill_says_what_to_try():
    observed = Observed(job(FAILED), (ended(137, reason="OOMKilled"),), record=record())
    message = condition(decided(observed, RUNNING, resources={"memory": "1.5Gi"}).status, "Failed")["message"]
    assert message == (
        "The trainer needed more than resources.memory, 1.5Gi, and was killed; "
        "in a new session try 3Gi, or training.batchSize 16 instead of 32."
    )


def test_an_answer_from_an_earlier_session_names_it():
    answered = record(result=result(), reusedFrom={"name": "older", "uid": "u"})
    decision = decided(Observed(record=answered, step=None))
    assert (decision.status["phase"], decision.status["reusedFrom"]) == ("Succeeded", {"name": "older", "uid": "u"})
    assert told(decision, "Complete") == ("True", "ResultReused")
    assert "jobName" not in decision.status
    assert decision.status["completionTime"] > EARLIER


def test_a_pod_that_is_just_being_started_is_no_news():
    starting = pod("pod-1", "Pending", {"waiting": {"reason": "ContainerCreating"}})
    young, old = (created(starting, (NOW - timedelta(seconds=age)).isoformat()) for age in (1, 3))
    before = decided(Observed(job(), record=record()), {"jobName": JOB}).status
    decision = decided(Observed(job(active=1), (young,), record=record()), before)
    assert (told(decision, "PodsReady"), decision.look_again) == (("False", "JobCreated"), 2)
    later = decided(Observed(job(active=1), (old,), record=record()), decision.status)
    assert told(later, "PodsReady") == ("False", "ContainerCreating")
