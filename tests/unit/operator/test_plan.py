"""Which Job comes when: the table of the module, row by row."""

from __future__ import annotations

from decimal import Decimal

import pytest

from builders import ENDED, JOB, NOW, condition, ended, job, record, result, running, session, worker
from trainingsession_operator import plan
from trainingsession_operator.decide import decide
from trainingsession_operator.observed import CreateJob, DeleteJob, Observed
from trainingsession_operator.plan import AGAIN, EXTRACT, HEAD, STEPS, STORED, WHOLE

MISSING = ("Failed", "PodFailurePolicy", "Container trainer for pod team-a/digits-x failed with exit code 76 matching")
COMPLETE = ("Complete", "CompletionsReached", "")
HELPER_FAILED = ("Failed", "FailedIndexes", "Job has failed indexes")


@pytest.mark.parametrize(
    ("resources", "stored", "first"),
    [
        ({}, True, STORED),
        ({}, False, WHOLE),
        ({"gpuWhenCached": "always"}, True, WHOLE),
        ({"gpuForHead": "never"}, False, EXTRACT),
        ({"gpuForHead": "never"}, True, STORED),
        ({"gpuForHead": "never", "gpuWhenCached": "always"}, True, EXTRACT),
        ({"gpus": 0, "gpuForHead": "never"}, True, WHOLE),
        ({"gpus": 0}, False, WHOLE),
    ],
)
def test_the_first_step(resources, stored, first):
    assert plan.first(session(resources=resources), stored=stored) == first


@pytest.mark.parametrize(
    ("step", "exit_code", "extracted", "next_step"),
    [
        (STORED, 76, False, AGAIN),
        (HEAD, 76, True, AGAIN),
        (HEAD, 64, True, None),
        (STORED, None, False, None),
        (EXTRACT, None, True, HEAD),
        (EXTRACT, None, False, None),
        (EXTRACT, 76, False, None),
        (WHOLE, 76, False, None),
        (AGAIN, 76, True, None),
    ],
)
def test_the_next_step(step, exit_code, extracted, next_step):
    assert plan.following(step, exit_code=exit_code, extracted=extracted) == next_step


@pytest.mark.parametrize(
    ("spec", "asked"),
    [
        ({}, True),
        ({"resources": {"gpus": 0}}, False),
        ({"resources": {"gpuWhenCached": "always"}}, False),
        ({"dataset": {"name": None, "uri": "https://example.org/a.tar"}}, False),
        ({"dataset": {"name": None, "uri": "https://example.org/a.tar", "sha256": "a" * 64}}, True),
    ],
)
def test_the_store_is_asked_only_where_the_answer_can_be_known_and_matters(spec, asked):
    assert (plan.recipe_to_find(session(**spec)) is not None) == asked


def test_every_step_says_where_it_runs_and_why():
    given = session(resources={"gpuForHead": "never"})
    told = {step: plan.placement(given, step) for step in STEPS}
    assert [told[step]["device"] for step in STEPS] == ["CPU", "GPU", "GPU", "CPU", "GPU"]
    assert [told[step]["task"] for step in STEPS] == ["train", "extract", "all", "train", "all"]
    assert [told[step]["job"] for step in STEPS] == [JOB, JOB, JOB, f"{JOB}-h", f"{JOB}-g"]
    assert len({told[step]["reason"] for step in STEPS}) == len(STEPS)


def test_fine_tuning_needs_the_gpu_although_all_features_are_stored_and_the_head_needs_none():
    given = session(training={"fineTune": {"layers": 3}}, resources={"gpuForHead": "never"})
    assert plan.first(given, stored=True) == plan.first(given, stored=False) == WHOLE
    assert plan.device(given, WHOLE) == "GPU"


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"resources": {"gpus": 0}}, "resources.gpus is 0."),
        ({"resources": {"gpuWhenCached": "always"}}, "resources.gpuWhenCached is always."),
        ({"training": {"fineTune": {"layers": 3}}}, "training.fineTune trains the base model on images."),
        ({"dataset": {"name": None, "uri": "https://example.org/a.tar"}}, "Only reading the data set"),
        ({}, "Features that the session needs are not in the store yet."),
    ],
)
def test_a_session_in_one_job_says_why(spec, why):
    assert plan.placement(session(**spec), WHOLE)["reason"].startswith(why)


@pytest.mark.parametrize("gpus", [1, 0])
@pytest.mark.parametrize("step", STEPS)
def test_a_choice_is_read_back_from_the_status_also_when_the_gpus_were_changed_meanwhile(step, gpus):
    now = session({"placement": plan.placement(session(), step)}, resources={"gpus": gpus})
    assert plan.chosen(now) == step
    assert plan.step_name(now, step) in plan.names(now)


@pytest.mark.parametrize(
    "placement",
    [
        None,
        {},
        {"job": "somebody-elses", "task": "all"},
        {"job": f"{JOB}-x", "task": "all"},
        {"job": f"{JOB}-g", "task": "extract"},
    ],
)
def test_a_status_that_names_no_job_of_this_session_is_no_choice(placement):
    assert plan.chosen(session({"placement": placement})) is None


@pytest.mark.parametrize("arguments", [None, [], ["--task"], ["--task", "dance"], ["train"], ["--task", "train", "-v"]])
def test_a_job_whose_command_is_none_of_ours_does_everything(arguments):
    pod = {"containers": [{"name": "trainer", **({"args": arguments} if arguments is not None else {})}]}
    given = {"metadata": {"name": f"{JOB}-g"}, "spec": {"template": {"spec": pod}}}
    assert plan.step_of(session(), given) == AGAIN


def test_a_subset_is_counted_in_decimals_and_is_never_empty():
    # In binary, 100 times 0.07 is a little more than 7.
    assert plan.needed(100, Decimal("0.07")) == 7
    assert plan.needed(10, Decimal("0.01")) == 1
    assert plan.needed(50_000, Decimal(1)) == 50_000


def step_by_step(step, observed, status=None, **spec):
    """Decide at `step`, and where another one is chosen, once more as whoever reads it in the status does."""
    given = session({"jobName": plan.step_name(session(), step), **(status or {})}, **spec)
    choice = decide(given, observed, NOW)
    if choice.chooses is None:
        return choice, choice
    assert choice.actions == ()
    assert choice.status["placement"] == plan.placement(given, choice.chooses)
    assert condition(choice.status, "Finished")["status"] == "False"
    then = session(choice.status, **spec)
    assert plan.chosen(then) == choice.chooses
    return choice, decide(then, observed.at(choice.chooses), NOW)


def test_a_missing_shard_is_computed_on_a_gpu_once_the_first_job_is_gone():
    failed = job(MISSING, failed=1)
    seen = Observed(failed, (ended(76),), record=record(), step=STORED)
    choice, then = step_by_step(STORED, seen)
    assert choice.chooses == AGAIN
    assert choice.status["attempts"] == 1
    assert then.actions == (DeleteJob(JOB, "job-uid"),)
    assert condition(then.status, "PodsReady")["reason"] == "OldJobTerminating"

    ending = {**failed, "metadata": {**failed["metadata"], "deletionTimestamp": ENDED}}
    waits = decide(session(then.status), Observed(record=record(), step=AGAIN, earlier=(ending,)), NOW)
    assert (waits.actions, waits.status["phase"]) == ((), "Pending")
    gone = decide(session(then.status), Observed(record=record(), step=AGAIN), NOW)
    assert gone.actions == (CreateJob(),), "another Job is not a lost one"


def test_where_the_pod_is_gone_the_jobs_own_words_have_the_exit_code():
    choice, _ = step_by_step(STORED, Observed(job(MISSING), record=record(), step=STORED))
    assert choice.chooses == AGAIN


@pytest.mark.parametrize("step", [WHOLE, AGAIN])
def test_with_a_gpu_exit_code_76_is_an_accelerator_that_is_missing(step):
    decision, _ = step_by_step(step, Observed(job(MISSING), (ended(76),), record=record(), step=step))
    assert condition(decision.status, "Failed")["reason"] == "AcceleratorMissing"


def test_another_end_of_a_job_without_a_gpu_is_an_end_of_the_session():
    seen = Observed(job(("Failed", "PodFailurePolicy", "exit code 64")), (ended(64),), record=record(), step=STORED)
    decision, _ = step_by_step(STORED, seen)
    assert condition(decision.status, "Failed")["reason"] == "SpecRefusedByTrainer"


@pytest.mark.parametrize(
    "extraction",
    [job(COMPLETE, succeeded=1), job(HELPER_FAILED, failedIndexes="1", completedIndexes="0"), None],
    ids=["complete", "failed because of a helper", "deleted by hand"],
)
def test_after_the_extraction_the_head_is_trained_without_a_gpu(extraction):
    choice, then = step_by_step(EXTRACT, Observed(extraction, record=record(extracted=True), step=EXTRACT))
    assert choice.chooses == HEAD
    assert then.actions == (CreateJob(),), "the first Job has ended, and its log may stay"


@pytest.mark.parametrize(
    ("seen", "chooses"),
    [
        (Observed(job(active=1), (running(),), record=record(extracted=True), step=EXTRACT), None),
        (Observed(job(HELPER_FAILED, failedIndexes="0"), (worker(0, ended(1)),), record=record(extracted=True),
                  step=EXTRACT), None),
        (Observed(job(COMPLETE), record=record(), step=EXTRACT), None),
        (Observed(job(COMPLETE), record=record(extracted=True, result=result()), step=EXTRACT), None),
    ],
    ids=["it still runs", "its first worker failed", "the store was emptied", "a result is there"],
)  # fmt: skip
def test_the_head_is_not_trained_yet_when(seen, chooses):
    decision, _ = step_by_step(EXTRACT, seen)
    assert decision.chooses == chooses


def test_an_extraction_that_vanished_is_made_again():
    decision, _ = step_by_step(EXTRACT, Observed(record=record(), step=EXTRACT))
    assert decision.actions == (CreateJob(lost=True),)


def test_a_shard_that_goes_before_the_head_is_trained_is_computed_anew_beside_the_complete_extraction():
    complete = job(COMPLETE)
    choice, then = step_by_step(
        HEAD, Observed(job(MISSING, name=f"{JOB}-h"), (ended(76),), record=record(extracted=True), step=HEAD)
    )
    assert (choice.chooses, then.actions) == (AGAIN, (DeleteJob(f"{JOB}-h", "job-uid"),))
    gone = Observed(record=record(extracted=True), step=AGAIN, earlier=(complete,))
    assert decide(session(then.status), gone, NOW).actions == (CreateJob(),)
