"""Lines of a log: one form for ours and kopf's, each with the session that it is about."""

from __future__ import annotations

import io
import json
import logging
import re
import signal
import subprocess
import sys
import threading

import pytest

from trainingsession_operator.logs import AboutSession, JsonFormatter, TextFormatter, looking_at

SOON = 20.0


class Written:
    """A logger of its own and what it wrote."""

    def __init__(self, formatter: logging.Formatter) -> None:
        self.stream = io.StringIO()
        handler = logging.StreamHandler(self.stream)
        handler.addFilter(AboutSession())
        handler.setFormatter(formatter)
        self.log = logging.Logger("test")
        self.log.addHandler(handler)

    def lines(self) -> list[str]:
        return self.stream.getvalue().splitlines()


@pytest.fixture
def text() -> Written:
    return Written(TextFormatter())


@pytest.fixture
def as_json() -> Written:
    return Written(JsonFormatter())


TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def test_a_line_about_no_session_is_time_level_and_sentence(text):
    text.log.warning("MongoDB cannot be used: %s", "no primary")
    assert re.fullmatch(rf"{TIME} WARNING MongoDB cannot be used: no primary", text.lines()[0])


def test_every_line_of_a_look_carries_the_session_and_the_same_id(text):
    with looking_at("team-a", "digits"):
        text.log.info("session team-a/digits: Job made")
        text.log.info("namespace team-a: Secret written")
    with looking_at("team-a", "digits"):
        text.log.info("session team-a/digits: Pending")
    text.log.info("stopped")
    first, second, third, last = text.lines()
    (one,) = re.findall(r"INFO \[([0-9a-f]{8})\] session team-a/digits: Job made$", first)
    assert second.endswith(f"INFO [team-a/digits {one}] namespace team-a: Secret written")
    (other,) = re.findall(r"INFO \[([0-9a-f]{8})\] session", third)
    assert other != one
    assert last.endswith("INFO stopped")


def test_as_json_every_field_stands_by_itself(as_json):
    with looking_at("team-a", "digits"):
        as_json.log.info("Job %s\nmade", "ä")
    as_json.log.info("stopped")
    look, plain = map(json.loads, as_json.lines())
    assert re.fullmatch(TIME, look.pop("time"))
    assert re.fullmatch("[0-9a-f]{8}", look.pop("reconcileID"))
    assert look == {
        "level": "info", "message": "Job ä\nmade", "logger": "test", "namespace": "team-a", "session": "digits",
    }  # fmt: skip
    assert set(plain) == {"time", "level", "message", "logger"}


def test_a_traceback_stays_on_the_json_line_of_its_sentence(as_json):
    try:
        {}["oops"]
    except KeyError:
        as_json.log.exception("unexpected failure")
    (line,) = map(json.loads, as_json.lines())
    assert line["message"] == "unexpected failure"
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("KeyError: 'oops'")


def test_kopf_s_lines_carry_the_object_that_they_are_about(as_json):
    about = {"k8s_ref": {"namespace": "team-a", "name": "digits", "kind": "TrainingSession"}}
    as_json.log.error("Handler failed", extra=about)
    (line,) = map(json.loads, as_json.lines())
    assert (line["namespace"], line["session"]) == ("team-a", "digits")


def test_threads_do_not_mix_their_sessions(as_json):
    inside = threading.Barrier(4, timeout=SOON)

    def look(number: int) -> None:
        with looking_at("team-a", f"s{number}"):
            inside.wait()
            as_json.log.info("%d", number)
            inside.wait()

    threads = [threading.Thread(target=look, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON)
    lines = [json.loads(line) for line in as_json.lines()]
    assert sorted(line["message"] for line in lines) == ["0", "1", "2", "3"]
    assert all(line["session"] == f"s{line['message']}" for line in lines)
    assert len({line["reconcileID"] for line in lines}) == 4


TOGGLED = """
import logging, signal, sys
from trainingsession_operator.logs import configure_logging, toggle_on_signal
configure_logging(sys.argv[1], sys.argv[2])
toggle_on_signal(sys.argv[1])
log = logging.getLogger("trainingsession_operator.test")
for _ in range(3):
    log.debug("detail")
    logging.getLogger("urllib3").debug("whole bodies")
    signal.raise_signal(signal.SIGUSR1)
"""


@pytest.fixture
def toggled() -> list[str]:
    command = [sys.executable, "-c", TOGGLED, "warning", "text"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return [line.partition(" ")[2] for line in done.stderr.splitlines()]


def test_a_signal_switches_to_debug_and_back_and_libraries_stay_quiet(toggled):
    assert toggled == [
        "DEBUG the log level is debug now",
        "DEBUG detail",
        "WARNING the log level is warning now",
        "DEBUG the log level is debug now",
    ]
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL, "this process is not touched"
