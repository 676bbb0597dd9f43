"""What the documents name is there."""

import itertools
import re
import shlex

import pytest

DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/architecture.md",
    "docs/artifacts.md",
    "docs/lifecycle.md",
    "docs/reasons.md",
    "docs/runbook.md",
    "tests/cluster/README.md",
)


@pytest.fixture(params=DOCUMENTS)
def document(request, repo):
    return (repo / request.param).read_text()


def test_make_targets_exist_and_are_listed_by_help(document, repo):
    listed = set(re.findall(r"^([a-z-]+):.*## ", (repo / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", document)) <= listed


def test_paths_exist(document, repo):
    named = set(re.findall(r"\b(?:manifests|charts|docs|operator|trainer|tests|benchmarks)/[\w./-]*[\w/]", document))
    assert {path for path in named if not (repo / path).exists()} == set()


def commands(repo, first):
    text = (repo / "README.md").read_text().replace("\\\n", " ")
    return [shlex.split(line) for line in text.splitlines() if line.strip().startswith(f"{first} ")]


def test_the_image_builds_of_the_readme_name_dockerfiles_and_their_arguments(repo):
    builds = commands(repo, "docker build")
    assert len(builds) == 2
    for build in builds:
        recipe = (repo / build[build.index("-f") + 1]).read_text()
        for name in (part.split("=")[0] for before, part in itertools.pairwise(build) if before == "--build-arg"):
            assert f"ARG {name}" in recipe
