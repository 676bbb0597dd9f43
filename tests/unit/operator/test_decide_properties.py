"""What holds for every state that can be observed, drawn at random."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from builders import (
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
    unschedulable,
    worker,
)  # fmt: skip
from trainingsession_operator import ends, plan, record_view
from trainingsession_operator.decide import decide
from trainingsession_operator.observed import CreateJob, DeleteJob, Observed
from trainingsession_operator.status import CONDITIONS, QUOTA_RESERVED, State, is_finished, merge_patch

ENDS = [("Complete", "Done", ""), ("Failed", "BackoffLimitExceeded", ""), ("Failed", "DeadlineExceeded", ""),
        ("FailureTarget", "PodFailurePolicy", ""), ("SuccessCriteriaMet", "Done", "")]  # fmt: skip
JOBS = st.none() | st.builds(
    lambda conditions, deleted, deadline, failed, held: (suspended if held else dict)(
        job(*conditions, deleted=deleted, deadline=deadline, failed=failed)
    ),
    st.lists(st.sampled_from(ENDS), max_size=2),
    st.booleans(),
    st.none() | st.just(60),
    st.integers(0, 5),
    st.booleans(),
)
PODS = st.lists(
    st.sampled_from([
        running(), running("pod-2"), created(disrupted(running("pod-7")), STARTED),
        created(ended(75, "pod-8"), STARTED), ended(0), ended(1), ended(64), ended(75), ended(137, reason="OOMKilled"),
        unschedulable("no node"), pod("pod-3", "Failed", reason="Evicted"), pod("pod-4", "Unknown"), ended(76),
        worker(0, ended(1, "pod-5")), worker(1, running("pod-6")),
    ]),
    max_size=3,
).map(tuple)  # fmt: skip
ACCURACIES = st.sampled_from([0, 0.5, 1, 1.5, -1, float("nan"), "1", None, True])
RECORDS = st.none() | st.builds(
    lambda fields, accuracy, published: record(**fields, **({"result": result(accuracy)} if published else {})),
    st.fixed_dictionaries(
        {},
        optional={
            "jobsLost": st.integers(0, 5),
            "attempt": st.just("pod-1"),
            "extracted": st.booleans(),
            "measured": st.just({"accuracy": 0.5}),
        },
    ),
    ACCURACIES,
    st.booleans(),
)
AWAY = State("False", "StorageUnavailable", "MongoDB is away.")
STEPS = (plan.STORED, plan.EXTRACT, plan.WHOLE, plan.HEAD, plan.AGAIN)


def seen(job_, pods, record_, due, step, earlier, stored):
    waits = None if record_ is not None else AWAY
    if job_ is not None:
        return Observed(job_, pods, (), record_, waits, due, step or plan.WHOLE)
    return Observed(None, (), (), record_, waits, due, step, tuple(earlier) if step else (), stored)


OBSERVED = st.builds(
    seen, JOBS, PODS, RECORDS, st.booleans(), st.sampled_from([None, *STEPS]),
    st.lists(JOBS.filter(bool), max_size=2), st.booleans(),
)  # fmt: skip
BEFORE = st.sampled_from([
    None, {"jobName": JOB}, {"jobName": JOB, "phase": "Training", "attempts": 3, "accuracy": "0.7500"},
    {"jobName": f"{JOB}-g", "startTime": STARTED}, {"jobName": JOB, "disruptions": 3},
    {"phase": "Suspended", "conditions": [{"type": "Suspended", "status": "True", "lastTransitionTime": STARTED}]},
])  # fmt: skip
SPECS = st.fixed_dictionaries(
    {"suspend": st.booleans()},
    optional={
        "scheduling": st.just({"queueName": "team-a"}),
        "resources": st.just({"gpuForHead": "never"}),
        "runPolicy": st.fixed_dictionaries(
            {},
            optional={
                "activeDeadlineSeconds": st.just(9),
                "pendingDeadlineSeconds": st.sampled_from([1, 10_000]),
                "maxDisruptions": st.integers(0, 4),
            },
        ),
    },
)


@given(OBSERVED, BEFORE, SPECS)
def test_whatever_is_observed(observed, before, spec):
    decision = decide(session(before, **spec), observed, NOW)
    status = decision.status
    succeeded = status["phase"] == "Succeeded"

    valid = observed.record is not None and record_view.accuracy(observed.record) is not None
    assert valid or not succeeded
    assert not is_finished(status) or ("accuracy" in status) == succeeded
    creates = any(isinstance(action, CreateJob) for action in decision.actions)
    deletes = [action for action in decision.actions if isinstance(action, DeleteJob)]
    assert not (creates and observed.step is None), "no Job before its step is in the status"
    assert not (creates and not all(map(ends.did_its_work, observed.earlier))), "never two Jobs at work"
    assert not (decision.chooses and decision.actions), "a choice is written before anything is done"
    known = (*observed.earlier, *([observed.job] if observed.job else []))
    assert {action.name for action in deletes} <= {one["metadata"]["name"] for one in known}
    assert not (creates and deletes), "what holds a GPU goes first"
    assert not (creates and spec["suspend"]), "a suspended session starts nothing"
    assert decision.chooses is None or not spec["suspend"]
    alive = observed.job is not None and not ends.has_ended(observed.job)
    assert not alive or status["phase"] != "Suspended", "what is shown as suspended holds nothing"
    assert status["phase"] != "Suspended" or spec["suspend"]
    assert observed.job is None or CreateJob not in map(type, decision.actions)
    assert observed.waits is None or not any(isinstance(action, CreateJob) for action in decision.actions)
    assert observed.waits is None or not is_finished(status)

    queued = "scheduling" in spec and not is_finished(status) and status["phase"] != "Suspended"
    shown = [kind for kind in CONDITIONS if kind != QUOTA_RESERVED or queued]
    assert [c["type"] for c in status["conditions"]] == shown
    assert (condition(status, "Suspended")["status"] == "True") == (status["phase"] == "Suspended")
    failed = condition(status, "Failed")["status"] == "True"
    complete = condition(status, "Complete")["status"] == "True"
    assert (complete, failed) == (succeeded, status["phase"] == "Failed")
    assert is_finished(status) == (complete or failed) == (decision.look_again is None) == ("completionTime" in status)
    assert not (is_finished(status) and decision.actions)
    assert status.get("attempts", 0) >= (before or {}).get("attempts", 0)

    again = decide(session(status, **spec), observed, NOW)
    # An end is not decided on again, and the wait for a start counts from what the first look writes.
    if not decision.actions and not (is_finished(status) and "pendingDeadlineSeconds" in spec.get("runPolicy", {})):
        assert merge_patch(status, again.status) == {}
