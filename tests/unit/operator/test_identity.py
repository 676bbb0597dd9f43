"""Which sessions are the same experiment."""

from __future__ import annotations

import pytest

from builders import session
from trainingsession_operator.identity import identity

IMAGE = "example.org/trainer:1"
SAME = identity(session(), IMAGE)


@pytest.mark.parametrize(
    "spec",
    [
        {"resources": {"gpus": 0, "memory": "8Gi", "workers": 4}},
        {"scheduling": {"queueName": "a"}},
        {"runPolicy": {"backoffLimit": 9}},
        {"suspend": True},
        {"reuseResult": "IfIdentical"},
        {"artifacts": {"deletionPolicy": "Delete"}},
        {"dataset": {"subset": 1.0}},
    ],
)
def test_how_it_is_run_does_not_matter(spec):
    assert identity(session(**spec), IMAGE) == SAME


@pytest.mark.parametrize(
    "spec",
    [
        {"dataset": {"subset": 0.5}},
        {"dataset": {"testSubset": 0.5}},
        {"dataset": {"validationSplit": 0.1}},
        {"dataset": {"name": "cifar10"}},
        {"baseModel": {"pooling": "avg"}},
        {"head": {"standardize": False}},
        {"head": {"layers": [{"type": "Dropout", "config": {"rate": 0.5}}]}},
        {"training": {"seed": 1}},
        {"artifacts": {"exports": ["onnx"]}},
        {"training": {"optimizer": {"name": "adam"}}},
    ],
)
def test_what_decides_the_result_does(spec):
    assert identity(session(**spec), IMAGE) not in (None, SAME)


def test_the_image_does():
    assert identity(session(), "example.org/trainer:2") != SAME


def test_an_address_without_its_digest_is_never_the_same():
    where = {"name": None, "uri": "https://example.org/a.tar"}
    assert identity(session(dataset=where), IMAGE) is None
    assert identity(session(dataset={**where, "sha256": "a" * 64}), IMAGE) is not None


def test_a_head_by_another_session_s_name_is_never_the_same():
    assert identity(session(head={"fromSession": "first"}), IMAGE) is None


def test_another_name_and_uid_do_not_matter():
    assert identity(session(name="other", uid="1" * 36), IMAGE) == SAME
