"""docs/spec.md tells all that the definition says, and is what the definition says now."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import yaml


@pytest.fixture(scope="module")
def root(repo):
    definition = yaml.safe_load((repo / "manifests/crd/trainingsessions.yaml").read_text())
    return definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]


@pytest.fixture(scope="module")
def document(repo):
    return (repo / "docs/spec.md").read_text()


def paths(schema, path=""):
    for name, below in schema.get("properties", {}).items():
        yield f"{path}{name}"
        yield from paths(below, f"{path}{name}.")
    if "items" in schema:
        yield from paths(schema["items"], f"{path.removesuffix('.')}[].")


def test_it_is_up_to_date(repo, document):
    done = subprocess.run([sys.executable, repo / "docs/generate"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == document.strip(), "run `make generate` and commit the result"


def test_it_has_every_field_of_the_spec_and_of_the_status(root, document):
    headings = {line.split()[-1] for line in document.splitlines() if line.startswith("##")}
    assert {path for path in paths(root["spec"]) if path not in headings and f"spec.{path}" not in headings} == set()
    rows = set(re.findall(r"^\| `([^`]+)` \|", document, re.MULTILINE))
    assert set(paths(root["status"])) <= rows


def test_it_has_every_sentence_with_which_the_api_server_refuses(root, document):
    def messages(node):
        if isinstance(node, dict):
            yield from (rule["message"] for rule in node.get("x-kubernetes-validations", []))
            for value in node.values():
                yield from messages(value)
        elif isinstance(node, list):
            for value in node:
                yield from messages(value)

    assert {message for message in messages(root["spec"]) if f"- {message}\n" not in document} == set()


def section(document, path):
    found = re.search(rf"^### {re.escape(path)}\n\n(.*?)(?=^##|\Z)", document, re.MULTILINE | re.DOTALL)
    return found[1]


def test_a_field_comes_with_its_bounds_its_default_and_an_example(document):
    subset = section(document, "dataset.subset")
    assert subset.startswith("number, above 0, at most 1, default `1`\n")
    assert "Example: `subset: 0.5`" in subset
    assert "list of integers, exactly 2 entries, each at least 8, at most 2048" in section(
        document, "baseModel.inputSize"
    )
    assert "required" in section(document, "head.layers[].type")


def test_every_leaf_of_the_spec_has_an_example_unless_a_sample_cannot_hold_it(root, document):
    known = list(paths(root["spec"]))
    leaves = [path for path in known if not any(other.startswith((f"{path}.", f"{path}[]")) for other in known)]
    without = {path for path in leaves if "." in path and "Example: `" not in section(document, path)}
    # Operator Exists has no value, and seconds go with another effect than the sample's.
    assert without <= {"scheduling.tolerations[].value", "scheduling.tolerations[].tolerationSeconds"}, "add a sample"


def test_every_sample_says_when_to_use_it(repo, document):
    for path in (repo / "manifests/samples").glob("*.yaml"):
        assert re.search(rf"^\| `manifests/samples/{path.name}` \| \w.{{40,}} \|$", document, re.MULTILINE), path.name
