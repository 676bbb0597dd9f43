"""Every template by itself, also one that is added later: it renders, and its objects carry what all carry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pod_security import restricted_violations

TEMPLATES = Path(__file__).resolve().parents[3] / "charts/trainingsession/templates"
FILES = sorted(str(path.relative_to(TEMPLATES.parent)) for path in TEMPLATES.rglob("*.yaml"))


@pytest.fixture(scope="module")
def by_file(repo, helm, chart) -> dict[str, list[dict[str, Any]]]:
    """What each template makes of the values with which the chart renders everything."""
    values = ["--values", str(repo / "tests/checkers/everything.yaml"), "--set", "commonLabels.cost-center=seven"]
    done = helm("template", "trainingsession", str(chart), "--namespace", "ml-system", *values)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[dict[str, Any]]] = {}
    for text in done.stdout.split("\n---\n"):
        source = next(line for line in text.splitlines() if line.startswith("# Source: "))
        document = yaml.load(text.removeprefix("---\n"), yaml.CSafeLoader)
        found.setdefault(source.removeprefix("# Source: trainingsession/"), []).extend([document] if document else [])
    return found


@pytest.mark.parametrize("file", FILES)
def test_a_template_renders_objects_that_carry_what_all_carry(by_file, file):
    objects = by_file.get(file)
    assert objects, f"{file} renders nothing; add what switches it on to tests/checkers/everything.yaml"
    for one in objects:
        labels = one["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "trainingsession"
        if one["kind"] != "CustomResourceDefinition":
            assert labels["app.kubernetes.io/instance"] == "trainingsession"
            assert labels["helm.sh/chart"].startswith("trainingsession-")
            assert labels["cost-center"] == "seven"
        if one["kind"].startswith(("Cluster", "ValidatingAdmission", "CustomResource")):
            continue
        assert one["metadata"]["namespace"], "an object without a namespace lands wherever kubectl happens to be"


def test_the_pod_of_helm_test_is_restricted_has_no_token_and_asks_the_operators_own_service(render):
    (pod,) = render().kind("Pod")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert restricted_violations(pod["spec"]) == []
    assert pod["spec"]["automountServiceAccountToken"] is False
    (container,) = pod["spec"]["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    service = render().one("Service", "trainingsession-operator-metrics")
    port = service["spec"]["ports"][0]["port"]
    assert container["command"][-1] == f"http://{service['metadata']['name']}:{port}/readyz"
    assert not render({"monitoring": {"enabled": False}}).kind("Pod"), "there is no Service to ask"
