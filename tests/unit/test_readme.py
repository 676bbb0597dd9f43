"""What the documents name is there."""

import itertools
import re
import shlex

import pytest

from trainingsession_trainer.__main__ import command_line

DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs/README.md",
    "docs/architecture.md",
    "docs/artifacts.md",
    "docs/compatibility.md",
    "docs/gpus.md",
    "docs/lifecycle.md",
    "docs/mongodb.md",
    "docs/rbac.md",
    "docs/reasons.md",
    "docs/runbook.md",
    "docs/scaling.md",
    "docs/spec.md",
    "docs/use-the-model.md",
    "docs/without-a-cluster.md",
    "manifests/clusters/aks/README.md",
    "manifests/clusters/eks/README.md",
    "manifests/clusters/gke/README.md",
    "manifests/kustomize/README.md",
    "tests/cluster/README.md",
)


@pytest.fixture(params=DOCUMENTS)
def document(request, repo):
    return (repo / request.param).read_text()


def test_make_targets_exist_and_are_listed_by_help(document, repo):
    listed = set(re.findall(r"^([a-z-]+):.*## ", (repo / "Makefile").read_text(), re.MULTILINE))
    # As a command: in a code span or block, perhaps behind a variable.
    assert set(re.findall(r"(?:`|^    |=\S+ )make ([a-z-]+)", document, re.MULTILINE)) <= listed


def test_paths_exist(document, repo):
    ours = re.sub(r"https?://\S+", "", document)
    folders = "manifests|charts|docs|examples|operator|trainer|tests|benchmarks"
    named = set(re.findall(rf"\b(?:{folders})/[\w./-]*[\w/]", ours))
    assert {path for path in named if not (repo / path).exists()} == set()


def commands(repo, first, document="README.md"):
    text = (repo / document).read_text().replace("\\\n", " ")
    return [shlex.split(line) for line in text.splitlines() if line.strip().startswith(f"{first} ")]


def test_the_image_builds_of_the_readme_name_dockerfiles_and_their_arguments(repo):
    builds = commands(repo, "docker build")
    assert len(builds) == 2
    for build in builds:
        recipe = (repo / build[build.index("-f") + 1]).read_text()
        for name in (part.split("=")[0] for before, part in itertools.pairwise(build) if before == "--build-arg"):
            assert f"ARG {name}" in recipe


@pytest.mark.parametrize("name", ["README.md", "docs/without-a-cluster.md"])
def test_the_trainers_commands_are_ones_that_it_takes_with_files_that_are_there(repo, name):
    programs = (".venv/bin/trainingsession-trainer", "trainingsession-trainer")
    found = [command for program in programs for command in commands(repo, program, name)]
    table = re.findall(r"\| `((?:run|list|download|export|delete) [^`]*)` \|", (repo / name).read_text())
    assert len(found) + len(table) > 0
    for command in [*(command[1:] for command in found), *(shlex.split(line) for line in table)]:
        options = command_line().parse_args(command)
        assert str(getattr(options, "file", "FILE")) == "FILE" or (repo / options.file).is_file()


def test_the_list_of_documents_names_every_one(repo):
    listed = set(re.findall(r"\]\(([^)/]+[.]md)\)", (repo / "docs/README.md").read_text()))
    assert listed == {path.name for path in (repo / "docs").glob("*.md")} - {"README.md"}
