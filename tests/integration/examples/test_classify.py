"""The commands of docs/use-the-model.md that classify a picture, as they stand there: all forms say the same."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import subprocess
import sys

import pytest

from trainingsession_trainer.__main__ import command_line


def lines(repo, first):
    text = (repo / "docs/use-the-model.md").read_text().replace("\\\n", " ")
    return [shlex.split(line) for line in text.splitlines() if line.startswith(f"    {first} ")]


@pytest.fixture
def command(repo, forms, picture, tmp_path, monkeypatch):
    """Arguments of the document's command for a script, in a folder that has all the files that it names."""
    shutil.copytree(forms, tmp_path, dirs_exist_ok=True)
    shutil.copy(picture, tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)

    def find(script: str) -> list[str]:
        (found,) = [line for line in lines(repo, "python") if line[1] == f"examples/{script}"]
        return [str(repo / found[1]), *found[2:]]

    return find


def says(text: str, keras_says) -> None:
    file, name, probability = text.split()
    assert (file, name) == ("picture.png", keras_says[0])
    assert float(probability) == pytest.approx(keras_says[1], abs=2e-4)


@pytest.mark.parametrize("script", ["classify_keras.py", "classify_saved_model.py"])
def test_a_command_of_the_document_classifies_as_keras_does(command, keras_says, capsys, monkeypatch, script) -> None:
    # In this process, which has loaded TensorFlow.
    monkeypatch.setattr(sys, "argv", command(script))
    runpy.run_path(sys.argv[0], run_name="__main__")
    says(capsys.readouterr().out, keras_says)


def test_onnx_runtime_classifies_as_keras_does_where_there_is_no_tensorflow(
    command, keras_says, service_python
) -> None:
    done = subprocess.run([service_python, *command("classify_onnx.py")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    says(done.stdout, keras_says)


def test_every_example_is_in_the_document(repo):
    named = {line[1] for line in lines(repo, "python")}
    assert named == {f"examples/{path.name}" for path in (repo / "examples").glob("*.py")}


def test_the_trainers_commands_of_the_document_are_ones_that_it_takes(repo):
    commands = lines(repo, "trainingsession-trainer")
    assert {command[1] for command in commands} >= {"download", "export"}
    for command in commands:
        assert command_line().parse_args(command[1:]).action


def test_the_documents_say_where_the_requirements_of_the_examples_are(repo):
    text = (repo / "docs/use-the-model.md").read_text()
    for path in re.findall(r"--requirement (\S+)", text):
        assert (repo / path).is_file()
