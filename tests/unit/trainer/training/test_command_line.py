"""The process around a session: signals, threads, sentences, exit codes, tables. No TensorFlow is imported here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pymongo.errors import AutoReconnect, OperationFailure, ServerSelectionTimeoutError

from trainingsession_trainer import mongodb
from trainingsession_trainer.__main__ import StopFlag, limit_threads, main, read_limit, say_goodbye
from trainingsession_trainer.accelerators import judge
from trainingsession_trainer.config import parse_spec
from trainingsession_trainer.errors import AcceleratorError, SpecError, Stopped, StorageError
from trainingsession_trainer.local_store import best, difference, phase, read_sessions
from trainingsession_trainer.mongodb import connect, patiently, storage_error
from trainingsession_trainer.tables import age, table


@pytest.fixture
def quiet_signals():
    """Puts the signal handlers back that a test replaces."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_first_signal_asks_and_the_second_ends(quiet_signals) -> None:
    flag = StopFlag()
    flag.install()
    assert not flag()
    os.kill(os.getpid(), signal.SIGTERM)
    assert flag()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize(("limit", "threads"), [("2000", "2"), ("500", "1"), ("2500\n", "3")])
def test_threads_follow_the_limit(tmp_path: Path, monkeypatch, limit: str, threads: str) -> None:
    for variable in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.setenv(variable, "99")
    (tmp_path / "cpu-limit").write_text(limit, "ascii")
    limit_threads(read_limit(tmp_path / "cpu-limit"))
    assert os.environ["TF_NUM_INTRAOP_THREADS"] == threads
    assert os.environ["OMP_NUM_THREADS"] == threads


def test_without_a_limit_the_threads_are_left_alone(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "99")
    limit_threads(read_limit(tmp_path / "cpu-limit"))
    assert os.environ["OMP_NUM_THREADS"] == "99"


def test_the_last_sentence_goes_to_stderr_and_to_an_existing_termination_log(tmp_path: Path, capsys) -> None:
    log = tmp_path / "termination-log"
    say_goodbye("No.", log)
    assert not log.exists()
    log.touch()
    say_goodbye("ü" * 3000, log)
    assert len(log.read_bytes()) == 4096
    assert log.read_text("utf-8") == "ü" * 2048
    assert capsys.readouterr().err.startswith("No.\n")


def test_missing_files_are_one_sentence_and_an_exit_code(tmp_path: Path, capsys, quiet_signals) -> None:
    assert main(["--session", str(tmp_path / "session.json")]) == 64
    assert capsys.readouterr().err.count("\n") == 1
    (tmp_path / "session.json").write_text("{}", "utf-8")
    (tmp_path / "pod-uid").write_text("pod", "utf-8")
    assert main(["--session", str(tmp_path / "session.json"), "--mongodb", str(tmp_path)]) == 69
    assert "Could not read the MongoDB URI from" in capsys.readouterr().err


def test_signals_and_threads_are_set_before_tensorflow_is_imported() -> None:
    modules = "trainingsession_trainer.__main__, trainingsession_trainer.local, trainingsession_trainer.mongodb"
    program = f"import sys, {modules}; sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_gpus_that_are_held_must_be_usable() -> None:
    with pytest.raises(AcceleratorError, match=r"spec\.resources\.gpus is 2 but TensorFlow sees 1") as caught:
        judge(2, 1, cuda=True, required=True)
    assert caught.value.exit_code == 76
    with pytest.raises(AcceleratorError, match="is 1 but this image's TensorFlow is built without CUDA; use the image"):
        judge(1, 0, cuda=False, required=True)
    with pytest.raises(AcceleratorError, match=r"sees 1; slices of one GPU are seen as one, so check .* set gpus to 0"):
        judge(2, 1, cuda=True, required=True)
    assert judge(2, 2, cuda=True, required=True) == "Computing on 2 GPU(s)"
    assert "gpus is 0" in judge(0, 0, cuda=True, required=True)


def test_a_claim_must_come_with_a_gpu() -> None:
    with pytest.raises(AcceleratorError, match=r"spec\.resources\.claims holds devices but TensorFlow sees 0; check"):
        judge(0, 0, cuda=True, required=True, claims=2)
    assert judge(0, 1, cuda=True, required=True, claims=2) == "Computing on 1 GPU(s)"


def test_gpus_that_are_held_only_in_name_can_be_allowed() -> None:
    assert "although 1 GPU(s) are held: this image's" in judge(1, 0, cuda=False, required=False)
    assert "although 2 GPU(s) are held: TensorFlow sees 1" in judge(2, 1, cuda=True, required=False)


def test_waiting_for_storage_ends_with_a_sentence() -> None:
    def away():
        raise ServerSelectionTimeoutError("localhost:1: [Errno 111] Connection refused, Timeout: 5s, Topology: <long>")

    with pytest.raises(StorageError) as caught:
        patiently(away, "store the result", patience=0)
    assert str(caught.value) == (
        "Could not store the result (localhost:1: [Errno 111] Connection refused); check that MongoDB runs."
    )
    assert isinstance(caught.value.__cause__, ServerSelectionTimeoutError)


def test_a_moment_without_storage_is_waited_for(monkeypatch) -> None:
    monkeypatch.setattr(mongodb, "PAUSE_SECONDS", 0.01)
    answers = iter([AutoReconnect("gone"), OperationFailure("not primary", 10107), None])

    def operation():
        answer = next(answers)
        if answer:
            raise answer
        return "done"

    assert patiently(operation, "work") == "done"


def test_a_stop_ends_the_waiting() -> None:
    def away():
        raise AutoReconnect("gone")

    with pytest.raises(Stopped):
        patiently(away, "work", stop=lambda: True)


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OperationFailure("No space left on device", 14031), "free or enlarge its disk"),
        (OperationFailure("Authentication failed.", 18), "check the user and password in the Secret"),
        (OperationFailure("something else", 1), "see the log of MongoDB"),
    ],
    ids=["disk full", "bad password", "other"],
)
def test_what_mongodb_refuses_carries_a_remedy(error, remedy) -> None:
    assert remedy in str(storage_error(error, "work"))


def test_a_bad_uri_never_shows_its_password() -> None:
    with pytest.raises(StorageError) as caught:
        connect("mongodb://me:hunter2@:bad:port/?x", "database")
    assert "hunter2" not in str(caught.value)


SESSION = """
apiVersion: trainingsession.dev/v1alpha1
kind: TrainingSession
metadata: {name: %s}
spec:
  dataset: {name: digits}
  baseModel: {name: MobileNet, arguments: {dropout: 1e-3}}
  training: {epochs: %s}
"""


def sessions(folder: Path, *texts: str):
    file = folder / "a.yaml"
    file.write_text("---".join(["kind: ConfigMap\n", *texts]), "utf-8")
    return read_sessions(file)


def test_a_session_without_a_cluster_is_known_by_its_name(tmp_path: Path) -> None:
    (first,), (again,) = sessions(tmp_path, SESSION % ("a", 3)), sessions(tmp_path, SESSION % ("a", 4))
    (other,) = sessions(tmp_path, SESSION % ("b", 3))
    assert first.session.namespace == "default"
    assert first.session.uid == again.session.uid != other.session.uid
    assert first.session.spec.base_model.arguments == {"dropout": 0.001}


def test_all_sessions_of_a_file_are_read_and_checked_before_any_is_run(tmp_path: Path) -> None:
    found = sessions(tmp_path, SESSION % ("a", 3), SESSION % ("b", 3))
    assert [entry.session.name for entry in found] == ["a", "b"]
    with pytest.raises(SpecError, match=r"^b: spec\.training\.epochs is 0; it must be"):
        sessions(tmp_path, SESSION % ("a", 3), SESSION % ("b", 0))
    with pytest.raises(SpecError, match="holds 2 sessions called default/a; give each a name of its own"):
        sessions(tmp_path, SESSION % ("a", 3), SESSION % ("a", 4))


def test_what_changed_since_a_result_is_named_and_how_it_is_run_does_not_count() -> None:
    def spec(**parts):
        return parse_spec({"dataset": {"name": "digits"}, "baseModel": {"name": "ResNet50"}, **parts})

    plain = spec()
    assert difference(plain, spec(training={"epochs": 20}, resources={"gpus": 0}, suspend=True)) == ""
    assert difference(plain, spec(training={"epochs": 3})) == "its spec.training.epochs was 20, not 3"
    layers = {"layers": [{"type": "Dropout", "config": {"rate": 0.1}}]}
    assert difference(plain, spec(head=layers)) == "its spec.head.layers was another"


@pytest.mark.parametrize(
    ("record", "word"),
    [
        ({}, "Pending"),
        ({"phase": "Training", "attempt": "b", "failure": {"attempt": "a", "exitCode": 65}}, "Training"),
        ({"phase": "Training", "attempt": "a", "failure": {"attempt": "a", "exitCode": 65}}, "Failed"),
        ({"phase": "Training", "attempt": "a", "failure": {"attempt": "a", "exitCode": 75}}, "Suspended"),
        ({"phase": "Publishing", "result": {}, "failure": {"exitCode": 1}}, "Succeeded"),
    ],
    ids=["new", "failed before and runs again", "failed", "stopped", "done"],
)
def test_the_phase_is_in_the_words_of_the_status(record, word: str) -> None:
    assert phase(record) == word


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("kind: Pod", "holds no object of kind TrainingSession"),
        ("kind: TrainingSession", "has no metadata.name"),
        ("a: [", "is not YAML"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_session_is_refused(tmp_path: Path, text: str | None, sentence: str) -> None:
    file = tmp_path / "a.yaml"
    if text is not None:
        file.write_text(text, "utf-8")
    with pytest.raises(SpecError, match=sentence):
        read_sessions(file)


def test_the_best_of_several_is_chosen_by_validation_where_all_were_validated() -> None:
    one, two = {"accuracy": 0.9, "validationAccuracy": 0.7}, {"accuracy": 0.8, "validationAccuracy": 0.8}
    assert best([one, two]) == 1
    assert best([one, {"accuracy": 0.8}]) == 0
    assert best([two, dict(two)]) == 0


def test_the_table_is_aligned_as_kubectl_does() -> None:
    assert table([("NAME", "AGE"), ("digits", "95s")]) == "NAME     AGE\ndigits   95s"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (95.9, "95s"),
        (120, "2m"),
        (200, "3m20s"),
        (720, "12m"),
        (3 * 3600, "3h"),
        (3 * 3600 + 60, "3h1m"),
        (9 * 3600 + 60, "9h"),
        (49 * 3600, "2d"),
    ],
)
def test_ages_are_kubectls(seconds: float, words: str) -> None:
    assert age(seconds) == words
