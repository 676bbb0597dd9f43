"""The patch from one status to another: applied as RFC 7386 says, it gives the other."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from trainingsession_operator.status import merge_patch

# A status holds no nulls: the operator leaves out what it does not know, and the API server stores none.
KEYS = st.sampled_from(["phase", "progress", "epoch", "a/b", "~"])
PLAIN = st.booleans() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=3)
OBJECTS = st.dictionaries(KEYS, st.recursive(PLAIN, lambda inner: st.dictionaries(KEYS, inner, max_size=3)), max_size=4)


def applied(target: Any, patch: Any) -> Any:
    """RFC 7386, section 2, word for word."""
    if not isinstance(patch, dict):
        return patch
    done = copy.deepcopy(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            done.pop(name, None)
        else:
            done[name] = applied(done.get(name), value)
    return done


@given(OBJECTS, OBJECTS)
def test_the_patch_leads_from_the_old_to_the_new(old, new):
    assert applied(old, merge_patch(old, new)) == new


@given(OBJECTS)
def test_equal_objects_need_no_patch(status):
    assert merge_patch(status, copy.deepcopy(status)) == {}


def test_only_what_differs_is_in_it():
    old = {"phase": "Training", "progress": {"epoch": 1, "loss": "0.5", "epochs": 20}, "jobName": "j"}
    new = {"phase": "Training", "progress": {"epoch": 2, "epochs": 20}}
    assert merge_patch(old, new) == {"progress": {"epoch": 2, "loss": None}, "jobName": None}
