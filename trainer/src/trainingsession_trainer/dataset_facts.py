"""What was found out about a data set by looking at every image, kept in MongoDB so that it is found out once.

    dataset_facts   _id digest of both splits' orders · nearDuplicates (pairs of places, int32) · foundAt

It does not depend on the base model, and a session on stored features has the same to say without opening an image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
from pymongo.database import Database

from .datasets import Split
from .datasets.near_duplicates import Pairs, near_duplicates
from .mongodb import Document, patiently
from .reporting import Reporter

_VERSION = 1
"""Of the search: what another version found does not count."""


class DatasetFacts:
    """The facts of one database; raises StorageError, DataError, Stopped."""

    def __init__(self, database: Database[Document], reporter: Reporter, stop: Callable[[], bool]) -> None:
        self._facts = database["dataset_facts"]
        self._reporter = reporter
        self._stop = stop

    def find_out(self, train: Split, test: Split) -> None:
        """Look for near duplicates, unless that was done before."""
        name = _name(train.order_digest, test.order_digest)
        if self._read(name) is not None:
            return
        self._reporter.info(f"Looking for near duplicates among {len(train) + len(test):,} images")
        pairs = near_duplicates(train, test, self._stop)
        if pairs is None:
            self._reporter.info("There are too many images to compare all; near duplicates are not looked for")
            return
        values: dict[str, Any] = {"nearDuplicates": {"$literal": pairs.astype("<i4").tobytes()}, "foundAt": "$$NOW"}
        store = lambda: self._facts.update_one({"_id": name}, [{"$set": values}], upsert=True)  # noqa: E731
        patiently(store, "store what was found out about the data set", stop=self._stop)

    def near_duplicates(self, train_order: str, test_order: str) -> Pairs | None:
        """Give the pairs that were found in the data set of these orders; None where nobody looked."""
        found = self._read(_name(train_order, test_order))
        return None if found is None else np.frombuffer(found["nearDuplicates"], "<i4").reshape(-1, 2).astype(np.int32)

    def _read(self, name: str) -> Document | None:
        read = lambda: self._facts.find_one({"_id": name})  # noqa: E731
        return patiently(read, "read what is known about the data set", stop=self._stop)


def _name(train_order: str, test_order: str) -> str:
    return hashlib.sha256(f"{_VERSION} {train_order} {test_order}".encode()).hexdigest()
