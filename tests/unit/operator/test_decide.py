"""What is decided about a session: one row per case, whole status looked at where it matters."""

from __future__ import annotations

from datetime import datetime, timedelta
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
    worker,
)  # fmt: skip
from trainingsession_operator import plan
from trainingsession_operator import pods as pods_say
from trainingsession_operator.decide import decide
from trainingsession_operator.jobs import ATTEMPTS_ANNOTATION
from trainingsession_operator.observed import CreateJob, Decision, EndHelpers, Observed, SetDeadline
from trainingsession_operator.status import CONDITIONS, QUOTA_RESERVED, State, merge_patch

UNQUEUED = tuple(kind for kind in CONDITIONS if kind != QUOTA_RESERVED)
STORAGE_AWAY = State("False", "StorageUnavailable", "MongoDB cannot be used: no primary. The session waits for it.")
BACKOFF = ("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
FAILURE_POLICY = ("Failed", "PodFailurePolicy", "Container trainer failed with exit code 64")
DEADLINE = ("Failed", "DeadlineExceeded", "Job was active longer than specified deadline")
COMPLETE = ("Complete", "CompletionsReached", "")
MADE = {"jobName": JOB}


def decided(observed: Observed, status: dict[str, Any] | None = None, **spec: Any) -> Decision:
    return decide(session(status, **spec), observed, NOW)


def told(decision: Decision) -> tuple[str, str, str]:
    """Phase, and reason and message of the condition that explains it."""
    status = decision.status
    kind = {"Succeeded": "Complete", "Failed": "Failed"}.get(status["phase"], "PodsReady")
    found = condition(status, kind)
    return status["phase"], found["reason"], found["message"]


WAITING = {
    "the scheduler's own words are shown": (
        Observed(job(active=1), (unschedulable("0/3 nodes are available: 3 Insufficient nvidia.com/gpu."),)),
        ("Unschedulable", "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."),
    ),
    "so are an autoscaler's beside them": (
        Observed(
            job(active=1),
            (unschedulable("0/3 nodes are available: 3 Insufficient nvidia.com/gpu."),),
            remark="cluster-autoscaler: pod didn't trigger scale-up: 1 max node group size reached.",
        ),
        (
            "Unschedulable",
            "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. "
            "cluster-autoscaler: pod didn't trigger scale-up: 1 max node group size reached.",
        ),
    ),
    "a claim that cannot be made is named, although the scheduler says nothing": (
        Observed(job(active=1), (pod("pod-1", "Pending"),), remark='resource_claim: template "nowhere" not found.'),
        ("PodPending", 'resource_claim: template "nowhere" not found.'),
    ),
    "the puller's own words are shown": (
        Observed(
            job(active=1),
            (pod("pod-1", "Pending", {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling x"}}),),
        ),
        ("ImagePullBackOff", "Back-off pulling x"),
    ),
    "a pod about which nobody says anything is being started": (
        Observed(job(active=1), (pod("pod-1", "Pending", {"waiting": {"reason": "ContainerCreating"}}),)),
        ("ContainerCreating", "The pod is being started."),
    ),
    "a volume that cannot be mounted is told in the node's words": (
        Observed(
            job(active=1),
            (pod("pod-1", "Pending", {"waiting": {"reason": "ContainerCreating"}}),),
            mount="no such claim",
        ),
        ("FailedMount", "The node cannot mount a volume of the pod: no such claim"),
    ),
    "a reason that no condition may carry is replaced and the words stay": (
        Observed(job(active=1), (pod("p", "Pending", {"waiting": {"reason": "bad reason!", "message": "words"}}),)),
        ("ContainerWaiting", "words"),
    ),
    "the last denial of the pod is shown": (
        Observed(job(), denials=((EARLIER, "older"), (STARTED, 'pods "x" is forbidden: exceeded quota: gpus'))),
        ("PodsDenied", 'The API server refuses the pod: pods "x" is forbidden: exceeded quota: gpus'),
    ),
    "between attempts the last one's sentence is shown": (
        Observed(
            job(failed=1),
            (ended(69),),
            record=record(failure={"exitCode": 69, "message": "MongoDB is away.", "attempt": "pod-1"}),
        ),
        ("BackingOff", "The last attempt ended (exit code 69); the next one follows. MongoDB is away."),
    ),
    "an evicted pod's own words are shown": (
        Observed(job(failed=1), (pod("pod-1", "Failed", message="The node was low on memory."),)),
        (
            "BackingOff",
            "The last attempt ended (without an exit code); the next one follows. The node was low on memory.",
        ),
    ),
    "a denial of the next attempt is newer than the last one's end": (
        Observed(job(failed=1), (ended(69),), denials=((ENDED, "exceeded quota: gpus"),)),
        ("PodsDenied", "The API server refuses the pod: exceeded quota: gpus"),
    ),
    "a denial from before the last attempt is past": (
        Observed(job(failed=1), (ended(69),), denials=((EARLIER, "exceeded quota: gpus"),)),
        ("BackingOff", "The last attempt ended (exit code 69); the next one follows."),
    ),
    "a pod that is being deleted is waited for": (
        Observed(job(active=1), (terminating(running(), node="gpu-1"),)),
        (
            "PodTerminating",
            f"Pod {JOB}-pod-1 is being deleted; the next attempt follows when it has ended.",
        ),
    ),
    "a Job that somebody suspended says so": (
        Observed(suspended(job())),
        ("JobSuspended", "Somebody suspended the Job; the session goes on when the Job's spec.suspend is false."),
    ),
    "a Job without a pod is waited for": (
        Observed(job(), record=record()),
        ("JobCreated", "The Job is made; its pod follows."),
    ),
    "an old Job that is still being deleted is waited for": (
        Observed(job(deleted=True), record=record()),
        ("OldJobTerminating", "The old Job is still ending; a new one follows."),
    ),
    "without storage the session waits": (
        Observed(waits=STORAGE_AWAY),
        ("StorageUnavailable", STORAGE_AWAY.message),
    ),
    "without storage nothing is claimed about a Job that is complete": (
        Observed(job(COMPLETE), (ended(0),), waits=STORAGE_AWAY),
        ("StorageUnavailable", STORAGE_AWAY.message),
    ),
    "without storage nothing is claimed about a Job that failed": (
        Observed(job(BACKOFF), (ended(1),), waits=STORAGE_AWAY),
        ("StorageUnavailable", STORAGE_AWAY.message),
    ),
}


@pytest.mark.parametrize(("observed", "expected"), WAITING.values(), ids=WAITING.keys())
def test_pending(observed, expected):
    decision = decided(observed, MADE)
    assert told(decision) == ("Pending", *expected)
    assert condition(decision.status, "Finished")["status"] == "False"
    assert condition(decision.status, "Running")["status"] == "False"
    assert decision.actions == ()
    assert decision.look_again is not None
    assert "accuracy" not in decision.status
    assert "completionTime" not in decision.status


ENDING = {
    "when the trainer is done": Observed(job(active=1), (ended(0),)),
    "before the pod's own phase says so": Observed(
        job(active=1), (pod("pod-1", "Running", {"terminated": {"exitCode": 0}}),)
    ),
    "when no attempt can follow": Observed(job(active=1), (ended(64),)),
    "when the last attempt that the Job allows has failed": Observed(
        job(("FailureTarget", "BackoffLimitExceeded", "")), (ended(1),)
    ),
}  # fmt: skip


@pytest.mark.parametrize("observed", ENDING.values(), ids=ENDING.keys())
def test_the_phase_stays_until_the_job_is_at_its_end(observed):
    decision = decided(observed, {**MADE, "phase": "Training"})
    assert told(decision)[:2] == ("Training", "TrainerEnded")
    assert condition(decision.status, "Running")["status"] == "False"
    assert condition(decision.status, "Finished")["status"] == "False"
    assert decision.look_again is not None


FAILED = {
    "a spec that the trainer refuses": (
        Observed(
            job(FAILURE_POLICY, failed=1),
            (ended(64),),
            record=record(failure={"exitCode": 64, "message": "head.layers[0] has no class Dens.", "attempt": "pod-1"}),
        ),
        ("SpecRefusedByTrainer", "head.layers[0] has no class Dens. (exit code 64)"),
    ),
    "bad data, told by the pod when the record could not be written": (
        Observed(job(FAILURE_POLICY), (ended(65, message="The archive has\nanother digest.\n"),), record=record()),
        ("BadData", "The archive has another digest. (exit code 65)"),
    ),
    "an accelerator that cannot be used": (
        Observed(job(FAILURE_POLICY), (ended(76, message="TensorFlow sees no GPU."),), record=record()),
        ("AcceleratorMissing", "TensorFlow sees no GPU. (exit code 76)"),
    ),
    "a sentence of an older attempt is not taken for the last one's": (
        Observed(
            job(FAILURE_POLICY),
            (ended(69, "pod-1"), ended(65, "pod-2", "Bad archive.")),
            record=record(failure={"exitCode": 69, "message": "MongoDB is away.", "attempt": "pod-1"}),
        ),
        ("BadData", "Bad archive. (exit code 65)"),
    ),
    "a sentence with another exit code than the kubelet saw is not believed": (
        Observed(
            job(FAILURE_POLICY),
            (ended(65, message="Bad archive."),),
            record=record(failure={"exitCode": 64, "message": "A lie.", "attempt": "pod-1"}),
        ),
        ("BadData", "Bad archive. (exit code 65)"),
    ),
    "more memory than allowed": (
        Observed(job(BACKOFF), (ended(137, reason="OOMKilled"),), record=record()),
        (
            "OutOfMemory",
            "The trainer needed more than resources.memory, 4Gi, and was killed; "
            "in a new session try 8Gi, or training.batchSize 16 instead of 32.",
        ),
    ),
    "longer than allowed": (
        Observed(job(DEADLINE, deadline=60), (), record=record()),
        (
            "DeadlineExceeded",
            "The session ran longer than runPolicy.activeDeadlineSeconds, 60 s; raise it in a new session.",
        ),
    ),
    "more failed attempts than allowed": (
        Observed(job(BACKOFF), (ended(1, message="A bug."),), record=record()),
        (
            "BackoffLimitExceeded",
            "More attempts failed than runPolicy.backoffLimit, 2, allows. The last attempt: A bug. (exit code 1).",
        ),
    ),
    "more failed attempts than allowed and no pod left": (
        Observed(job(BACKOFF), (), record=record()),
        (
            "BackoffLimitExceeded",
            "More attempts failed than runPolicy.backoffLimit, 2, allows. Job has reached the specified backoff limit",
        ),
    ),
    "a training that diverged": (
        Observed(
            job(FAILURE_POLICY),
            (ended(64),),
            record=record(
                failure={"exitCode": 64, "message": "The loss is NaN.", "reason": "Diverged", "attempt": "pod-1"}
            ),
        ),
        ("Diverged", "The loss is NaN. (exit code 64)"),
    ),
    "a GPU's memory that is too small, however often it was tried": (
        Observed(
            job(BACKOFF),
            (ended(1),),
            record=record(
                failure={"exitCode": 1, "message": "Too large.", "reason": "OutOfGpuMemory", "attempt": "pod-1"}
            ),
        ),
        ("OutOfGpuMemory", "Too large. (exit code 1)"),
    ),
    "a reason that no trainer may give": (
        Observed(
            job(FAILURE_POLICY),
            (ended(65),),
            record=record(failure={"exitCode": 65, "message": "Bad.", "reason": "JobLost", "attempt": "pod-1"}),
        ),
        ("BadData", "Bad. (exit code 65)"),
    ),
    "a first worker that failed for good, whatever became of the helpers": (
        Observed(
            job(("Failed", "MaxFailedIndexesExceeded", "Too many failed indexes"), failedIndexes="0"),
            (worker(0, ended(76, message="TensorFlow sees no GPU.")), worker(1, ended(0, "pod-2"))),
            record=record(),
        ),
        ("AcceleratorMissing", "TensorFlow sees no GPU. (exit code 76)"),
    ),
    "a first worker that failed too often": (
        Observed(
            job(("Failed", "FailedIndexes", "Job has failed indexes"), failedIndexes="0,2", completedIndexes="1"),
            (worker(0, ended(1, message="A bug.")), worker(1, ended(0, "pod-2"))),
            record=record(),
        ),
        (
            "BackoffLimitExceeded",
            "More attempts failed than runPolicy.backoffLimit, 2, allows. The last attempt: A bug. (exit code 1).",
        ),
    ),
    "several workers of which no pod is left to ask": (
        Observed(job(("Failed", "FailedIndexes", "Job has failed indexes"), failedIndexes="0"), record=record()),
        ("JobFailed", "The Job failed: Job has failed indexes"),
    ),
    "a first worker that ended well and published nothing": (
        Observed(
            job(("Failed", "FailedIndexes", "Job has failed indexes"), failedIndexes="1", completedIndexes="0,2"),
            (worker(0, ended(0)), worker(1, ended(1, "pod-2"))),
            record=record(),
        ),
        (
            "ResultMissing",
            "The Job is complete, but the record holds no result; MongoDB may have been emptied. Create a new session.",
        ),
    ),
    "a failure of the Job that has no name of ours": (
        Observed(job(("Failed", "Strange", "Something else.")), (), record=record()),
        ("JobFailed", "The Job failed: Something else."),
    ),
    "a complete Job without a result": (
        Observed(job(COMPLETE), (ended(0),), record=record()),
        (
            "ResultMissing",
            "The Job is complete, but the record holds no result; MongoDB may have been emptied. Create a new session.",
        ),
    ),
    "a complete Job whose accuracy is no number from 0 to 1": (
        Observed(job(COMPLETE), (ended(0),), record=record(result=result(1.5))),
        (
            "ResultMissing",
            "The Job is complete, but the record holds no result; MongoDB may have been emptied. Create a new session.",
        ),
    ),
    "a Job that vanished too often": (
        Observed(record=record(jobsLost=3)),
        (
            "JobLost",
            "The Job vanished 4 times before it published a result; find out who deletes it, "
            "then create a new session.",
        ),
    ),
}


@pytest.mark.parametrize(("observed", "expected"), FAILED.values(), ids=FAILED.keys())
def test_failed(observed, expected):
    decision = decided(observed, MADE, runPolicy={"activeDeadlineSeconds": 60})
    assert told(decision) == ("Failed", *expected)
    assert [condition(decision.status, kind)["status"] for kind in ("Complete", "Failed", "Finished")] == [
        "False", "True", "True",
    ]  # fmt: skip
    assert decision.actions == ()
    assert decision.look_again is None
    assert "accuracy" not in decision.status
    assert decision.status["completionTime"] == (ENDED if observed.job else "2024-05-06T12:00:00Z")


SUCCEEDED = {
    "the Job is complete": Observed(job(COMPLETE, succeeded=1), (ended(0),), record=record(result=result())),
    "the Job failed after the result was published": Observed(
        job(BACKOFF, failed=3), (ended(137),), record=record(result=result())
    ),
    "the Job vanished after the result was published": Observed(record=record(result=result())),
}


@pytest.mark.parametrize("observed", SUCCEEDED.values(), ids=SUCCEEDED.keys())
def test_succeeded_when(observed):
    decision = decided(observed, MADE)
    assert told(decision) == ("Succeeded", "ResultPublished", "Accuracy 0.9625; 1 artifacts are in GridFS.")
    assert decision.status["accuracy"] == "0.9625"
    assert decision.status["metrics"] == [{"name": "loss", "value": "0.2500"}]
    assert decision.status["artifacts"] == [{"name": "model.keras", "id": "a" * 24, "bytes": 1234, "sha256": "b" * 64}]
    assert condition(decision.status, "Finished")["status"] == "True"
    assert condition(decision.status, "Failed")["status"] == "False"
    assert (decision.actions, decision.look_again) == ((), None)


def test_a_new_session_gets_its_job_once():
    nothing = Observed(record=record(), step=None)
    choice = decided(nothing)
    assert (choice.chooses, choice.actions) == (plan.WHOLE, ())
    assert choice.status["placement"] == plan.placement(session(), plan.WHOLE)
    first = decided(nothing.at(choice.chooses), choice.status)
    assert told(first) == ("Pending", "JobCreated", "The Job is made; its pod follows.")
    assert first.actions == (CreateJob(),)
    assert decided(Observed(job(), record=record()), first.status).actions == ()


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_lost_job_is_made_again_three_times(lost):
    decision = decided(Observed(record=record(jobsLost=lost)), MADE)
    assert decision.actions == (CreateJob(lost=True),)
    assert f"({lost + 1} of 3)" in told(decision)[2]


def test_a_result_published_while_the_job_still_runs_is_no_end():
    decision = decided(Observed(job(active=1), (running(),), record=record(result=result(), attempt="pod-1")), MADE)
    assert condition(decision.status, "Finished")["status"] == "False"
    assert "accuracy" not in decision.status


def test_a_measured_accuracy_is_shown_while_the_artifacts_are_built():
    seen = Observed(job(active=1), (running(),), record=record(measured={"accuracy": 0.93754}, attempt="pod-1"))
    shown = decided(seen, MADE)
    assert shown.status["accuracy"] == "0.9375"
    assert condition(shown.status, "Complete")["status"] == "False"
    away = decided(Observed(job(active=1), (running(),), waits=STORAGE_AWAY), {**MADE, **shown.status})
    assert away.status["accuracy"] == "0.9375", "without storage it stays as it was"
    final = Observed(job(COMPLETE), (ended(0),), record=record(measured={"accuracy": 0.93754}, result=result()))
    assert decided(final, {**MADE, **shown.status}).status["accuracy"] == "0.9625"
    failed = Observed(job(BACKOFF), (ended(1),), record=record(measured={"accuracy": 0.93754}))
    assert "accuracy" not in decided(failed, {**MADE, **shown.status}).status


@pytest.mark.parametrize("target", ["FailureTarget", "SuccessCriteriaMet"])
def test_a_target_is_not_an_end_because_pods_still_run(target):
    observed = Observed(job((target, "PodFailurePolicy", "soon"), active=1), (running(),), record=record())
    decision = decided(observed, MADE)
    assert decision.status["phase"] == "Extracting"
    assert condition(decision.status, "Finished")["status"] == "False"


@pytest.mark.parametrize(
    ("fields", "before", "phase"),
    [
        ({"attempt": "pod-1", "phase": "Extracting"}, "Pending", "Extracting"),
        ({"attempt": "pod-1", "phase": "Training"}, "Extracting", "Training"),
        ({"attempt": "pod-1", "phase": "Publishing"}, "Training", "Training"),
        ({"attempt": "pod-0", "phase": "Training"}, "Pending", "Extracting"),
        ({"attempt": "pod-1", "phase": "Dancing"}, "Pending", "Extracting"),
        ({}, "Pending", "Extracting"),
    ],
)
def test_the_phase_of_a_running_trainer_is_that_of_its_own_attempt(fields, before, phase):
    decision = decided(Observed(job(active=1), (running(),), record=record(**fields)), {**MADE, "phase": before})
    assert decision.status["phase"] == phase
    for kind in ("PodsReady", "Running"):
        assert condition(decision.status, kind)["status"] == "True"
    assert decision.status["startTime"] == STARTED


def test_a_running_trainer_stays_running_while_storage_is_away():
    decision = decided(
        Observed(job(active=1), (running(),), waits=STORAGE_AWAY),
        {**MADE, "phase": "Training", "progress": {"epoch": 3}},
    )
    assert decision.status["phase"] == "Training"
    assert decision.status["progress"] == {"epoch": 3}


def test_the_deadline_counts_from_the_first_start_and_not_from_the_jobs():
    observed = Observed(job(active=1), (ended(69, "pod-1"), running("pod-2", "2024-05-06T11:45:00Z")), record=record())
    decision = decided(observed, MADE, runPolicy={"activeDeadlineSeconds": 60})
    assert decision.actions == (SetDeadline(60 + 30 * 60),)


BOUND = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2024-05-06T11:50:00Z"}


@pytest.mark.parametrize(
    ("says", "conditions", "start"),
    [
        ("2024-05-06T11:55:00Z", [BOUND], "2024-05-06T11:55:00Z"),
        ("2024-05-06T10:55:00Z", [BOUND], "2024-05-06T11:50:00Z"),
        ("2024-05-06T10:55:00Z", [], "2024-05-06T11:40:00Z"),
        ("2024-05-06T12:55:00Z", [BOUND], "2024-05-06T12:00:00Z"),
    ],
    ids=["right", "behind", "behind, and the pod does not say since when it has its node", "ahead"],
)
def test_a_node_whose_clock_is_wrong_moves_no_deadline(says, conditions, start):
    given = created(running(since=says), "2024-05-06T11:40:00Z")
    given["status"]["conditions"] = conditions
    given["spec"] = {"containers": [{"resources": {"limits": {"nvidia.com/gpu": "1"}}}]}
    decision = decided(
        Observed(job(active=1), (given,), record=record()), MADE, runPolicy={"activeDeadlineSeconds": 60}
    )
    assert decision.status["startTime"] == start
    after = datetime.fromisoformat(start) - datetime.fromisoformat(EARLIER)
    assert decision.actions == (SetDeadline(60 + int(after.total_seconds())),)
    assert decision.status.get("gpuSeconds", 0) == (NOW - datetime.fromisoformat(start)).total_seconds()


@pytest.mark.parametrize(
    ("given", "pods", "policy"),
    [
        (job(active=1, deadline=1860), (running(),), {"activeDeadlineSeconds": 60}),
        (job(active=1), (running(),), {}),
        (job(active=1), (unschedulable("no node"),), {"activeDeadlineSeconds": 60}),
    ],
    ids=["it is set already", "none is asked for", "nothing has started"],
)
def test_no_deadline_is_set_when(given, pods, policy):
    assert decided(Observed(given, pods, record=record()), MADE, runPolicy=policy).actions == ()


def test_all_conditions_are_there_and_move_only_when_their_status_does():
    waiting = decided(Observed(job(), record=record()), MADE).status
    assert [c["type"] for c in waiting["conditions"]] == list(UNQUEUED)
    later = decide(session(waiting), Observed(job(active=1), (running(),), record=record()), NOW + timedelta(hours=1))
    moved = {
        kind
        for kind in UNQUEUED
        if condition(later.status, kind)["lastTransitionTime"] != condition(waiting, kind)["lastTransitionTime"]
    }
    assert moved == {"PodsReady", "Running"}


def test_the_same_look_later_changes_nothing():
    observed = Observed(job(active=1), (running(),), record=record(attempt="pod-1", phase="Training"))
    first = decided(observed, MADE).status
    again = decide(session(first), observed, NOW + timedelta(hours=1)).status
    assert merge_patch(first, again) == {}


def test_the_clock_of_the_deadline_goes_on_in_the_next_job():
    policy = {"activeDeadlineSeconds": 3600}
    later = job(active=1, name=f"{JOB}-g", started="2024-05-06T11:50:00Z")
    seen = Observed(later, (unschedulable("no node"),), record=record(), step=plan.AGAIN)
    # The first trainer started at half past eleven.
    assert decided(seen, {**MADE, "startTime": STARTED}, runPolicy=policy).actions == (SetDeadline(3600 - 20 * 60),)
    policy = {"activeDeadlineSeconds": 60}
    assert decided(seen, {**MADE, "startTime": STARTED}, runPolicy=policy).actions == (SetDeadline(1),)


def test_attempts_go_on_counting_in_the_next_job():
    given = job(active=1, failed=1, annotations={ATTEMPTS_ANNOTATION: "4"})
    seen = Observed(given, (ended(1), running("pod-2")), record=record())
    assert decided(seen, {**MADE, "attempts": 4}).status["attempts"] == 6
    assert decided(seen, {**MADE, "attempts": 6}).status["attempts"] == 6
    odd = job(active=1, annotations={ATTEMPTS_ANNOTATION: "-1e9"})
    assert decided(Observed(odd, (running(),), record=record()), MADE).status["attempts"] == 1


WORKERS = {
    "the first one runs and no GPU is left for the others": (
        (worker(0, running("pod-1")), worker(1, unschedulable("no GPU"))),
        ("Extracting", "TrainerRunning", f"Pod {JOB}-pod-1 runs."),
    ),
    "the first one waits and others run": (
        (worker(1, running("pod-2")), worker(0, unschedulable("no GPU"))),
        ("Pending", "Unschedulable", "no GPU"),
    ),
    "the others are done": (
        (worker(0, running("pod-1")), worker(1, ended(0, "pod-2")), worker(2, ended(65, "pod-3"))),
        ("Extracting", "TrainerRunning", f"Pod {JOB}-pod-1 runs."),
    ),
    "the first one is tried again": (
        (worker(0, ended(75)), worker(1, running("pod-2")), worker(10, running("pod-3"))),
        ("Pending", "BackingOff", "The last attempt ended (exit code 75); the next one follows."),
    ),
}


@pytest.mark.parametrize(("pods", "expected"), WORKERS.values(), ids=WORKERS.keys())
def test_of_several_workers_the_first_one_says_where_the_session_stands_when(pods, expected):
    decision = decided(Observed(job(active=2), pods, record=record()), MADE, resources={"workers": 3})
    assert told(decision) == expected
    assert decision.status["attempts"] == len(pods)
    assert decision.actions == ()


def test_when_the_first_worker_has_failed_for_good_the_helpers_are_ended():
    pods = (worker(0, ended(64)), worker(1, running("pod-2")))
    failing = job(active=1, failedIndexes="0")
    decision = decided(Observed(failing, pods, record=record()), {**MADE, "phase": "Extracting"})
    assert told(decision)[:2] == ("Extracting", "TrainerEnded")
    assert decision.actions == (EndHelpers(),)
    failing["spec"]["maxFailedIndexes"] = 0
    assert decided(Observed(failing, pods, record=record()), MADE).actions == ()
    for helpers in ("1", "1,2", "10"):
        failed = job(active=1, failedIndexes=helpers)
        assert decided(Observed(failed, (worker(0, running()),), record=record()), MADE).actions == ()


def test_attempts_never_shrink():
    before = {**MADE, "attempts": 5}
    assert decided(Observed(job(active=1, failed=1), (running(),), record=record()), before).status["attempts"] == 5
    assert decided(Observed(job(active=1, failed=6), (running(),), record=record()), before).status["attempts"] == 7


@pytest.mark.parametrize(
    ("percent", "due", "shown"), [(19, True, 10), (20, True, 20), (90, False, 10), (0, True, 0)],
)  # fmt: skip
def test_progress_moves_by_ten_percent_and_when_it_is_due(percent, due, shown):
    before = {**MADE, "phase": "Training", "progress": {"percent": 10, "epochs": 20}}
    seen = record(attempt="pod-1", phase="Training", progress={"percent": percent, "epochs": 20})
    decision = decided(Observed(job(active=1), (running(),), record=seen, progress_due=due), before)
    assert decision.status["progress"]["percent"] == shown


def test_progress_is_shown_at_once_when_the_phase_changes():
    before = {**MADE, "phase": "Extracting", "progress": {"percent": 99, "epochs": 20}}
    seen = record(attempt="pod-1", phase="Training", progress={"percent": 98, "epoch": 1, "epochs": 20})
    decision = decided(Observed(job(active=1), (running(),), record=seen, progress_due=False), before)
    assert decision.status["progress"] == {"epoch": 1, "epochs": 20, "summary": "1/20", "percent": 98}


def test_what_is_not_known_now_stays_as_it_was():
    known = {"samples": {"train": 1}, "features": {"key": "k"}, "trainer": {"image": "i"}, "startTime": EARLIER}
    status = decided(Observed(job(), waits=STORAGE_AWAY), {**MADE, **known}).status
    assert {key: status[key] for key in known} == known


def test_a_new_attempt_does_not_show_what_another_one_wrote():
    before = {**MADE, "phase": "Training", "progress": {"percent": 95, "epochs": 20}}
    seen = record(attempt="pod-1", phase="Training", progress={"percent": 95, "epochs": 20})
    decision = decided(Observed(job(active=1, failed=1), (ended(69), running("pod-2")), record=seen), before)
    assert decision.status["phase"] == "Extracting"
    assert "progress" not in decision.status


def test_without_storage_a_running_session_stays_as_it_was():
    before = {**MADE, "phase": "Training", "progress": {"percent": 95, "epochs": 20}}
    decision = decided(Observed(job(active=1), (running(),), waits=STORAGE_AWAY), before)
    assert decision.status["phase"] == "Training"
    assert decision.status["progress"] == before["progress"]


def event(component: str, message: str, at: str, reason: str = "NotTriggerScaleUp", **fields: Any) -> dict[str, Any]:
    told = {"source": {"component": component}, "message": message, "lastTimestamp": at, "reason": reason}
    return told | fields


REMARKS = {
    "nobody has said anything": ([], ""),
    "the scheduler's own words are in the pod": ([event("gke.io/optimize-utilization-scheduler", "no", ENDED)], ""),
    "the newest counts": (
        [event("karpenter", "newer", ENDED, "FailedScheduling"), event("cluster-autoscaler", "older", STARTED)],
        "karpenter: newer.",
    ),
    "a node that comes takes minutes": (
        [event("karpenter", "Pod should schedule on: nodeclaim/gpu-1", ENDED, "Nominated")],
        "karpenter: Pod should schedule on: nodeclaim/gpu-1. A new node takes minutes to come.",
    ),
    "newer Events name their reporter and time otherwise": (
        [{"reportingComponent": "eks-auto-mode/compute", "eventTime": ENDED, "message": "two\nlines.", "reason": "X"}],
        "eks-auto-mode/compute: two lines.",
    ),
    "an Event without words says nothing": ([event("karpenter", "", ENDED)], ""),
}


@pytest.mark.parametrize(("events", "words"), REMARKS.values(), ids=REMARKS)
def test_who_else_speaks_of_a_pod_without_a_node(events, words):
    assert pods_say.remark(events) == words
