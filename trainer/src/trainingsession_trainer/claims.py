"""Which shards of a set are missing, as one session knows it, and how it takes one that nobody else computes.

Dozens of sessions and pods may work on one set: none asks again about a shard that was there already, and they do not
all grasp at the same one.
"""

from __future__ import annotations

import random

from .feature_sets import FeatureSet
from .feature_store import FeatureStore

_AT_ONCE = 256  # more than there are workers, so that one of the first missing shards is free


class Claims:
    """The first `shards` shards of a set: those missing, in order, and how many images the others hold."""

    def __init__(self, store: FeatureStore, found: FeatureSet, shards: int) -> None:
        self._store = store
        self._found = found
        self._free: list[int] = []
        self._looked = False
        self.missing = dict.fromkeys(range(shards))
        self.images = 0

    def look(self) -> None:
        """Ask about missing shards: all of them at first, later no more than are needed to find a free one."""
        asked = list(self.missing)
        step = _AT_ONCE if self._looked else max(1, len(asked))
        self._looked, self._free = True, []
        for start in range(0, len(asked), step):
            some = asked[start : start + step]
            there, busy = self._store.look(self._found, some)
            for index, images in there.items():
                del self.missing[index]
                self.images += images
            self._free += [index for index in some if index not in there and index not in busy]
            if len(self._free) > 1:  # the one that this session is storing is among them
                return

    def claim(self, besides: int | None) -> int | None:
        """Take a shard that was free when it was looked for, another than `besides`; None when there is none."""
        free = [index for index in self._free if index != besides]
        # In order, for a reader of files; where others were faster, at random, not to meet them again.
        for index in free[:1] + random.sample(free[1:], len(free[1:])):
            if self._store.claim(self._found, index):
                return index
        return None
