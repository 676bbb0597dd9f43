"""Own Python in a real restricted pod: from a git server in the cluster, confined, judged by its predictions."""

from __future__ import annotations

import base64

import pytest

import git_server

HEAD = """
import os, pathlib

import keras


def build(task):
    for place in ("/etc/trainingsession/mongodb/uri", f"/proc/{os.getppid()}/mem"):
        try:
            with open(place, "rb") as file:
                file.read(1)
        except OSError as error:
            print(place.split("/")[-1], type(error).__name__)
        else:
            print(place.split("/")[-1], "can be read")
    try:
        # Landlock leaves this open; it is to hold no secret.
        trainer = pathlib.Path(f"/proc/{os.getppid()}/environ").read_bytes()
    except OSError:
        trainer = b""
    found = [name for name, value in os.environ.items() if "mongodb:" in value or name.startswith("TRAININGSESSION")]
    print("environments", sorted(found), b"mongodb:" in trainer)
    features = keras.Input(task.train.inputs.shape[1:])
    flow = keras.layers.Dense(64, activation="relu")(keras.layers.Flatten()(features))
    model = keras.Model(features, keras.layers.Dense(len(task.class_names), activation="softmax")(flow))
    model.compile("adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model
"""

# A pod serves the repository, because not every cluster reaches this machine. The image has no git, but the library.
SERVER = """
import tarfile
from wsgiref.simple_server import make_server

from dulwich.repo import Repo
from dulwich.server import DictBackend, UploadPackHandler
from dulwich.web import make_wsgi_chain


class UploadPack(UploadPackHandler):
    @classmethod
    def required_capabilities(cls):
        return []  # the trainer takes no thin packs, which git's own server does not ask for either


with tarfile.open("/repository/heads.tar.gz") as archive:
    archive.extractall("/tmp/heads")
backend = DictBackend({"/heads": Repo("/tmp/heads")})
make_server("0.0.0.0", 8080, make_wsgi_chain(backend, handlers={b"git-upload-pack": UploadPack})).serve_forever()
"""


@pytest.fixture(scope="module")
def repository(stack, tmp_path_factory):
    """A namespace with a git server, and the commit that it has."""
    where = tmp_path_factory.mktemp("git") / "heads"
    revision = git_server.commit(where, {"heads/__init__.py": "", "heads/spy.py": HEAD})
    name = stack.namespace("e2e-module")
    (operator,) = stack.get("deployment", "-n", "trainingsession")["items"]
    environment = operator["spec"]["template"]["spec"]["containers"][0]["env"]
    (trainer,) = [variable["value"] for variable in environment if variable["name"] == "TRAINER_IMAGE"]
    labels = {"app": "git"}
    restricted = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    stack.apply(
        {
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "git"}, "data": {"serve.py": SERVER},
            "binaryData": {"heads.tar.gz": base64.b64encode(git_server.packed(where)).decode("ascii")},
        },
        {
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "git"},
            "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": 8080}]},
        },
        {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "git", "labels": labels},
            "spec": {
                "automountServiceAccountToken": False,
                "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [
                    {
                        "name": "git", "image": trainer, "imagePullPolicy": "IfNotPresent",
                        "command": ["python", "/repository/serve.py"], "securityContext": restricted,
                        "volumeMounts": [{"name": "repository", "mountPath": "/repository"}],
                        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
                    }
                ],
                "volumes": [{"name": "repository", "configMap": {"name": "git"}}],
            },
        },
        namespace=name,
    )  # fmt: skip
    stack.kubectl("wait", "-n", name, "pod/git", "--for=condition=Ready", "--timeout=120s")
    yield name, revision
    stack.delete_namespace(name)


def test_a_module_from_git_is_trained_confined_and_its_accuracy_is_shown(stack, repository, digits):
    namespace, revision = repository
    git = {"url": "http://git/heads", "revision": revision, "entryPoint": "heads.spy:build"}
    small = {"name": "MobileNet", "arguments": {"alpha": 0.25}, "weights": "none", "inputSize": [32, 32]}
    session = digits("spy", dataset={"subset": 0.3}, baseModel=small, module={"git": git})
    session["spec"].pop("head", None)
    session["spec"]["training"] = {"epochs": 5, "batchSize": 32, "seed": 1}
    stack.apply(session, namespace=namespace)
    done = stack.wait_finished(namespace, "spy", 300)
    log = stack.kubectl("logs", "-n", namespace, f"job/{done['status']['jobName']}")
    assert done["status"]["phase"] == "Succeeded", log
    assert 0.1 < float(done["status"]["accuracy"]) <= 1
    assert "Landlock keeps the module's process from the session's credentials" in log
    told = [line.split("module | ")[1] for line in log.splitlines() if "module | " in line]
    wanted = ["uri PermissionError", "mem PermissionError", "environments [] False"]
    assert [line for line in told if line.split()[0] in ("uri", "mem", "environments")] == wanted
