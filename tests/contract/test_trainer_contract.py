"""What the operator gives the trainer, and what the trainer leaves for the operator: both sides' own code, together."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st
from pymongo import MongoClient

import builders
from builders import JOB, NOW, job, running, session, settings
from forward_proxy import Authority
from trainingsession_operator import decide, ends, jobs, outlook, plan, record_view, records, tenants, trainer_pod
from trainingsession_operator.observed import Observed
from trainingsession_operator.resource import parse_session
from trainingsession_trainer import __main__ as trainer
from trainingsession_trainer import authorities as trainer_authorities
from trainingsession_trainer import config, errors, spec, weights_mirror
from trainingsession_trainer import records as trainer_records
from trainingsession_trainer.datasets import mirror, object_store, order
from trainingsession_trainer.modules import requirements

PATIENT = {errors.StorageError, errors.Stopped, trainer_records.Replaced}


@pytest.fixture(scope="module")
def pod() -> dict[str, Any]:
    claims = {"uri": "file:///flowers.tar.gz", "claimName": "flowers", "name": None}
    weights = {"weightsFrom": {"uri": "file:///w.weights.h5", "claimName": "weights"}}
    made = jobs.build_job(session(dataset=claims, baseModel=weights), settings())
    spec: dict[str, Any] = made["spec"]["template"]["spec"]
    return spec


def mounted(pod: dict[str, Any], path: Path) -> dict[str, Any]:
    """The volume that is mounted exactly there."""
    (container,) = pod["containers"]
    (name,) = (mount["name"] for mount in container["volumeMounts"] if mount["mountPath"] == str(path))
    (volume,) = (volume for volume in pod["volumes"] if volume["name"] == name)
    return dict(volume)


def test_the_session_is_where_the_trainer_reads_it(pod):
    options = trainer.command_line().parse_args([])
    volume = mounted(pod, options.session.parent)
    files = {item["path"] for item in volume["downwardAPI"]["items"]}
    read = inspect.getsource(trainer.run_job)
    for name in files - {options.session.name, "memory-limit"}:
        assert f'"{name}"' in read, f"{name} is mounted, and the trainer reads it"
    assert options.session.name in files


def test_the_secrets_files_are_those_that_the_trainer_reads(pod):
    options = trainer.command_line().parse_args([])
    secret = mounted(pod, options.mongodb)["secret"]
    assert secret["secretName"] == trainer_pod.TENANT_SECRET
    names = [item["path"] for item in secret["items"]]
    assert [item["key"] for item in secret["items"]] == names
    for name in names:
        assert f'options.mongodb / "{name}"' in inspect.getsource(trainer.run_job)


def test_the_work_folder_is_the_one_that_can_be_written(pod):
    options = trainer.command_line().parse_args([])
    assert "emptyDir" in mounted(pod, options.work)
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    environment = {item["name"]: item["value"] for item in container["env"]}
    assert Path(environment["HOME"]).is_relative_to(options.work)
    assert Path(environment["KERAS_HOME"]).is_relative_to(options.work)
    # Other mounts are read only.
    assert [m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")] == [str(options.work)]


def test_the_claims_are_where_the_trainer_looks_for_them(pod, repo):
    source = "".join(path.read_text() for path in (repo / "trainer/src/trainingsession_trainer").rglob("*.py"))
    for folder, claim in ((trainer_pod.DATASET_FOLDER, "flowers"), (trainer_pod.WEIGHTS_FOLDER, "weights")):
        found = mounted(pod, Path(folder))["persistentVolumeClaim"]
        assert found == {"claimName": claim, "readOnly": True}
        assert f'"{folder}"' in source


def test_the_command_is_the_trainers_module(pod):
    (container,) = pod["containers"]
    assert container["command"] == ["python", "-m", "trainingsession_trainer"]
    assert "args" not in container
    assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"
    assert container.get("terminationMessagePath", "/dev/termination-log") == str(trainer.TERMINATION_LOG)


@pytest.mark.parametrize("step", [plan.STORED, plan.EXTRACT, plan.WHOLE, plan.HEAD, plan.AGAIN])
def test_the_arguments_of_every_step_are_ones_that_the_trainer_takes(step):
    made = jobs.build_job(session(), settings(), step)
    (container,) = made["spec"]["template"]["spec"]["containers"]
    assert trainer.command_line().parse_args(container.get("args", [])).task == step.task


@settings_of_hypothesis(max_examples=300)
@given(
    st.integers(1, 20_000_000),
    st.decimals("0.00001", 1, places=5) | st.sampled_from([Decimal("0.1"), Decimal("1e-17")]),
)
def test_both_sides_count_the_images_of_a_subset_alike(images, subset):
    assert plan.needed(images, subset) == order.prefix(images, subset)


@pytest.mark.parametrize("text", ["0.1", "1", "1.0", "0.07", "1e-3", "0.30000000000000004"])
def test_both_sides_read_the_same_subset(tmp_path, text):
    given_ = session(dataset={"subset": json.loads(text)})
    file = tmp_path / "session.json"
    file.write_text(jobs.session_json(given_), "utf-8")
    read = config.parse_session(config.read_document(file)).spec.dataset.subset
    assert read == given_.subset == given_.test_subset
    assert all(plan.needed(n, given_.subset) == order.prefix(n, read) for n in (1, 10, 30, 100, 49_999))


def test_environment_variables_are_ones_that_somebody_reads(pod, repo):
    # The last two are for the container runtime and CUDA.
    known = {"HOME", "KERAS_HOME", "TF_CPP_MIN_LOG_LEVEL", "TF_FORCE_GPU_ALLOW_GROWTH", "CUDA_VISIBLE_DEVICES",
             "NVIDIA_VISIBLE_DEVICES"}  # fmt: skip
    source = "".join(path.read_text() for path in (repo / "trainer/src/trainingsession_trainer").rglob("*.py"))
    (container,) = pod["containers"]
    for name in {item["name"] for item in container["env"]} - known:
        assert f'"{name}"' in source, f"{name} is set and read by nobody"


def test_mirrors_reach_the_trainer_by_the_names_that_it_reads():
    set_ = settings(DATASETS_MIRROR="https://mirror/data", WEIGHTS_MIRROR="https://mirror/keras")
    (container,) = jobs.build_job(session(), set_)["spec"]["template"]["spec"]["containers"]
    given = {item["name"]: item["value"] for item in container["env"]}
    assert given[mirror.DATASETS_VARIABLE] == "https://mirror/data"
    assert given[weights_mirror.WEIGHTS_VARIABLE] == "https://mirror/keras"
    (container,) = jobs.build_job(session(), settings())["spec"]["template"]["spec"]["containers"]
    assert not {item["name"] for item in container["env"]} & {trainer_pod.DATASETS_MIRROR, trainer_pod.WEIGHTS_MIRROR}


def test_authorities_account_and_index_are_found_where_the_operator_puts_them(tmp_path):
    asked = session(scheduling={"serviceAccountName": "reader"})
    configured = settings(
        CA_BUNDLE_FILE=str(Authority(tmp_path).certificate), PACKAGE_INDEX="https://mirror.example.com/simple"
    )
    found = jobs.build_job(asked, configured)["spec"]["template"]["spec"]
    volume = mounted(found, trainer.SESSION_FILE.parent)
    assert trainer_authorities.BUNDLE in {item["path"] for item in volume["downwardAPI"]["items"]}
    environment = {item["name"]: item["value"] for item in found["containers"][0]["env"]}
    assert environment[object_store.SERVICE_ACCOUNT] == "reader"
    assert environment[requirements.INDEX] == "https://mirror.example.com/simple"


def test_the_cpu_limit_in_thousandths_sizes_the_trainers_threads(pod, tmp_path, monkeypatch):
    volume = mounted(pod, trainer.SESSION_FILE.parent)
    (limit,) = (item["resourceFieldRef"] for item in volume["downwardAPI"]["items"] if item["path"] == "cpu-limit")
    assert limit == {"containerName": "trainer", "resource": "limits.cpu", "divisor": "1m"}
    file = tmp_path / "cpu-limit"
    file.write_text("1500")
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "9")
    trainer.limit_threads(trainer.read_limit(file))
    assert os.environ["TF_NUM_INTRAOP_THREADS"] == "2"


def test_the_trainer_reads_the_session_that_the_operator_writes(tmp_path):
    given = session(
        dataset={"subset": 0.1},
        head={"layers": [{"type": "Dense", "config": {"units": 3, "name": "ünïcode $(HOME)"}}]},
        scheduling={"nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}], "priorityClassName": "low"},
    )
    file = tmp_path / "session.json"
    file.write_text(jobs.session_json(given), "utf-8")
    read = config.parse_session(config.read_document(file))
    assert (read.namespace, read.name, read.uid) == (given.namespace, given.name, given.uid)
    assert str(read.spec.dataset.subset) == "0.1"
    assert read.spec.head.layers[0].config["name"] == "ünïcode $(HOME)"
    assert read.spec.resources.gpus == given.resources.gpus


def test_every_exit_code_of_the_trainer_has_one_meaning():
    classes = {c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.TrainerError)}
    codes = {c: c.exit_code for c in classes - {errors.TrainerError}}
    patient = {code for c, code in codes.items() if c in PATIENT}
    assert patient == set(jobs.PATIENT_EXIT_CODES)
    assert set(codes.values()) - patient == set(jobs.FATAL_EXIT_CODES) == set(ends.EXIT_REASONS)
    assert errors.TrainerError.exit_code == 1, "what has no class of its own is a bug and counts as a failed attempt"


def test_names_and_versions_are_the_same_on_both_sides():
    assert records.COLLECTION == trainer_records.COLLECTION
    assert records.RECORD_VERSION == trainer_records.RECORD_VERSION
    assert builders.API_VERSION == spec.API_VERSION
    assert builders.KIND == spec.KIND
    assert spec.Training.__dataclass_fields__["epochs"].default == outlook.DEFAULT_EPOCHS


@pytest.mark.parametrize(
    ("part", "mine", "theirs"),
    [
        (field, getattr(session().resources.__class__(), field), getattr(spec.Resources(), field))
        for field in (
            "gpus",
            "gpu_resource_name",
            "gpu_when_cached",
            "gpu_for_head",
            "workers",
            "cpu",
            "memory",
            "ephemeral_storage",
        )
    ]
    + [("backoff_limit", session().run_policy.__class__().backoff_limit, spec.RunPolicy().backoff_limit)],
)
def test_both_sides_have_the_same_default_of(part, mine, theirs):
    assert mine == theirs, part


class InOneDatabase:
    """Stands for the cluster in Records: a namespace that is there and a Secret that is remembered, nothing else."""

    def __init__(self) -> None:
        self.values: dict[str, str] | None = None

    def namespace_uid(self, namespace: str) -> str:
        return f"uid-of-{namespace}"

    def secret(self, namespace: str, name: str) -> dict[str, str] | None:
        return self.values

    def write_secret(self, namespace: str, name: str, values: dict[str, str], *, exists: bool) -> None:
        self.values = dict(values)


def test_a_record_that_the_trainer_writes_is_what_the_operator_shows(mongod):
    given = parse_session(builders.resource(uid=str(uuid.uuid4())))
    cluster = InOneDatabase()
    store = records.Records(tenants.Server(mongod.uri, managed_users=False), cluster)
    store.prepare(given)
    # The trainer's way in: only what the Secret says.
    tenant: MongoClient[dict[str, Any]] = MongoClient(mongod.uri)
    mine = trainer_records.SessionRecord(tenant[cluster.values["database"]], given.uid, "pod-1")

    def shown(*conditions: tuple[str, str, str]) -> dict[str, Any]:
        observed = Observed(job(*conditions, active=0 if conditions else 1), (running(),), (), store.prepare(given))
        before = parse_session({**builders.resource({"jobName": JOB}, uid=given.uid)})
        return decide.decide(before, observed, NOW).status

    image = {"image": "example.org/trainer:1", "versions": {"trainer": "0.1.0", "keras": "3.1.0"}}
    assert mine.claim(image)
    assert (shown()["phase"], shown()["trainer"]) == ("Extracting", image)

    mine.progress("Extracting", {"percent": 40, "remainingSeconds": 12, "imagesPerSecond": 100.5})
    assert shown()["progress"] == {
        "epochs": 20, "percent": 40, "remainingSeconds": 12, "imagesPerSecond": "100.5000",
    }  # fmt: skip
    warning = trainer_records.SessionWarning("LabelsDisagree", "2 images are in more than one class for $5.")
    counts = {"train": 10, "validation": 2, "test": 3}
    mine.describe(counts, {"key": "k", "shards": 1, "reused": 5, "computed": 10}, [warning])
    mine.progress("Training", {"epoch": 3, "epochs": 20, "percent": 15, "remainingSeconds": 9, "loss": 0.5})
    status = shown()
    assert status["phase"] == "Training"
    assert status["progress"] == {
        "epoch": 3, "epochs": 20, "summary": "3/20", "percent": 15, "remainingSeconds": 9, "loss": "0.5000",
    }  # fmt: skip
    assert status["samples"] == {"train": 10, "validation": 2, "test": 3}
    assert status["features"] == {"key": "k", "shards": 1, "reused": 5, "computed": 10}
    assert status["warnings"] == [dataclasses.asdict(warning)]

    mine.fail(75, "Stopped.")
    assert record_view.failure(store.prepare(given), "pod-1") == record_view.Failure(75, "Stopped.", None)

    artifact = trainer_records.Artifact("model.keras", "a" * 24, 123, "b" * 64)
    mine.repeated({"binding": "b", "accuracies": [0.9]})
    short = dict.fromkeys(record_view.EVALUATION, 0.5)
    many = {"n": 2, "meanAccuracy": 0.93, "deviation": 0.04, "accuracies": [0.9625, 0.9]}
    mine.publish(trainer_records.Result(0.9625, {"loss": 0.25}, (artifact,), short, 0.97, many))
    status = shown(("Complete", "Done", ""))
    assert (status["phase"], status["accuracy"]) == ("Succeeded", "0.9625")
    assert status["metrics"] == [{"name": "loss", "value": "0.2500"}]
    assert status["artifacts"] == [dataclasses.asdict(artifact)]
    assert status["validationAccuracy"] == "0.9700"
    assert status["evaluation"] == dict.fromkeys(record_view.EVALUATION, "0.5000")
    assert status["repeats"]["accuracies"] == ["0.9625", "0.9000"]
    tenant.close()
    store.close()
