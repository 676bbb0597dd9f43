"""A session whose features do not fit into memory: the same features, read again for every epoch."""

from __future__ import annotations

import numpy as np
import pytest

from trainingsession_trainer.batches import LabelledFeatures
from trainingsession_trainer.errors import StorageError
from trainingsession_trainer.loading import MEMORY_SHARE, memory_budget
from trainingsession_trainer.streaming import StreamedExamples

FEATURES = 80 * 256 * 4  # bytes of all that a case has, stored as float32
TIGHT = int(FEATURES / MEMORY_SHARE * 0.9)


def everything(examples):
    parts = list(examples.batches(7, None))
    return np.concatenate([features for features, _ in parts]), np.concatenate([labels for _, labels in parts])


def test_features_beyond_the_budget_are_streamed_and_are_the_same(case):
    whole = case.prepare()
    tight = case.prepare(memory_limit=TIGHT)
    assert isinstance(whole.train, LabelledFeatures)
    assert isinstance(tight.train, StreamedExamples)
    assert isinstance(tight.test, StreamedExamples)
    assert "they are read from MongoDB again for every epoch" in case.out.getvalue()
    for one, other in ((whole.train, tight.train), (whole.validation, tight.validation), (whole.test, tight.test)):
        assert len(one) == len(other)
        for mine, theirs in zip(everything(one), everything(other)):
            assert np.array_equal(mine, theirs)


def test_validation_stays_in_memory_only_where_it_is_small(case):
    assert isinstance(case.prepare(memory_limit=TIGHT).validation, LabelledFeatures)
    assert isinstance(case.prepare(memory_limit=TIGHT // 10).validation, StreamedExamples)


def test_a_shard_that_is_damaged_between_two_epochs_is_never_trained_on(case):
    tight = case.prepare(known=True, memory_limit=TIGHT)
    assert len(everything(tight.train)[1]) == 48
    shard = case.database.feature_shards.find_one({"set": tight.summary.key, "index": 2})
    case.database["features.chunks"].update_one({"files_id": shard["file"]}, {"$set": {"data": b"bad"}})
    with pytest.raises(StorageError, match="Shard 2 of the train features is damaged; it has to be computed again"):
        list(tight.train.batches(7, (0, 0)))
    assert case.prepare(known=True, memory_limit=TIGHT).summary.computed == 16


def test_the_budget_is_a_share_of_the_limit_or_of_the_machine():
    assert memory_budget(1000) == 600
    assert memory_budget() > 100 << 20
