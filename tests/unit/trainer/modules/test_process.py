"""The module's process: what it gets, and a sentence for every way in which a module can fail."""

from __future__ import annotations

import io
import json
import os
import select
from pathlib import Path

import numpy as np
import pytest

from trainingsession_trainer.config import parse_spec
from trainingsession_trainer.datasets import Disk
from trainingsession_trainer.errors import DivergedError, HostMemoryError, SpecError, Stopped
from trainingsession_trainer.modules import handover, process
from trainingsession_trainer.modules import session as own
from trainingsession_trainer.modules.running import Handed, Running
from trainingsession_trainer.reporting import Reporter
from trainingsession_trainer.spec import Session


@pytest.fixture
def run(tmp_path):
    """Run source as the module `own`; gives predictions, lines and epochs."""
    files, workdir, code = tmp_path / "handover", tmp_path / "workdir", tmp_path / "code"
    for folder in (files, workdir, code):
        folder.mkdir()

    def go(source: str, entry: str = "own:run", parameters=None, stop=lambda: False):
        (code / "own.py").write_text(source)
        rng = np.random.default_rng(0)
        for name, count in (("train", 12), ("validation", 0), ("test", 4)):
            blocks = iter([rng.random((count, 5), np.float32)] if count else [])
            labels = None if name == "test" else np.arange(count) % 3
            handover.write_part(files, name, blocks, count, labels)
        handover.write_order(
            files,
            handover.Order(
                entry_point=entry, code=str(code), packages=str(tmp_path / "packages"), input="features",
                class_names=("a", "b", "ü"), parameters=parameters or {}, base_model={"name": "ResNet50"}, epochs=2,
                batch_size=4, restore_best=True, seed=7, hidden=(str(tmp_path / "secret"),),
            ),
        )  # fmt: skip
        lines: list[str] = []
        notes: list[str] = []
        epochs: list[process.Epoch] = []
        listener = process.Listener(epoch=epochs.append, line=lines.append, note=notes.append)
        process.run(files, workdir, entry, listener, stop)
        assert "Landlock" in notes[0], "whether it is confined or not"
        return np.load(files / handover.PREDICTIONS["test"]), lines, epochs

    return go


def test_a_function_gets_its_task_and_gives_predictions(run) -> None:
    source = """
import json, random
import numpy as np

def run(task):
    print(json.dumps([task.class_names, dict(task.parameters), task.epochs, task.batch_size, task.seed,
                      task.base_model["name"], task.train.inputs.shape, len(task.validation), task.test.labels,
                      [len(labels) for _, labels in task.train.batches(5, seed=1)]]))
    print(random.random(), np.random.random())
    try:
        task.train.inputs[0] = 0
    except ValueError as error:
        print(error)
    task.report(1, loss=0.5, bad=float("nan"))
    (task.workdir / "scratch").write_text("x")
    return np.full((4, 3), 1 / 3)
"""
    predictions, lines, epochs = run(source, parameters={"a": [1, 2.5, None, True], "b": {"c": "d"}})
    np.testing.assert_allclose(predictions, 1 / 3, rtol=1e-6)
    assert json.loads(lines[0]) == [
        ["a", "b", "ü"], {"a": [1, 2.5, None, True], "b": {"c": "d"}}, 2, 4, 7, "ResNet50", [12, 5], 0, None, [5, 5, 2],
    ]  # fmt: skip
    assert lines[1] == "0.32383276483316237 0.07630828937395717", "seeded with 7"
    assert lines[2] == "assignment destination is read-only"
    assert epochs == [process.Epoch(1, {"loss": 0.5})]


OK = "import numpy as np\ndef run(task):\n    return "
FAILURES = {
    "module that is missing": ("", "other:run", "names the module other, which cannot be found (ModuleNotFoundError: "),
    "package that is missing": ("import nosuchthing", "own:run",
        "own cannot be imported (ModuleNotFoundError: No module named 'nosuchthing' at own.py:1); mend it or its req"),
    "syntax": ("x = 1\ndef run(:", "own:run",
        "own cannot be imported (SyntaxError: invalid syntax (own.py, line 2) at own.py:2)"),
    "name that is missing": ("x = 1", "own:run", "names run in own, which has no such name; name a function."),
    "no function": ("run = 1", "own:run", "names run in own, which is int; name a function."),
    "exception": ("def run(task):\n    return helper()\ndef helper():\n    raise ValueError('no\\nluck')", "own:run",
        "spec.module: own:run failed (ValueError: no luck) at own.py:4; see the log above."),
    "exit": ("import sys\ndef run(task):\n    sys.exit(3)", "own:run", "own:run failed (SystemExit: 3) at own.py:3"),
    "hard exit": ("import os\ndef run(task):\n    os._exit(9)", "own:run",
        "own:run ended with exit code 9 without a word"),
    "crash": ("import os\ndef run(task):\n    os.abort()", "own:run",
        "own:run ended by signal 6 (SIGABRT) without a word"),
    "nothing": (OK + "None", "own:run", "returned NoneType; it must return a compiled Keras model or an array of prob"),
    "text": (OK + "'good'", "own:run", "returned str; it must return"),
    "shape": (OK + "np.zeros((3, 3))", "own:run", "gave predictions of shape 3x3; they must be 4x3: a row for each"),
    "shape of the validation": (OK + "np.full((4, 3), 1 / 3), np.ones((2, 3))", "own:run",
        "gave predictions of shape 2x3; they must be 0x3: a row for each validation image"),
    "labels": (OK + "np.zeros(4)", "own:run", "gave predictions of shape 4; they must be 4x3"),
    "not a number": (OK + "np.full((4, 3), np.nan)", "own:run", "gave predictions that are not finite"),
    "below zero": (OK + "np.array([[2, -1, 0]] * 4)", "own:run", "gave predictions below 0 (-1); they must be prob"),
    "no probabilities": (OK + "np.eye(4)[:, :3]", "own:run", "rows do not sum to 1 (row 3 sums to 0)"),
}  # fmt: skip


@pytest.mark.parametrize(("source", "entry", "sentence"), FAILURES.values(), ids=FAILURES.keys())
def test_a_failure_is_a_sentence(run, source: str, entry: str, sentence: str) -> None:
    with pytest.raises(SpecError) as caught:
        run(source, entry)
    assert sentence in str(caught.value)
    assert str(caught.value).startswith("spec.module")
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("how", ["raise MemoryError", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"])
def test_a_want_of_memory_is_told_as_such(run, how: str) -> None:
    with pytest.raises(HostMemoryError, match=r"memory; raise spec\.resources\.memory or take smaller parts"):
        run(f"def run(task):\n    {how}")


def test_a_divergence_has_its_reason() -> None:
    error = process.failure("own:run", 1, {"stage": "diverged", "message": "the loss became nan in epoch 3"})
    assert isinstance(error, DivergedError)
    assert "the loss became nan in epoch 3" in str(error)


def test_long_lines_and_hostile_events_are_harmless(run) -> None:
    source = """
import os, sys
import numpy as np

def run(task):
    sys.stdout.write("x" * 100_000 + "\\n\\x1b[31mred\\n")
    for event in ('{"epoch": -1, "figures": {}}', "[1]", "nonsense", '{"epoch": 1, "figures": {"a b": 1, "c": "x"}}',
                  '{"note": 3}', '{"epoch": true, "figures": {}}', '{"epoch": 2, "figures": {"good": 1}}'):
        os.write(int(sys.argv[3]), event.encode() + b"\\n")
    return np.full((4, 3), 1 / 3)
"""
    _, lines, epochs = run(source)
    assert epochs == [process.Epoch(1, {}), process.Epoch(2, {"good": 1.0})]
    assert max(map(len, lines)) <= 1 << 16
    out = io.StringIO()
    Reporter(out).info(lines[-1])
    assert "\\x1b[31mred" in out.getvalue()


def test_a_helper_that_lives_on_is_ended_and_not_waited_for(run) -> None:
    source = """
import subprocess, sys
import numpy as np

def run(task):
    print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid)
    return np.full((4, 3), 1 / 3)
"""
    _, lines, _ = run(source)
    assert _ends(int(lines[0]))


def test_a_stop_ends_the_process(run) -> None:
    asked = iter([False, False, True])
    with pytest.raises(Stopped, match="the next attempt runs it from its start"):
        run("import time\ndef run(task):\n    time.sleep(600)", stop=lambda: next(asked, True))


def test_the_environment_holds_nothing_of_the_trainers(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MONGODB_PASSWORD", "hunter2")
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "2")
    for name in ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
                 "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "TRAININGSESSION_SERVICE_ACCOUNT"):  # fmt: skip
        monkeypatch.setenv(name, "hunter2")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/tmp/authorities.pem")
    found = process.environment(tmp_path)
    assert (found["HTTPS_PROXY"], found["REQUESTS_CA_BUNDLE"]) == ("http://proxy:3128", "/tmp/authorities.pem")
    assert found["TF_NUM_INTRAOP_THREADS"] == "2"
    assert found["HOME"] == str(tmp_path)
    assert "hunter2" not in found.values()


def _ends(pid: int) -> bool:
    """Whether a process is gone, or is so in a moment."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    with os.fdopen(descriptor):
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(30_000))


LOOK = """
import pathlib
import numpy as np

def run(task):
    try:
        pathlib.Path(task.parameters["secret"]).read_text()
    except PermissionError:
        return np.full((4, 3), 1 / 3)
    raise RuntimeError("it can be read")
"""


def test_a_folder_that_is_named_from_where_the_trainer_stands_is_hidden_too(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mongo").mkdir()
    secret = tmp_path / "mongo/uri"
    secret.write_text("mongodb://user:password@host")
    spec = parse_spec(
        {
            "dataset": {"name": "digits"},
            "baseModel": {"name": "ResNet50"},
            "module": {
                "git": {"url": "https://example.org/own.git", "revision": "0" * 40, "entryPoint": "own:run"},
                "parameters": {"secret": str(secret)},
            },
        }
    )
    out = io.StringIO()
    session = Session("team-a", "own", "uid", spec)
    running = Running(session, spec.module, tmp_path, Reporter(out), lambda: False, (Path("mongo"),), Disk(tmp_path))
    for folder in (running.files, running.workdir, running.code):
        folder.mkdir()
    (running.code / "own.py").write_text(LOOK)
    handover.write_part(running.files, "train", iter([np.zeros((12, 5), np.float32)]), 12, np.arange(12) % 3)
    handover.write_part(running.files, "test", iter([np.zeros((4, 5), np.float32)]), 4, None)
    labels = np.zeros(4, np.int32)
    handed = Handed(("a", "b", "c"), labels, labels[:0], {"train": 12}, (5,), 0, (), {})
    assert own.train(running, handed).shape == (4, 3), out.getvalue()
