"""A head that starts from an earlier session's: the same network, or a sentence that says why not."""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest

from trainingsession_trainer.artifacts import uncompiled, upload
from trainingsession_trainer.errors import SpecError
from trainingsession_trainer.head import build_head, standardize_from
from trainingsession_trainer.head_source import open_source
from trainingsession_trainer.records import Result, SessionRecord, create_record
from trainingsession_trainer.spec import Head, Layer

SHAPE = (2, 2, 9)
LAYERS = (
    Layer("Conv2D", {"filters": 5, "kernel_size": 2, "padding": "same", "activation": "relu"}),
    Layer("BatchNormalization"),
    Layer("Dropout", {"rate": 0.2, "name": "mine"}),
    Layer("Dense", {"units": 4, "kernel_regularizer": {"class_name": "L2", "config": {"l2": 0.01}}}),
)


@pytest.fixture
def world(database, tmp_path, make_features):
    """Sessions that publish heads, and one that may start from them."""

    def record(name: str) -> SessionRecord:
        uid = uuid.uuid4().hex
        create_record(database, uid, "team-a", name)
        made = SessionRecord(database, uid, "pod")
        made.claim({})
        return made

    def publish(name: str = "first", change=lambda document: None, **head) -> object:
        trained = build_head(Head(LAYERS, **head), SHAPE, 3, standardize_from(make_features(60)))
        plain = uncompiled(trained)
        folder = tmp_path / uuid.uuid4().hex
        folder.mkdir()
        document = json.loads(plain.to_json())
        change(document)
        (folder / "architecture.json").write_text(json.dumps(document))
        plain.save_weights(folder / "head.weights.h5")
        owner = record(name)
        session = SimpleNamespace(uid=owner._uid, namespace="team-a", name=name)
        paths = [folder / "architecture.json", folder / "head.weights.h5"]
        owner.publish(Result(0.5, {}, upload(database, session, paths)))
        return trained

    def opened(taker: SessionRecord, name: str = "first", namespace: str = "team-a"):
        return open_source(name, namespace, database, taker, tmp_path, lambda: False)

    return SimpleNamespace(record=record, publish=publish, opened=opened, database=database)


def built(source):
    model = build_head(source.head_for(Head(), SHAPE, 3), SHAPE, 3, source.standardization)
    source.load_into(model)
    return model


def test_the_head_is_the_one_that_was_published(world, make_features) -> None:
    trained = world.publish()
    model = built(world.opened(world.record("second")))
    assert [layer.name for layer in model.layers] == [layer.name for layer in trained.layers]
    assert all(np.array_equal(one, two) for one, two in zip(model.get_weights(), trained.get_weights(), strict=True))
    features = make_features(20, seed=3).features.astype(np.float32)
    np.testing.assert_allclose(model(features), trained(features), rtol=1e-5)
    assert model.get_layer("dense_3").kernel_regularizer.l2 == pytest.approx(0.01)


def test_later_attempts_begin_with_the_head_of_the_first(world) -> None:
    trained, taker = world.publish(), world.record("second")
    world.opened(taker)
    named = world.database["sessions"].find_one({"name": "second"})["headFrom"]
    assert (named["name"], len(named["sha256"])) == ("first", 64)
    world.publish()
    again, anew = built(world.opened(taker)), built(world.opened(world.record("third")))
    assert np.array_equal(again.get_weights()[0], trained.get_weights()[0])
    assert not np.array_equal(anew.get_weights()[0], trained.get_weights()[0])


@pytest.mark.parametrize(
    ("shape", "classes", "sentence"),
    [
        (
            (3, 3, 9),
            3,
            r"'first', whose head takes features of 2x2x9, and this session's have 3x3x9; use its baseModel",
        ),
        (SHAPE, 4, r"'first', whose head tells 3 classes apart, and this session's data set has 4; use the head of"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(world, shape, classes, sentence) -> None:
    world.publish()
    with pytest.raises(SpecError, match=r"^spec\.head\.fromSession is " + sentence):
        world.opened(world.record("second")).head_for(Head(), shape, classes)


@pytest.mark.parametrize(("name", "namespace"), [("frist", "team-a"), ("first", "team-b"), ("running", "team-a")])
def test_a_session_that_has_left_no_head_in_the_namespace_is_refused(world, name, namespace) -> None:
    world.publish()
    world.record("running")
    with pytest.raises(SpecError, match=rf"^spec\.head\.fromSession is '{name}', and no session of that name has left"):
        world.opened(world.record("second"), name, namespace)


def test_artifacts_that_were_changed_are_refused(world) -> None:
    world.publish()
    world.database["artifacts.chunks"].update_many({}, {"$set": {"data": b"{}"}})
    with pytest.raises(SpecError, match="whose artifacts are missing or damaged"):
        world.opened(world.record("second"))


def test_a_layer_that_runs_code_is_not_taken_from_anybody(world) -> None:
    def change(document) -> None:
        document["config"]["layers"][2] |= {"class_name": "Lambda", "config": {"name": "x", "function": "os.system"}}

    world.publish(change=change)
    with pytest.raises(SpecError, match="type is 'Lambda'; it cannot be part of a head: it runs code of its own"):
        built(world.opened(world.record("second")))


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document.pop("config"),
        lambda document: document["config"]["layers"].clear(),
        lambda document: document["config"].update(layers=[{"class_name": "Dense", "config": None}]),
        lambda document: document["config"]["layers"][0]["config"].update(batch_shape="wide"),
    ],
)
def test_an_architecture_that_is_none_is_refused(world, change) -> None:
    world.publish(change=change)
    with pytest.raises(SpecError, match=r"whose architecture\.json cannot be read \("):
        world.opened(world.record("second"))


def test_weights_of_another_architecture_are_refused(world) -> None:
    world.publish(change=lambda document: document["config"]["layers"][2]["config"].update(filters=6))
    with pytest.raises(SpecError, match="whose weights do not fit its architecture"):
        built(world.opened(world.record("second")))


def test_the_spec_says_one_of_layers_and_session(make_spec) -> None:
    layers = [{"type": layer["type"], "config": layer["config"]} for layer in map(asdict, LAYERS)]
    with pytest.raises(SpecError, match=r"^spec\.head has fromSession and layers; set only one"):
        make_spec(head={"fromSession": "first", "layers": layers})
