"""Sessions without a cluster: a YAML file in, the table that kubectl would show out, the model by a printed command."""

from __future__ import annotations

import io
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
        "baseModel": {"name": "ResNet50", "weights": "none", "inputSize": [32, 32]},
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
    assert "Session default/quick: 25 % of digits, ResNet50 with weights none, adam, 3 epochs" in first.stdout
    header, row = re.search(r"^(NAME .*)\n(quick .*)$", first.stdout, re.MULTILINE).groups()
    assert header.split() == ["NAME", "PHASE", "ACCURACY", "EPOCH", "DATASET", "SUBSET", "BASE", "OPTIMIZER", "AGE"]
    cells = row.split()
    assert cells[:2] == ["quick", "Succeeded"]
    assert re.fullmatch(r"[01]\.\d{4}", cells[2])
    assert cells[3:8] == ["3/3", "digits", "0.25", "ResNet50", "adam"]
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


def test_a_session_that_left_only_its_head_gives_the_same_model(first, folder: Path) -> None:
    spec = {**QUICK["spec"], "artifacts": {"exports": []}}
    (folder / "bare.yaml").write_text(yaml.safe_dump({**QUICK, "metadata": {"name": "bare"}, "spec": spec}), "utf-8")
    bare = trainer(folder, "run", "bare.yaml", "--data", "data")
    assert bare.returncode == 0, bare.stderr
    assert "model.keras  " not in bare.stdout
    for name in ("quick", "bare"):
        made = trainer(folder, "export", name, "--format", "keras", "--data", "data", "--output", f"{name}.keras")
        assert made.returncode == 0, made.stderr
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


def test_the_next_session_finds_the_features(first, folder: Path) -> None:
    again = trainer(folder, "run", "quick.yaml", "--data", "data")
    assert again.returncode == 0, again.stderr
    accuracy = re.compile(r"Accuracy (\d\.\d{4})")
    assert accuracy.search(again.stdout)[1] == accuracy.search(first.stdout)[1]
    assert "images are stored: no image is read and no base model built" in again.stdout


def test_a_session_that_cannot_work_ends_with_its_sentence_and_without_a_traceback(folder: Path) -> None:
    bad = {**QUICK, "spec": {**QUICK["spec"], "training": {"epochs": 0}}}
    (folder / "bad.yaml").write_text(yaml.safe_dump(bad), "utf-8")
    done = trainer(folder, "run", "bad.yaml", "--data", "data")
    assert done.returncode == 64
    assert done.stderr.strip() == "spec.training.epochs is 0; it must be at least 1 and at most 10000."
