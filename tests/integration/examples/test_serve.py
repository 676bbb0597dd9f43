"""The example service as a pod runs it: a process, the Secret's files, a real MongoDB, pictures over HTTP."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from bson import ObjectId
from PIL import Image

from real_mongod import free_port
from session_server.images import decode
from session_server.model import forms, load_model
from session_server.store import fetch_artifacts


class Service:
    """One process of the service; `log` is what it said before it listened, or all of it."""

    def __init__(self, examples: Path, python: Path | str, folder: Path, session: str, **settings: str) -> None:
        self.port = free_port()
        environment = {
            **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            "PYTHONPATH": str(examples / "serve"), "HOST": "127.0.0.1", "PORT": str(self.port),
            "MONGODB_FOLDER": str(folder), "SESSION": session, "TF_CPP_MIN_LOG_LEVEL": "2", **settings,
        }  # fmt: skip
        command = [python, "-m", "session_server"]
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr
        self.log = ""
        for line in self.process.stderr:
            self.log += line
            if "Uvicorn running on" in line:
                break

    def ask(self, method: str, path: str, body=None, **headers: str) -> tuple[int, dict]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def classify(self, body) -> tuple[int, dict]:
        return self.ask("POST", "/classify", body)

    def end(self) -> int:
        self.process.terminate()
        self.process.communicate(timeout=60)
        return self.process.returncode


@pytest.fixture(scope="module")
def everything(published):
    return published("pets", "class_names.json", "model.keras", "saved_model.tar", "model.onnx")


@pytest.fixture(scope="module")
def service(examples, service_python, everything):
    made = Service(examples, service_python, everything.folder, "pets", MOST_PIXELS="1000000", MOST_BYTES="100000")
    assert made.process.poll() is None, made.log
    yield made
    made.end()


def test_the_lightest_form_is_served_and_says_what_keras_says(service, picture, keras_says) -> None:
    assert "Serving model.onnx of session pets: 3 classes" in service.log
    assert service.ask("GET", "/healthz") == (200, {"session": "pets"})
    status, answer = service.classify(picture.read_bytes())
    assert (status, answer["session"], answer["name"]) == (200, "pets", keras_says[0])
    assert answer["probability"] == pytest.approx(keras_says[1], abs=1e-4)
    assert [found["probability"] for found in answer["best"]] == sorted(
        (found["probability"] for found in answer["best"]), reverse=True
    )
    assert sum(found["probability"] for found in answer["best"]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("files", [("model.keras", "class_names.json"), ("saved_model.tar",)], ids=["keras", "saved"])
def test_other_forms_are_served_where_tensorflow_is_installed(
    mongod, published, picture, keras_says, files, tmp_path
) -> None:
    session = published(files[0], *files)
    form = fetch_artifacts(mongod.uri, session.database.name, session.name, forms(), tmp_path)
    assert form == files
    model = load_model(tmp_path, form, threads=1)
    probabilities = model.classify(decode(picture.read_bytes(), 1_000_000))
    assert model.class_names[int(probabilities.argmax())] == keras_says[0]
    assert float(probabilities.max()) == pytest.approx(keras_says[1], abs=1e-4)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def rotated(image: Image.Image) -> bytes:
    """A JPEG that says that it lies on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)


def with_alpha(image: Image.Image) -> bytes:
    opaque = image.convert("RGBA")
    opaque.putalpha(255)
    return encoded(opaque)


@pytest.mark.parametrize("form", [rotated, with_alpha], ids=["turned by EXIF", "with transparency"])
def test_a_picture_is_brought_to_rgb_and_upright_before_it_is_classified(service, picture, keras_says, form) -> None:
    status, answer = service.classify(form(Image.open(picture)))
    assert (status, answer["name"]) == (200, keras_says[0])
    assert answer["probability"] == pytest.approx(keras_says[1], abs=1e-4)


def bomb() -> bytes:
    """A PNG of some kilobytes with 100 million pixels."""
    return encoded(Image.new("1", (10_000, 10_000)))


def cut(picture: Path) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (50, 50, 3), np.uint8)
    return encoded(Image.fromarray(noise))[:2000]


def postscript() -> bytes:
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/etc/passwd) (r) file\n"


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        (lambda picture: b"x" * 100_001, 413, "The body is larger than 100,000 bytes; send a smaller picture."),
        (lambda picture: iter([b"x" * 60_000] * 2), 413, "The body is larger than 100,000 bytes"),
        (lambda picture: bomb(), 413, "The picture has 10000 x 10000 pixels; send one of at most 1,000,000."),
        (lambda picture: b"hello", 415, "The body is no JPEG, PNG, BMP, GIF or WebP picture"),
        (lambda picture: b"", 415, "The body is no JPEG, PNG, BMP, GIF or WebP picture"),
        (lambda picture: postscript(), 415, "The body is no JPEG, PNG, BMP, GIF or WebP picture"),
        (cut, 422, "The picture cannot be read ("),
    ],
    ids=["too long", "too long and undeclared", "bomb", "text", "nothing", "PostScript", "cut off"],
)
def test_what_is_no_picture_is_refused_with_a_sentence(service, picture, body, status: int, sentence: str) -> None:
    assert len(bomb()) < 100_000
    found, answer = service.classify(body(picture))
    assert found == status
    assert answer["error"].startswith(sentence)
    assert service.ask("GET", "/healthz")[0] == 200


def test_it_ends_in_order(examples, service_python, everything) -> None:
    made = Service(examples, service_python, everything.folder, "pets")
    assert made.end() == 0


def damage(session) -> None:
    """Change one byte of the model in GridFS, in a session whose name tells it from the others."""
    record = session.database["sessions"].find_one({"name": session.name})
    file = next(item["id"] for item in record["result"]["artifacts"] if item["name"] == "model.onnx")
    chunk = session.database["artifacts.chunks"].find_one({"files_id": ObjectId(file), "n": 0})
    data = bytearray(chunk["data"])
    data[len(data) // 2] ^= 1
    session.database["artifacts.chunks"].update_one({"_id": chunk["_id"]}, {"$set": {"data": bytes(data)}})


def test_what_cannot_be_served_is_said_in_a_sentence(examples, service_python, published, tmp_path) -> None:
    damaged, plain = published("damaged", "model.onnx"), published("plain", "model.keras", "class_names.json")
    damage(damaged)

    def said(folder: Path, session: str, **settings: str) -> str:
        made = Service(examples, service_python, folder, session, **settings)
        assert made.process.wait(60) == 1
        assert made.log.count("\n") == 1, made.log
        return made.log

    assert "its SHA-256 is not the published one; train again" in said(damaged.folder, "damaged")
    assert "There is no finished session pet in the database; look at `kubectl get ts`." in said(plain.folder, "pet")
    assert "has none of model.onnx, which this image can serve; it has class_names.json, model.keras. List onnx in" in (
        said(plain.folder, "plain")
    )
    assert "mount the Secret trainingsession-mongodb there" in said(tmp_path, "plain")
    assert "MOST_BYTES is '10M'; it must be a whole number above 0." in said(plain.folder, "plain", MOST_BYTES="10M")
    assert "SESSION is not set" in said(plain.folder, "")


def test_the_service_is_installed_with_the_versions_that_the_tests_run_with(repo, examples) -> None:
    def pins(path: Path) -> set[str]:
        return {line.split(" ")[0] for line in path.read_text().splitlines() if "==" in line and line[0].isalpha()}

    tested = pins(repo / "requirements/development.txt")
    for name in ("requirements.txt", "requirements-keras.txt"):
        found = pins(examples / "serve" / name)
        assert found
        assert found <= tested
