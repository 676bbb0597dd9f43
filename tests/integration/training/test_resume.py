"""Training that was stopped or killed goes on in the next attempt, and ends with the same bits as without that."""

from __future__ import annotations

import signal
import subprocess
import sys
import uuid
from itertools import count

import keras
import numpy as np
import pytest

from trainingsession_trainer.batches import LabelledFeatures
from trainingsession_trainer.errors import Stopped
from trainingsession_trainer.head import build_head, standardize_from
from trainingsession_trainer.records import create_record
from trainingsession_trainer.spec import OPTIMIZERS
from trainingsession_trainer.training import fit_head

LAYERS = [
    {"type": "GlobalAveragePooling2D"},
    {"type": "Dense", "config": {"units": 12, "activation": "relu"}},
    {"type": "BatchNormalization"},
    {"type": "Dropout", "config": {"rate": 0.4}},
]
# 240 images in batches of 32 and 60 in one of validation: the question whether to stop comes so often in an epoch.
ASKED_PER_EPOCH = 9
NEVER = 1_000_000


@pytest.fixture
def train(make_features, make_spec, new_checkpoints, reporter):
    """Trains in as many attempts as `stops` asks for, each stopped at that question; gives weights and history."""

    def run(*stops: int, every_seconds: float = 1e9, layers=LAYERS, uid=None, misled=False, **training):
        spec = make_spec(training={"seed": 5, **training}, head={"layers": layers})
        parts, uid = [make_features(240), make_features(60, seed=1)], uid or uuid.uuid4().hex
        if misled:
            parts[1] = LabelledFeatures(parts[1].features, (parts[1].labels + 1) % 3)
        for stop_at in (*stops, NEVER):
            keras.utils.set_random_seed(spec.training.seed)
            model = build_head(spec.head, (2, 2, 9), 3, standardize_from(parts[0]))
            asked = count()
            settings = {
                "class_names": "abc",
                "reporter": reporter,
                "stop": lambda asked=asked, stop_at=stop_at: next(asked) >= stop_at,
            }
            checkpoints = new_checkpoints(uid, every_seconds=every_seconds)
            arguments = (model, spec.training, *parts)
            if stop_at == NEVER:
                history = fit_head(*arguments, checkpoints=checkpoints, **settings)
            else:
                with pytest.raises(Stopped):
                    fit_head(*arguments, checkpoints=checkpoints, **settings)
        return model.get_weights(), history

    return run


def same(one, two) -> bool:
    weights, histories = zip(one, two)
    figures = [([epoch.figures for epoch in history.epochs], history.kept) for history in histories]
    return figures[0] == figures[1] and all(np.array_equal(a, b) for a, b in zip(*weights, strict=True))


SETTINGS = {
    "adam, best epoch": {"optimizer": {"name": "adam", "config": {"learning_rate": 0.05}}},
    "adam, last epoch": {"optimizer": {"name": "adam"}, "restoreBest": False},
    "rmsprop with momentum, best epoch": {
        "optimizer": {"name": "rmsprop", "config": {"learning_rate": 0.1, "momentum": 0.9, "centered": True}}
    },
    "averaged weights": {
        "optimizer": {"name": "adam", "config": {"use_ema": True, "ema_momentum": 0.9}},
        "restoreBest": False,
    },
    "averaged weights that replace the others": {
        "optimizer": {"name": "rmsprop", "config": {"use_ema": True, "ema_overwrite_frequency": 5}},
        "restoreBest": False,
    },
    "scheduled rate and weighted classes": {
        "learningRate": {"schedule": "cosine", "warmupEpochs": 2, "minimumFactor": 0.1},
        "classWeights": {"balanced": True},
        "optimizer": {"name": "adam"},
    },
    "metrics": {"metrics": ["auc", "f1_score"], "loss": {"name": "sparse_categorical_crossentropy"}},
    # Three do not divide eight: gradients are carried over the end of an epoch.
    "accumulated gradients": {
        "optimizer": {"name": "sgd", "config": {"momentum": 0.9, "gradient_accumulation_steps": 3, "clipnorm": 1.0}}
    },
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_a_training_that_is_stopped_twice_ends_with_the_same_bits(train, settings) -> None:
    # In the middle of the second epoch, then at the very start of the fourth.
    stops = ASKED_PER_EPOCH + 4, 2 * ASKED_PER_EPOCH
    assert same(train(epochs=5, **settings), train(*stops, epochs=5, **settings))


def test_a_stop_before_the_first_checkpoint_or_in_the_last_validation_costs_that_epoch_only(train, reporter) -> None:
    stops = 3, 3 * ASKED_PER_EPOCH - 1
    assert same(train(epochs=3), train(*stops, epochs=3))
    assert reporter._out.getvalue().count(" Epoch ") == 3 + 2 + 1


@pytest.mark.parametrize("name", sorted({*OPTIMIZERS} - {"adam", "rmsprop", "sgd"}))
def test_every_optimizer_goes_on_where_it_was(train, name: str) -> None:
    settings = {"epochs": 3, "optimizer": {"name": name}}
    assert same(train(**settings), train(2 * ASKED_PER_EPOCH + 3, **settings))


def test_the_best_epoch_of_an_earlier_attempt_is_kept(train, reporter) -> None:
    # The more is learned, the worse it fits validation images with wrong labels.
    settings = {"epochs": 5, "optimizer": {"name": "adam", "config": {"learning_rate": 0.02}}, "misled": True}
    weights, history = train(**settings)
    assert history.kept < 4, "of no use as evidence when the last attempt could have found it"
    assert same((weights, history), train(4 * ASKED_PER_EPOCH + 1, **settings))
    assert "Going on after epoch 4 of 5, which an earlier attempt has reached" in reporter._out.getvalue()


def test_early_stopping_counts_the_epochs_of_earlier_attempts(train, reporter) -> None:
    settings = {
        "epochs": 30, "optimizer": {"name": "adam", "config": {"learning_rate": 0.02}}, "misled": True,
        "earlyStopping": {"patience": 3},
    }  # fmt: skip
    weights, history = train(**settings)
    ended = len(history.epochs)
    assert 3 < ended < 30
    assert history.kept == ended - 3
    # The second attempt trains the last of them only.
    assert same((weights, history), train((ended - 1) * ASKED_PER_EPOCH + 1, **settings))
    assert f"Training ends after epoch {ended} of 30: the validation loss has" in reporter._out.getvalue()


def test_checkpoints_in_the_background_change_nothing(train, database) -> None:
    settings = {"epochs": 4, "optimizer": {"name": "adam"}}
    assert same(train(**settings), train(30, every_seconds=0.0, **settings))
    assert database["checkpoints.files"].count_documents({}) > 0


KILLED = """
import io, os, signal, sys
import keras, numpy as np
from trainingsession_trainer.batches import LabelledFeatures
from trainingsession_trainer.checkpoints import Checkpoints
from trainingsession_trainer.spec import Head, Layer, Training
from trainingsession_trainer.head import build_head, standardize_from
from trainingsession_trainer.mongodb import connect
from trainingsession_trainer.records import SessionRecord
from trainingsession_trainer.reporting import Reporter
from trainingsession_trainer.training import fit_head

uri, name, uid, file = sys.argv[1:]
data = np.load(file)
train, validation = (LabelledFeatures(data[part], data[part + "_labels"]) for part in ("train", "validation"))
database = connect(uri, name)
record = SessionRecord(database, uid, "killed")
record.claim({})

def stop():
    if (record.checkpoint() or {"epoch": 0})["epoch"] >= 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return False

training = Training(epochs=40, seed=5)
keras.utils.set_random_seed(training.seed)
layers = (Layer("Conv2D", {"filters": 8, "kernel_size": 2}), Layer("Dropout", {"rate": 0.5}))
reporter = Reporter(io.StringIO())
head = build_head(Head(layers), (2, 2, 9), 3, standardize_from(train))
checkpoints = Checkpoints(database, record, {"session": uid}, reporter, stop, every_seconds=0)
settings = {"class_names": "abc", "checkpoints": checkpoints, "reporter": reporter, "stop": stop}
fit_head(head, training, train, validation, **settings)
"""


def test_a_killed_training_goes_on_from_its_last_checkpoint(train, make_features, database, mongod, tmp_path) -> None:
    parts, uid = (make_features(240), make_features(60, seed=1)), uuid.uuid4().hex
    file = tmp_path / "features.npz"
    arrays = {"train": parts[0].features, "validation": parts[1].features}
    np.savez(file, **arrays, train_labels=parts[0].labels, validation_labels=parts[1].labels)
    create_record(database, uid, "team-a", "digits")

    command = [sys.executable, "-c", KILLED, mongod.uri, database.name, uid, file]
    killed = subprocess.run(command, capture_output=True, text=True, check=False)

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    reached = database["sessions"].find_one({"_id": uid})["checkpoint"]["epoch"]
    assert 3 <= reached < 40
    layers = [
        {"type": "Conv2D", "config": {"filters": 8, "kernel_size": 2}},
        {"type": "Dropout", "config": {"rate": 0.5}},
    ]
    assert same(train(epochs=40, layers=layers), train(epochs=40, layers=layers, uid=uid))
    assert database["checkpoints.files"].count_documents({"filename": uid}) == 1
