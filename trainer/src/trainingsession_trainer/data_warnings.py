"""What makes an accuracy look better or worse than it is, found in the images before anything is trained: pure.

The operator shows each in `status.warnings`; docs/reasons.md says what to do about it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .datasets.near_duplicates import Pairs
from .loading import Part
from .records import SessionWarning

DUPLICATES, NEAR_DUPLICATES, LABELS_DISAGREE = "DuplicatesInTest", "NearDuplicatesInTest", "LabelsDisagree"
_MOST_COUNTED = 20


def warnings_of(train: Part, test: Part, near: Pairs | None) -> tuple[SessionWarning, ...]:
    """Compare the images that a session uses; `near` are pairs of at least these, None where nobody looked."""
    found = []
    count, known = len(test.labels), set(train.digests)
    same = sum(digest in known for digest in test.digests)
    if same:
        text = (
            f"{same:,} of {count:,} test images {_be(same)} also among the training images, byte for byte: the "
            "accuracy flatters; take out one of the two."
        )
        found.append(SessionWarning(DUPLICATES, text))
    close = 0 if near is None else int(((near[:, 0] < len(train.labels)) & (near[:, 1] < count)).sum())
    if close:
        text = (
            f"{close:,} of {count:,} test images {_be(close)} nearly a training image (resized, compressed again or "
            "the like): the accuracy flatters; take out one of the two."
        )
        found.append(SessionWarning(NEAR_DUPLICATES, text))
    torn = _torn(train, test)
    if torn:
        text = (
            f"{torn:,} image{'s' * (torn > 1)} {_be(torn)} in more than one class, byte for byte; decide on one class."
        )
        found.append(SessionWarning(LABELS_DISAGREE, text))
    return tuple(found)


def class_counts(part: Part, class_names: Sequence[str]) -> str:
    """Say how many images of each class there are, the first 20 classes by name."""
    counts = np.bincount(part.labels, minlength=len(class_names)).tolist()
    words = [f"{name} {count:,}" for name, count in zip(class_names[:_MOST_COUNTED], counts)]
    if len(counts) > _MOST_COUNTED:
        words.append(f"and {len(counts) - _MOST_COUNTED} more, from {min(counts):,} to {max(counts):,} in a class")
    return ", ".join(words)


def _be(count: int) -> str:
    return "is" if count == 1 else "are"


def _torn(train: Part, test: Part) -> int:
    """Count the different images that have more than one label."""
    labels: dict[bytes, int] = {}
    torn = set()
    for part in (train, test):
        for digest, label in zip(part.digests, part.labels.tolist()):
            if labels.setdefault(digest, label) != label:
                torn.add(digest)
    return len(torn)
