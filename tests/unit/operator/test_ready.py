"""What `helm test` runs, against the operator's own /readyz."""

from __future__ import annotations

import pytest

from trainingsession_operator import ready
from trainingsession_operator.health import serve
from trainingsession_operator.metrics import Metrics


@pytest.fixture
def told():
    """What keeps the operator from being ready."""
    return {"reason": ""}


@pytest.fixture
def address(told):
    server = serve(0, lambda: told["reason"], Metrics())
    yield f"http://127.0.0.1:{server.server_address[1]}/readyz"
    server.shutdown()
    server.server_close()


def test_a_ready_operator_is_told_with_exit_code_0(address, capsys, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert ready.main(address) == 0
    assert capsys.readouterr().out == "The operator is ready: sessions are served and MongoDB can be used.\n"


def test_the_operators_own_sentence_tells_why_it_is_not(address, told, capsys):
    told["reason"] = "MongoDB cannot be used: no primary"
    assert ready.main(address, wait=0) == 1
    assert capsys.readouterr().err == "The operator is not ready: MongoDB cannot be used: no primary\n"


def test_it_waits_for_an_operator_that_is_being_started(address, told, monkeypatch):
    told["reason"] = "MongoDB cannot be used"
    monkeypatch.setattr(ready.time, "sleep", lambda seconds: told.update(reason=""))
    assert ready.main(address, wait=60) == 0


def test_an_operator_that_is_not_there_is_named_with_its_address(capsys):
    assert ready.main("http://127.0.0.1:9/readyz", wait=0) == 1
    assert "it cannot be reached at http://127.0.0.1:9/readyz (" in capsys.readouterr().err
