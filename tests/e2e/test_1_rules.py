"""What the API server refuses, with its sentence, and what the tables show."""

import re
from pathlib import Path

import pytest
import yaml

from real_cluster import condition

INVALID = sorted((Path(__file__).parent.parent.parent / "manifests/samples/invalid").glob("*.yaml"))


def expected(path: Path) -> str:
    return path.read_text().splitlines()[0].removeprefix("# Expected: ")


@pytest.fixture(scope="module")
def closed(stack):
    """A namespace that admits no pod: accepted sessions start nothing here."""
    name = stack.namespace("e2e-rules")
    stack.kubectl("create", "quota", "no-pods", "--hard=pods=0", "-n", name)
    yield name
    stack.delete_namespace(name)


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_invalid_sample_is_refused_with_its_sentence(stack, closed, path):
    *before, refused = path.read_text().split("---\n")
    for document in before:
        stack.kubectl("apply", "-n", closed, "-f", "-", stdin=document)
    done = stack.run("kubectl", "apply", "-n", closed, "-f", "-", stdin=refused)
    assert done.code != 0
    assert expected(path) in done.stderr


def test_every_rule_of_the_schema_has_an_invalid_sample(repo):
    crd = yaml.safe_load((repo / "manifests/crd/trainingsessions.yaml").read_text())

    def messages(node):
        if isinstance(node, dict):
            yield from (rule["message"] for rule in node.get("x-kubernetes-validations", []))
            for value in node.values():
                yield from messages(value)
        elif isinstance(node, list):
            for value in node:
                yield from messages(value)

    sentences = [expected(path) for path in INVALID]
    missing = {m for m in messages(crd) if not any(m.startswith(s) or m in s for s in sentences)}
    assert not missing


def test_the_example_of_the_readme_is_accepted(stack, closed, repo):
    (example,) = re.findall(r"```yaml\n(.*?)```", (repo / "README.md").read_text(), re.DOTALL)
    stack.kubectl("apply", "--dry-run=server", "-n", closed, "-f", "-", stdin=example)


def test_explain_describes_every_field(stack):
    for field in ("ts.spec", "ts.spec.dataset.subset", "ts.spec.training.optimizer.config", "ts.status.accuracy"):
        assert "DESCRIPTION" in stack.kubectl("explain", field)
        assert "<empty>" not in stack.kubectl("explain", field)


def test_a_quota_that_admits_no_pod_shows_in_a_condition(stack, closed, digits):
    stack.apply(digits("quota"), namespace=closed)

    def denied():
        session = stack.session(closed, "quota")
        return "exceeded quota: no-pods" in condition(session, "PodsReady").get("message", "")

    stack.wait_for("the quota's own words in condition PodsReady", denied)
    assert stack.session(closed, "quota")["status"]["phase"] == "Pending"
