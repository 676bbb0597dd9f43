"""What becomes of a session that cannot be run as it is."""

from __future__ import annotations

import pytest

from builders import JOB, NOW, condition, job, record, result, running, session
from trainingsession_operator import plan
from trainingsession_operator.decide import decide
from trainingsession_operator.observed import CreateJob, Observed
from trainingsession_operator.refusals import refuse
from trainingsession_operator.status import State, is_as_written, is_finished

TOO_LARGE = State("True", "SpecTooLarge", "The spec is too large.")
NOT_ALLOWED = State("True", "ImageNotAllowed", "The image is not allowed.")
PLACED = {"placement": {"job": JOB, "task": "all"}, "jobName": JOB}


def test_a_refused_session_is_at_its_end():
    decision = refuse(session(), TOO_LARGE, NOW)
    assert decision.status["phase"] == "Failed"
    failed = condition(decision.status, "Failed")
    assert (failed["reason"], failed["message"]) == ("SpecTooLarge", "The spec is too large.")
    assert condition(decision.status, "Accepted")["status"] == "False"
    assert is_finished(decision.status)
    assert is_as_written(decision.status)
    assert (decision.actions, decision.look_again, decision.has_record) == ((), None, False)


def test_a_job_that_runs_when_the_settings_become_stricter_runs_to_its_end():
    seen = Observed(job(active=1), (running(),), record=record(attempt="pod-1", phase="Training"))
    decision = decide(session(PLACED), seen, NOW, NOT_ALLOWED)
    assert decision.status["phase"] == "Training"
    published = Observed(job(("Complete", "Done", "")), record=record(result=result()))
    assert decide(session(PLACED), published, NOW, NOT_ALLOWED).status["phase"] == "Succeeded"


@pytest.mark.parametrize(
    "seen",
    [
        Observed(record=record()),
        Observed(step=None, record=record()),
        Observed(
            job(("Complete", "Done", "")), record=record(extracted=True), step=plan.EXTRACT
        ),
    ],
    ids=["it is lost", "none was chosen", "the first of two has ended"],
)  # fmt: skip
def test_no_further_job_is_made_then(seen):
    decision = decide(session(PLACED, resources={"gpuForHead": "never"}), seen, NOW, NOT_ALLOWED)
    assert not any(isinstance(action, CreateJob) for action in decision.actions)
    assert decision.chooses is None
    assert condition(decision.status, "Failed")["reason"] == "ImageNotAllowed"
    assert condition(decision.status, "Accepted")["status"] == "False"
    assert decision.has_record


def test_a_suspended_session_is_refused_only_when_it_goes_on():
    for suspend, phase in ((True, "Suspended"), (False, "Failed")):
        assert decide(session(PLACED, suspend=suspend), Observed(record=record()), NOW, NOT_ALLOWED).status[
            "phase"
        ] == phase  # fmt: skip
