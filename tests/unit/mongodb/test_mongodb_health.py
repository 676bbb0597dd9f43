"""What the sidecar's probes answer as its rounds grow old."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from trainingsession_operator.mongodb_init import HUNG_SECONDS, STALE_SECONDS, Health, read_arguments
from trainingsession_operator.mongodb_member import Settings, State

READY = State(ready=True, sentence="ready")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_before_the_first_round_it_is_alive_and_not_ready():
    health = Health(Clock())
    assert health.answer("/healthz").ready
    assert health.answer("/readyz") == State(ready=False, sentence="has not looked at mongod yet")


def test_the_last_round_is_believed_until_it_is_stale():
    clock = Clock()
    health = Health(clock)
    health.report(READY)
    clock.now += STALE_SECONDS
    assert health.answer("/readyz") == READY
    clock.now += 1
    assert health.answer("/readyz") == State(ready=False, sentence="has not looked at mongod for 31 s")
    assert health.answer("/healthz").ready


def test_hung_rounds_are_dead_whatever_they_found():
    clock = Clock()
    health = Health(clock)
    health.report(READY)
    clock.now += HUNG_SECONDS + 1
    assert not health.answer("/healthz").ready


def test_a_round_that_finds_mongod_down_is_alive():
    health = Health(Clock())
    health.report(State(ready=False, sentence="waiting for mongod"))
    assert health.answer("/healthz").ready
    assert not health.answer("/readyz").ready


def test_another_path_has_no_answer():
    assert Health(Clock()).answer("/metrics") is None


def test_only_news_is_logged(caplog):
    health = Health(Clock())
    with caplog.at_level(logging.INFO):
        assert health.report(READY)
        assert not health.report(READY)
        assert health.report(State(ready=False, sentence="gone"))
    assert caplog.messages == ["ready", "gone"]


def test_the_command_line_becomes_settings():
    given = [
        "--host=m-0.m.ns.svc:27017",
        "--members=m-0.m.ns.svc:27017",
        "--replica-set=rs0",
        "--credentials=/c",
        "--secret=s",
        "--health-port=1",
    ]
    assert read_arguments(given) == Settings(
        "127.0.0.1:27017", "m-0.m.ns.svc:27017", ("m-0.m.ns.svc:27017",), "rs0", Path("/c"), "s", 1
    )


def test_a_chart_that_does_not_tell_the_members_knows_this_one_only():
    given = ["--host=m-0.m.ns.svc:27017", "--replica-set=rs0", "--credentials=/c", "--secret=s"]
    assert read_arguments(given).members == ("m-0.m.ns.svc:27017",)


def test_a_port_that_is_no_number_is_refused_by_name(capsys):
    with pytest.raises(SystemExit):
        read_arguments(
            ["--host=h", "--members=h", "--replica-set=r", "--credentials=/c", "--secret=s", "--health-port=x"]
        )
    assert "--health-port" in capsys.readouterr().err
