"""Every test that docs/faults.md names is there."""

import re

import pytest


@pytest.fixture
def named(repo):
    found = re.findall(r"`(\S+\.py)::(\w+)`", (repo / "docs/faults.md").read_text())
    assert len(found) > 40
    return found


def test_the_tests_that_the_table_of_faults_names_are_there(repo, named):
    missing = [f"{path}::{name}" for path, name in named if f"\ndef {name}(" not in (repo / "tests" / path).read_text()]
    assert missing == []


def test_every_test_of_faults_stands_in_the_table(repo, named):
    folder = repo / "tests/integration/operator/faults"
    written = {
        name
        for file in folder.glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)
    }
    assert written - {name for _, name in named} == set()
