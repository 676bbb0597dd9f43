"""The spec as the trainer reads it: what is accepted, and the sentence for what is not."""

from __future__ import annotations

import copy
import json
from decimal import Decimal
from pathlib import Path

import pytest

from trainingsession_trainer.config import parse_session, parse_spec, read_document
from trainingsession_trainer.errors import SpecError
from trainingsession_trainer.spec import FileSource
from trainingsession_trainer.yaml12 import load_all

DIGITS = {"dataset": {"name": "digits"}, "baseModel": {"name": "ResNet50"}}


def spec(**changes):
    """A valid spec with dotted fields changed; None removes a field."""
    document = copy.deepcopy(DIGITS)
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = document
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return document


def test_defaults_are_those_of_the_schema(repo: Path) -> None:
    schema = load_all((repo / "manifests/crd/trainingsessions.yaml").read_text("utf-8"))[0]
    properties = schema["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    parsed = parse_spec(DIGITS)
    training = properties["training"]["properties"]
    assert parsed.training.batch_size == training["batchSize"]["default"]
    assert parsed.training.epochs == training["epochs"]["default"]
    assert parsed.training.seed == training["seed"]["default"]
    assert parsed.training.restore_best is training["restoreBest"]["default"]
    assert parsed.training.loss.name == training["loss"]["properties"]["name"]["default"]
    assert parsed.training.optimizer.name == training["optimizer"]["properties"]["name"]["default"]
    assert parsed.dataset.subset == properties["dataset"]["properties"]["subset"]["default"]
    assert parsed.dataset.validation_split == Decimal(
        str(properties["dataset"]["properties"]["validationSplit"]["default"])
    )
    assert parsed.base_model.precision == properties["baseModel"]["properties"]["precision"]["default"]
    assert parsed.head.standardize is properties["head"]["properties"]["standardize"]["default"]


def test_weights_are_imagenet_where_nothing_is_said() -> None:
    assert parse_spec(DIGITS).base_model.weights == "imagenet"
    from_file = parse_spec(spec(baseModel__weightsFrom={"uri": "file:///w.h5", "claimName": "c"}))
    assert from_file.base_model.weights is None
    assert from_file.base_model.weights_from == FileSource("file:///w.h5", "c", None)


def test_the_test_subset_follows_the_subset_unless_it_is_set() -> None:
    assert parse_spec(spec(dataset__subset=0.1)).dataset.test_subset == Decimal("0.1")
    assert parse_spec(spec(dataset__subset=0.1, dataset__testSubset=1)).dataset.test_subset == 1


def test_a_fraction_is_the_decimal_that_was_written() -> None:
    assert parse_spec(spec(dataset__subset=0.07)).dataset.subset == Decimal("0.07")


def test_a_null_is_a_field_that_is_not_set() -> None:
    assert parse_spec(spec(dataset__subset=None, head=None)).dataset.subset == 1


GIT = {"url": "https://example.org/heads.git", "revision": "a" * 40, "entryPoint": "heads.mixup:build"}

BAD = {
    "module of two kinds": (
        spec(module={"git": GIT, "image": {"name": f"example.org/x@sha256:{'a' * 64}", "entryPoint": "x:y"}}),
        "spec.module has both of git and image; set exactly one.",
    ),
    "module of no kind": (spec(module={}), "spec.module has neither of git and image; set exactly one."),
    "module and layers": (
        spec(module={"git": GIT}, head={"layers": [{"type": "Flatten"}]}),
        "spec.module takes the place of the head; remove spec.head.layers and spec.head.fromSession, or spec.module.",
    ),
    "module and an earlier head": (
        spec(module={"git": GIT}, head={"fromSession": "first"}),
        "spec.module takes the place of the head; remove spec.head.layers and spec.head.fromSession, or spec.module.",
    ),
    "module and repeats": (
        spec(module={"git": GIT}, training={"repeats": 2}),
        "spec.module trains in its own way; remove fineTune, learningRate, earlyStopping, classWeights, metrics and "
        "repeats from spec.training, or spec.module.",
    ),
    "module with a password": (
        spec(module={"git": {**GIT, "url": "https://me:hunter2@example.org/heads.git"}}),
        "spec.module.git.url carries a user name or a password; remove the part before the @.",
    ),
    "module outside": (
        spec(module={"git": {**GIT, "path": "src/../.."}}),
        "spec.module.git.path is 'src/../..', which leaves the repository; remove ..",
    ),
    "module of a branch": (
        spec(module={"git": {**GIT, "revision": "main"}}),
        r"spec.module.git.revision is 'main'; it must match \A([0-9a-f]{40}|[0-9a-f]{64})\Z.",
    ),
    "MLflow with a password": (
        spec(tracking={"mlflow": {"uri": "https://me:hunter2@example.org", "experiment": "x"}}),
        "spec.tracking.mlflow.uri carries a user name or a password; remove the part before the @.",
    ),
    "no dataset": ({"baseModel": {"name": "ResNet50"}}, "spec.dataset is missing; set it."),
    "both data sets": (
        spec(dataset__uri="https://host/a.zip"),
        "spec.dataset has both of name and uri; set exactly one.",
    ),
    "no data set": (spec(dataset__name=None), "spec.dataset has neither of name and uri; set exactly one."),
    "misspelt field": (
        spec(training__batchsize=3),
        "spec.training.batchsize is not a field; did you mean batchSize.",
    ),
    "unknown field": (
        spec(runPolicy__zzz=3),
        "spec.runPolicy.zzz is not a field; the fields are backoffLimit, activeDeadlineSeconds, "
        "pendingDeadlineSeconds, maxDisruptions, ttlSecondsAfterFinished.",
    ),
    "subset zero": (spec(dataset__subset=0), "spec.dataset.subset is 0; it must be above 0 and at most 1."),
    "subset above one": (spec(dataset__subset=1.5), "spec.dataset.subset is 1.5; it must be above 0 and at most 1."),
    "test subset zero": (
        spec(dataset__testSubset=0),
        "spec.dataset.testSubset is 0; it must be above 0 and at most 1.",
    ),
    "subset not a number": (spec(dataset__subset=float("nan")), "spec.dataset.subset is nan; it must be a number."),
    "subset a string": (spec(dataset__subset="1"), "spec.dataset.subset is '1'; it must be a number."),
    "epochs a truth value": (spec(training__epochs=True), "spec.training.epochs is true; it must be an integer."),
    "epochs zero": (
        spec(training__epochs=0),
        "spec.training.epochs is 0; it must be at least 1 and at most 10000.",
    ),
    "epochs a fraction": (spec(training__epochs=1.5), "spec.training.epochs is 1.5; it must be an integer."),
    "huge seed": (
        spec(training__seed=1 << 40),
        "spec.training.seed is 1099511627776; it must be at least 0 and at most 4294967295.",
    ),
    "unknown optimizer": (
        spec(training__optimizer={"name": "adamm"}),
        "spec.training.optimizer.name is 'adamm'; it must be one of adadelta, adafactor, adagrad, adam, adamax, "
        "adamw, ftrl, lamb, lion, muon, nadam, rmsprop, schedulefreeadamw, sgd.",
    ),
    "layers empty": (spec(head__layers=[]), "spec.head.layers has 0 items; it must have 1 to 64."),
    "layers no list": (spec(head__layers={}), "spec.head.layers is {}; it must be a list."),
    "layer without type": (spec(head__layers=[{"config": {}}]), "spec.head.layers[0].type is missing; set it."),
    "too many arguments": (
        spec(head__layers=[{"type": "Dense", "config": {str(n): n for n in range(33)}}]),
        "spec.head.layers[0].config has 33 entries; at most 32 are accepted.",
    ),
    "input size of one": (
        spec(baseModel__inputSize=[64]),
        "spec.baseModel.inputSize has 1 items; it must have exactly 2.",
    ),
    "input size tiny": (
        spec(baseModel__inputSize=[64, 4]),
        "spec.baseModel.inputSize[1] is 4; it must be at least 8 and at most 2048.",
    ),
    "weights twice": (
        spec(baseModel__weights="none", baseModel__weightsFrom={"uri": "https://host/w.h5"}),
        "spec.baseModel has weights 'none' and weightsFrom; set only one.",
    ),
    "claim without file": (
        spec(dataset={"uri": "https://host/a.zip", "claimName": "c"}),
        "spec.dataset.claimName is 'c' but spec.dataset.uri is no file URI; remove one of them.",
    ),
    "digest of a named data set": (
        spec(dataset__sha256="0" * 64),
        f"spec.dataset.sha256 is '{'0' * 64}', which needs uri; remove it or set uri.",
    ),
    "password in an address": (
        spec(dataset={"uri": "https://me:secret@host/a.zip"}),
        "spec.dataset.uri carries a user name or a password; remove the part before the @.",
    ),
    "spec no object": ("digits", "spec is 'digits'; it must be an object."),
    "trailing newline in a name": (
        spec(baseModel__name="ResNet50\n"),
        r"spec.baseModel.name is 'ResNet50\n'; it must match \A[A-Z][A-Za-z0-9]{1,63}\Z.",
    ),
}


@pytest.mark.parametrize(("document", "sentence"), BAD.values(), ids=BAD.keys())
def test_a_bad_spec_is_refused_with_one_sentence(document: object, sentence: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec(document)
    assert str(caught.value) == sentence
    assert caught.value.exit_code == 64


def test_a_sentence_stays_short_whatever_the_value() -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec(spec(dataset__name="x" * 1_000_000))
    assert len(str(caught.value)) < 300


def test_the_session_needs_its_identity() -> None:
    session = {
        "apiVersion": "trainingsession.dev/v1alpha1",
        "kind": "TrainingSession",
        "metadata": {"namespace": "team-a", "name": "digits", "uid": "u"},
        "spec": DIGITS,
    }
    assert parse_session(session).name == "digits"
    with pytest.raises(SpecError, match=r"metadata\.uid is null; it must be a non-empty string"):
        parse_session({**session, "metadata": {"namespace": "a", "name": "b"}})
    with pytest.raises(SpecError, match="kind is 'Job'; it must be TrainingSession"):
        parse_session({**session, "kind": "Job"})
    with pytest.raises(SpecError, match="apiVersion is null"):
        parse_session({"kind": "TrainingSession"})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("{", "is not JSON"), ('{"a": NaN}', "NaN is not a JSON number"), (None, "cannot be read")],
    ids=["cut off", "not a number", "absent"],
)
def test_an_unreadable_session_file_is_refused(tmp_path: Path, text: str | None, sentence: str) -> None:
    file = tmp_path / "session.json"
    if text is not None:
        file.write_text(text, "utf-8")
    with pytest.raises(SpecError, match=sentence):
        read_document(file)


def test_every_sample_is_accepted(repo: Path) -> None:
    samples = sorted((repo / "manifests/samples").glob("*.yaml"))
    assert samples
    for path in samples:
        for document in load_all(path.read_text("utf-8")):
            if document["kind"] == "TrainingSession":
                parse_spec(json.loads(json.dumps(document["spec"])))
