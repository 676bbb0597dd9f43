"""A finished session with its model in every form, and the environment that the example service is installed into."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainingsession_trainer.config import parse_session
from trainingsession_trainer.mongodb import connect
from trainingsession_trainer.records import Result, SessionRecord, create_record
from trainingsession_trainer.reporting import Reporter
from trainingsession_trainer.spec import Head

CLASSES = ["cat", "dög", "bird"]


@pytest.fixture(scope="session")
def examples(repo: Path) -> Path:
    return repo / "examples"


@pytest.fixture(scope="package")
def forms(tmp_path_factory) -> Path:
    """Folder with model.keras, class_names.json, saved_model.tar and model.onnx of one network with random weights."""
    from trainingsession_trainer.artifacts import complete_model, write_models
    from trainingsession_trainer.base_models import open_base_model
    from trainingsession_trainer.head import Standardization, build_head

    folder = tmp_path_factory.mktemp("forms")
    base = {"name": "MobileNet", "weights": "none", "inputSize": [32, 32], "arguments": {"alpha": 0.25}}
    document = {
        "apiVersion": "trainingsession.dev/v1alpha1", "kind": "TrainingSession",
        "metadata": {"namespace": "team-a", "name": "pets", "uid": "pets"},
        "spec": {"dataset": {"name": "digits"}, "baseModel": base},
    }  # fmt: skip
    spec = parse_session(document).spec
    opened = open_base_model(spec.base_model, folder, Reporter(io.StringIO()), lambda: False)
    channels = opened.feature_shape[-1]
    measured = Standardization(np.full(channels, 0.1), np.full(channels, 0.01))
    head = build_head(Head(), opened.feature_shape, len(CLASSES), measured)
    model = complete_model(opened.for_images(None).pixels_model(), head)
    write_models(folder, lambda: model, CLASSES, ["keras", "savedModel", "onnx"], print)
    (folder / "class_names.json").write_text(json.dumps(CLASSES), "utf-8")
    return folder


@pytest.fixture(scope="package")
def picture(tmp_path_factory) -> Path:
    """A smooth picture of 50 x 40 pixels."""
    small = np.random.default_rng(3).uniform(0, 255, (4, 5, 3)).astype(np.uint8)
    path = tmp_path_factory.mktemp("pictures") / "picture.png"
    Image.fromarray(small).resize((50, 40), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture(scope="package")
def keras_says(forms, picture) -> tuple[str, float]:
    """Class and probability of the picture, by Keras."""
    import keras

    model = keras.saving.load_model(forms / "model.keras", compile=False)
    pixels = np.asarray(Image.open(picture), np.float32)[np.newaxis]
    (probabilities,) = model.predict(pixels, verbose=0)
    best = int(probabilities.argmax())
    return CLASSES[best], float(probabilities[best])


@pytest.fixture(scope="package")
def published(mongod, forms, tmp_path_factory) -> Iterator[Callable[..., SimpleNamespace]]:
    """Publishes sessions with some of the files; gives name, database and the folder that a pod mounts."""
    from trainingsession_trainer.artifacts import publish, upload

    database = connect(mongod.uri, f"examples_{uuid.uuid4().hex[:12]}")

    def make(name: str, *files: str) -> SimpleNamespace:
        document: Any = {
            "apiVersion": "trainingsession.dev/v1alpha1", "kind": "TrainingSession",
            "metadata": {"namespace": "team-a", "name": name, "uid": uuid.uuid4().hex},
            "spec": {"dataset": {"name": "digits"}, "baseModel": {"name": "MobileNet"}},
        }  # fmt: skip
        session = parse_session(document)
        create_record(database, session.uid, "team-a", name)
        record = SessionRecord(database, session.uid, "attempt")
        record.claim({})
        publish(database, record, Result(0.9, {}, upload(database, session, [forms / file for file in files])))
        folder = tmp_path_factory.mktemp("mongodb")
        (folder / "uri").write_text(mongod.uri + "\n", "utf-8")
        (folder / "database").write_text(database.name, "utf-8")
        return SimpleNamespace(name=name, database=database, folder=folder)

    yield make
    database.client.drop_database(database.name)
    database.client.close()


@pytest.fixture(scope="package")
def service_python(repo: Path, examples: Path, tmp_path_factory) -> Path:
    """Python of an environment with the service's own requirements and nothing else: no TensorFlow."""
    (version,) = re.findall(r"^uv==([\d.]+)", (repo / "requirements/uv.txt").read_text(), re.MULTILINE)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    uv = cache / "trainingsession" / f"uv-{version}" / "bin" / "uv"
    environment = tmp_path_factory.mktemp("service") / "venv"
    requirements = examples / "serve/requirements.txt"
    for command in (
        [uv, "venv", "--quiet", "--python", sys.executable, environment],
        [uv, "pip", "sync", "--quiet", "--python", environment, "--require-hashes", requirements],
    ):
        subprocess.run(command, check=True, env={**os.environ, "UV_SYSTEM_CERTS": "1"})
    return environment / "bin/python"
