"""Sessions without a cluster: a YAML file in, the table that kubectl would show out, the model by a printed command."""

from __future__ import annotations

import contextlib
import copy
import io
import os
import re
import shlex
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

QUICK = {
    "apiVersion": "trainingsession.dev/v1alpha1",
    "kind": "TrainingSession",
    "metadata": {"name": "quick"},
    "spec": {
        "dataset": {"name": "digits", "subset": 0.25},
        "baseModel": {"name": "MobileNet", "arguments": {"alpha": 0.25}, "weights": "none", "inputSize": [32, 32]},
        "training": {"epochs": 3, "optimizer": {"name": "adam"}},
        "resources": {"gpus": 0},
    },
}


def trainer(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trainingsession_trainer", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=600)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("local")


@pytest.fixture(scope="module")
def first(folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "quick.yaml").write_text(yaml.safe_dump(QUICK), "utf-8")
    return trainer(folder, "run", "quick.yaml", "--data", "data")


def test_it_prints_the_table_of_kubectl(first) -> None:
    assert first.returncode == 0, first.stderr
    assert "Session default/quick: 25 % of digits, MobileNet with weights none, adam, 3 epochs" in first.stdout
    header, row = re.search(r"^(NAME .*)\n(quick .*)$", first.stdout, re.MULTILINE).groups()
    assert header.split() == ["NAME", "PHASE", "ACCURACY", "EPOCH", "DATASET", "SUBSET", "BASE", "OPTIMIZER", "AGE"]
    cells = row.split()
    assert cells[:2] == ["quick", "Succeeded"]
    assert re.fullmatch(r"[01]\.\d{4}", cells[2])
    assert cells[3:8] == ["3/3", "digits", "0.25", "MobileNet", "adam"]
    assert re.fullmatch(r"\d+[sm]\S*", cells[8])
    assert header.index("AGE") == row.index(cells[8], row.index("adam"))


def test_the_printed_command_fetches_the_model(first, folder: Path) -> None:
    (line,) = [line for line in first.stdout.splitlines() if " download quick/model.keras " in line]
    done = subprocess.run(shlex.split(line), cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (folder / "model.keras").read_bytes()[:2] == b"PK"
    assert "sha256" in done.stdout


def test_a_finished_session_gives_its_model_in_other_forms(first, folder: Path) -> None:
    made = trainer(folder, "export", "quick", "--format", "saved-model", "--data", "data", "--output", "served.tar")
    assert made.returncode == 0, made.stderr
    with tarfile.open(folder / "served.tar") as archive:
        assert "1/saved_model.pb" in archive.getnames()


def test_a_session_that_left_only_its_head_gives_the_same_model(compared, folder: Path) -> None:
    assert trainer(folder, "download", "bare/model.keras", "--data", "data").returncode == 64
    made = trainer(folder, "export", "bare", "--format", "keras", "--data", "data", "--output", "bare.keras")
    assert made.returncode == 0, made.stderr
    (folder / "quick.keras").write_bytes(fetch(folder, "quick/model.keras"))
    weights = []
    for name in ("quick", "bare"):
        with zipfile.ZipFile(folder / f"{name}.keras") as archive, archive.open("model.weights.h5") as file:
            weights.append(hdf5_values(file.read()))
    assert weights[0].keys() == weights[1].keys()
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])


def hdf5_values(data: bytes) -> dict[str, np.ndarray]:
    """All arrays of an HDF5 file by their path."""
    found: dict[str, np.ndarray] = {}
    with h5py.File(io.BytesIO(data)) as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def test_what_cannot_be_exported_is_said(first, folder: Path) -> None:
    unknown = trainer(folder, "export", "slow", "--format", "onnx", "--data", "data")
    assert unknown.returncode == 64
    assert unknown.stderr.strip() == "There is no finished session slow in the database; look at its name."
    elsewhere = trainer(folder, "export", "quick", "--format", "onnx", "--data", "nowhere")
    assert elsewhere.stderr.strip() == "nowhere holds no sessions; name their folder with --data."


LONG = {"epochs": 40, "batchSize": 8}


def write(folder: Path, **sessions) -> str:
    """A file of sessions like QUICK, by name, with other training; gives its name."""
    documents = []
    for name, training in sessions.items():
        document = copy.deepcopy(QUICK)
        document["metadata"]["name"] = name
        document["spec"]["training"].update(training)
        documents.append(document)
    file = folder / f"{next(iter(sessions))}.yaml"
    file.write_text(yaml.safe_dump_all(documents), "utf-8")
    return file.name


@pytest.fixture(scope="module")
def compared(first, folder: Path) -> subprocess.CompletedProcess[str]:
    name = write(folder, same={}, bare={}, whole=LONG)
    same, bare, whole = yaml.safe_load_all((folder / name).read_text("utf-8"))
    bare["spec"]["artifacts"] = {"exports": []}
    (folder / name).write_text(yaml.safe_dump_all([same, bare, whole]), "utf-8")
    return trainer(folder, "run", name, "--data", "data")


def test_a_plan_says_what_is_computed_and_reused_and_stores_nothing(first, folder: Path) -> None:
    fresh = trainer(folder, "run", "quick.yaml", "--data", "nowhere", "--dry-run")
    assert fresh.returncode == 0, fresh.stderr
    assert "291 to train on, 70 held back for validation, 89 for the test; 10 classes" in fresh.stdout
    assert "0 of 1 shards are stored: 0 images reused, 1,442 to compute" in fresh.stdout
    assert "Head: 2,570 weights, 2,570 of them trained" in fresh.stdout
    assert not (folder / "nowhere").exists()

    before = trainer(folder, "list", "--data", "data").stdout.splitlines()
    planned = trainer(folder, "run", write(folder, planned={"epochs": 4}), "--data", "data", "--dry-run")
    assert "1 of 1 shards are stored: 1,442 images reused" in planned.stdout
    keys = re.compile(r"key ([0-9a-f]{64})")
    assert keys.findall(planned.stdout) == keys.findall(fresh.stdout)
    after = trainer(folder, "list", "--data", "data").stdout.splitlines()
    assert [line.split()[:3] for line in after] == [line.split()[:3] for line in before], "no session was stored"


def test_several_sessions_run_one_after_the_other_and_find_the_features(first, compared) -> None:
    assert compared.returncode == 0, compared.stderr
    assert compared.stdout.count("images are stored: no image is read and no base model built") == 3
    rows = re.findall(r"^(\w+) +Succeeded +(\d\.\d{4}) +(\d+/\d+)", compared.stdout, re.MULTILINE)
    assert [(name, epochs) for name, _, epochs in rows] == [("same", "3/3"), ("bare", "3/3"), ("whole", "40/40")]
    assert rows[0][1] == re.search(r"Accuracy (\d\.\d{4})", first.stdout)[1], "the same as the first session's"
    assert "To get the best model by validation" in compared.stdout
    assert re.search(r" download (same|whole)/model\.keras --data data", compared.stdout)


def test_a_finished_session_is_not_trained_again_nor_taken_for_another(first, folder: Path) -> None:
    again = trainer(folder, "run", "quick.yaml", "--data", "data")
    assert again.returncode == 0, again.stderr
    assert "Session quick has its result already" in again.stdout
    assert "Loading TensorFlow" not in again.stdout
    assert re.search(r"^quick +Succeeded", again.stdout, re.MULTILINE)
    changed = trainer(folder, "run", write(folder, quick={"epochs": 4}), "--data", "data")
    assert changed.returncode == 64
    assert changed.stderr.strip() == (
        "Session quick is finished, and its spec.training.epochs was 3, not 4; give this one another metadata.name, "
        "or forget the finished one with `delete quick`."
    )


def test_a_deleted_session_is_gone_with_its_files(compared, folder: Path) -> None:
    listed = trainer(folder, "list", "--data", "data", "--sort-by", "accuracy").stdout.splitlines()[1:]
    accuracies = [line.split()[2] for line in listed]
    assert len(accuracies) >= 3
    assert accuracies == sorted(accuracies)
    deleted = trainer(folder, "delete", "same", "--data", "data")
    assert re.search(r"Session same and \d+ files are deleted", deleted.stdout), deleted.stderr
    assert not re.search(r"^same ", trainer(folder, "list", "--data", "data").stdout, re.MULTILINE)
    missing = trainer(folder, "download", "same/model.keras", "--data", "data")
    assert missing.returncode == 64
    assert "There is no artifact same/model.keras" in missing.stderr
    assert trainer(folder, "delete", "same", "--data", "data").returncode == 64


def on_a_terminal(folder: Path, *arguments: str, interrupt_at: str = "") -> tuple[int, str]:
    """Run on a terminal of its own; Ctrl-C is typed when `interrupt_at` is seen. Gives exit code and what was shown."""
    ours, theirs = os.openpty()
    # Its own session takes the terminal, so that what is typed reaches it as a signal.
    take = (
        "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.executable, sys.argv[1:])"
    )
    command = [sys.executable, "-c", take, sys.executable, "-m", "trainingsession_trainer", *arguments]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200"}
    process = subprocess.Popen(
        command, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, env=environment
    )
    os.close(theirs)
    shown = ""
    # The end of the process ends the terminal, which reads as an error.
    with contextlib.suppress(OSError):
        while piece := os.read(ours, 65536):
            shown += piece.decode(errors="replace")
            if interrupt_at and interrupt_at in shown:
                os.write(ours, b"\x03")
                interrupt_at = ""
    os.close(ours)
    return process.wait(120), shown


def test_ctrl_c_saves_and_the_same_command_goes_on_to_the_same_result(compared, folder: Path) -> None:
    command = ("run", write(folder, stopped=LONG), "--data", "data")
    code, shown = on_a_terminal(folder, *command, interrupt_at="Epoch  3/40")
    assert code == 75, shown
    assert "Ctrl-C again ends at once" in shown
    assert re.search(r"stopped +Suspended +\d+/40", shown)
    assert "The same command again goes on from here." in shown
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert re.search(r"Training [━╸╺ ]+ +\d+% +accuracy \d", plain), "a bar"

    done = trainer(folder, *command)
    assert done.returncode == 0, done.stderr
    assert re.search(r"Going on after epoch \d+ of 40", done.stdout)
    assert "━" not in done.stdout, "no bar where there is no terminal"
    whole = re.search(r"^whole +Succeeded +(\S+)", compared.stdout, re.MULTILINE)[1]
    assert re.search(r"^stopped +Succeeded +(\S+)", done.stdout, re.MULTILINE)[1] == whole
    assert fetch(folder, "stopped/head.weights.h5") == fetch(folder, "whole/head.weights.h5"), "bit for bit"


def fetch(folder: Path, artifact: str) -> bytes:
    done = trainer(folder, "download", artifact, "--data", "data", "--output", "fetched")
    assert done.returncode == 0, done.stderr
    return (folder / "fetched").read_bytes()


def test_a_session_that_cannot_work_ends_with_its_sentence_and_without_a_traceback(folder: Path) -> None:
    bad = {**QUICK, "spec": {**QUICK["spec"], "training": {"epochs": 0}}}
    (folder / "bad.yaml").write_text(yaml.safe_dump(bad), "utf-8")
    done = trainer(folder, "run", "bad.yaml", "--data", "data")
    assert done.returncode == 64
    assert done.stderr.strip() == "spec.training.epochs is 0; it must be at least 1 and at most 10000."
