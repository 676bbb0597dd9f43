"""What was found out about a data set by looking at every image, kept in MongoDB so that it is found out once.

    dataset_facts   _id orders/train/test · orders (digest of both splits' orders) · trainOrder, testOrder · train, test
                    (how many of the first images were looked at) · nearDuplicates (pairs of places, int32) · foundAt

It does not depend on the base model, and a session on stored features has the same to say without opening an image.
What was found for a larger subset counts for a smaller one. It stays as long as features of both splits do.
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

    def find_out(self, train: Split, test: Split, counts: tuple[int, int]) -> None:
        """Look for near duplicates among the first images of both splits, unless that was done before."""
        orders = _orders(train.order_digest, test.order_digest)
        if self._read(orders, counts) is not None:
            return
        self._reporter.info(f"Looking for near duplicates among {sum(counts):,} images")
        pairs = near_duplicates(train, test, counts, self._stop)
        if pairs is None:
            self._reporter.info("There are too many images to compare all; near duplicates are not looked for")
            return
        values: dict[str, Any] = {
            "orders": orders,
            "trainOrder": train.order_digest,
            "testOrder": test.order_digest,
            "train": counts[0],
            "test": counts[1],
            "nearDuplicates": {"$literal": pairs.astype("<i4").tobytes()},
            "foundAt": "$$NOW",
        }
        name = {"_id": f"{orders}/{counts[0]}/{counts[1]}"}
        store = lambda: self._facts.update_one(name, [{"$set": values}], upsert=True)  # noqa: E731
        patiently(store, "store what was found out about the data set", stop=self._stop)

    def near_duplicates(self, train_order: str, test_order: str, counts: tuple[int, int]) -> Pairs | None:
        """Give the pairs that were found among at least these first images; None where nobody looked."""
        found = self._read(_orders(train_order, test_order), counts)
        return None if found is None else np.frombuffer(found["nearDuplicates"], "<i4").reshape(-1, 2).astype(np.int32)

    def _read(self, orders: str, counts: tuple[int, int]) -> Document | None:
        covering = {"orders": orders, "train": {"$gte": counts[0]}, "test": {"$gte": counts[1]}}
        nearest = [("train", 1), ("test", 1)]
        read = lambda: self._facts.find_one(covering, sort=nearest)  # noqa: E731
        return patiently(read, "read what is known about the data set", stop=self._stop)


def _orders(train_order: str, test_order: str) -> str:
    return hashlib.sha256(f"{_VERSION} {train_order} {test_order}".encode()).hexdigest()
