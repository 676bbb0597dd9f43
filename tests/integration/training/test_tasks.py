"""The parts of a session that pods of their own do: extraction on a GPU, the head without one, and helpers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

QUICK = {
    "dataset": {"name": "digits", "subset": 0.1},
    "baseModel": {"name": "MobileNet", "arguments": {"alpha": 0.25}, "weights": "none", "inputSize": [40, 40]},
    "training": {"epochs": 2, "optimizer": {"name": "adam"}},
    "resources": {"gpus": 1},
}


@pytest.fixture(scope="module", params=["known by its name", "an address"])
def extracted(request, make_pod, tmp_path_factory):
    """A session whose first pod has extracted the features; of an address only the images say what they are."""
    spec = QUICK
    if request.param == "an address":
        folder = class_folders(tmp_path_factory.mktemp("images"))
        spec = {**QUICK, "dataset": {"uri": folder.as_uri()}}
    pod = make_pod(spec)
    return pod, *pod.run("--task", "extract")


def class_folders(folder: Path) -> Path:
    random = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 8)):
        for name in ("light", "dark"):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 100, (8, 8, 3)) + (150 if name == "light" else 0)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / split / name / f"{number}.png")
    return folder


def test_one_pod_extracts_and_another_without_a_gpu_trains_from_what_is_stored(extracted, record_of):
    pod, code, out, err = extracted
    assert code == 0, err
    record = record_of(pod)
    assert record["extracted"] is True
    assert "result" not in record
    assert record["features"]["computed"] > 0
    assert "Training the head" not in out

    pod.replace()
    code, out, err = pod.run("--task", "train")
    assert code == 0, err
    assert "Training from stored features on processors, without a GPU" in out
    assert out.index("Accuracy") < out.index("Building MobileNet")
    record = record_of(pod)
    assert record["measured"]["accuracy"] == record["result"]["accuracy"]
    assert record["features"]["computed"] == 0
    assert record["features"]["secondsSaved"] >= 0


def test_without_a_gpu_features_that_are_not_stored_end_with_exit_code_76(make_pod, record_of):
    pod = make_pod({**QUICK, "baseModel": {**QUICK["baseModel"], "inputSize": [48, 48]}})
    code, _, err = pod.run("--task", "train")
    assert code == 76
    assert "Not all features are stored" in err
    assert record_of(pod)["failure"]["exitCode"] == 76


def test_a_helper_extracts_and_leaves_the_record_alone(make_pod, record_of, storage):
    pod = make_pod({**QUICK, "baseModel": {**QUICK["baseModel"], "inputSize": [44, 44]}})
    before = record_of(pod)
    code, out, err = pod.run(JOB_COMPLETION_INDEX="1")
    assert code == 0, err
    assert "No shard is left to compute; done" in out
    assert record_of(pod) == before
    assert storage["feature_uses"].count_documents({"session": pod.uid}) == 0

    pod.replace()
    code, out, err = pod.run(JOB_COMPLETION_INDEX="0")
    assert code == 0, err
    assert record_of(pod)["features"]["computed"] == 0


def test_a_helper_that_cannot_help_ends_well_and_says_why(make_pod, record_of):
    pod = make_pod(QUICK)
    before = record_of(pod)
    code, out, _ = pod.run(JOB_COMPLETION_INDEX="2", TRAININGSESSION_GPUS="required")
    assert code == 0
    assert "This pod cannot help: spec.resources.gpus is 1 but" in out
    assert record_of(pod) == before


def test_a_gpu_that_is_held_and_cannot_be_used_ends_the_session_at_once(make_pod, record_of):
    pod = make_pod(QUICK)
    code, out, err = pod.run(TRAININGSESSION_GPUS="required")
    assert code == 76
    assert "spec.resources.gpus is 1 but this image's TensorFlow is built without CUDA" in err
    assert "Building" not in out
    assert record_of(pod)["failure"]["message"] in err


def test_a_spec_with_an_unknown_task_is_refused(make_pod):
    code, _, err = make_pod(QUICK).run("--task", "dance")
    assert code == 2
    assert "--task" in err


def test_a_session_with_more_features_than_memory_trains_all_the_same(make_pod, record_of):
    spec = {
        "dataset": {"name": "digits"},
        "baseModel": {"name": "ResNet50", "weights": "none", "inputSize": [64, 64]},
        "head": {"layers": [{"type": "GlobalAveragePooling2D"}]},
        "training": {"epochs": 10, "optimizer": {"name": "adam", "config": {"learning_rate": 0.005}}},
    }
    pod = make_pod(spec)
    (pod.folder / "session/memory-limit").write_text("20", "ascii")
    code, out, err = pod.run()
    assert code == 0, err
    assert "more than the 12 MiB of memory that they may have; they are read from MongoDB again for every epoch" in out
    assert record_of(pod)["result"]["accuracy"] >= 0.95
