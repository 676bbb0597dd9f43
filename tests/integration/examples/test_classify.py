"""The commands of docs/use-the-model.md that classify a picture, as they stand there: all forms say the same."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from trainingsession_trainer.__main__ import command_line
from trainingsession_trainer.datasets.images import decode


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


SMOOTH = Image.linear_gradient("L").resize((6, 4))
SIDEWAYS = Image.Exif()
SIDEWAYS[0x0112] = 6
PICTURES = {
    "transparent.png": (Image.merge("RGBA", (SMOOTH,) * 4), {}),
    "grey on glass.png": (Image.merge("LA", (SMOOTH, SMOOTH)), {}),
    "one colour is glass.png": (SMOOTH, {"transparency": SMOOTH.getpixel((3, 2))}),
    "sideways.jpg": (Image.merge("RGB", (SMOOTH,) * 3), {"exif": SIDEWAYS}),
    "odd exif.jpg": (Image.merge("RGB", (SMOOTH,) * 3), {"exif": b"Exif\0\0II*\0nothing"}),
    "16 bits.png": (Image.fromarray(np.linspace(0, 65535, 24).astype(np.uint16).reshape(4, 6)), {}),
    "printed.jpg": (Image.merge("CMYK", (SMOOTH,) * 4), {}),
}


@pytest.mark.parametrize("script", ["classify_keras.py", "classify_onnx.py", "classify_saved_model.py"])
def test_a_script_gives_the_model_the_pixels_that_it_was_trained_on(examples, tmp_path, script) -> None:
    read = runpy.run_path(str(examples / script))["rgb"]
    for name, (image, settings) in PICTURES.items():
        image.save(tmp_path / name, **settings)
        found, wanted = read(str(tmp_path / name)), decode(tmp_path / name, name)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, wanted, err_msg=name)


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
