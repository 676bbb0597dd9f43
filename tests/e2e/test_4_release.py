"""The installed chart's objects: unchanged by an upgrade over itself, confined, restricted."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from real_cluster import Cluster

RELEASE = ("trainingsession", "-n", "trainingsession")
OPERATOR = "system:serviceaccount:trainingsession:trainingsession-operator"


@pytest.fixture
def values(stack: Cluster, tmp_path: Path) -> str:
    """File with the values of the installed release."""
    file = tmp_path / "values.yaml"
    file.write_text(stack.helm("get", "values", *RELEASE, "-o", "yaml"))
    return str(file)


def installed(stack: Cluster) -> list[dict[str, Any]]:
    """Every object of the release with its generation, which counts changes; without what controllers write."""
    manifest = stack.helm("get", "manifest", *RELEASE)
    found = json.loads(stack.kubectl("get", "-o", "json", "-f", "-", stdin=manifest))["items"]
    for item in found:
        item.pop("status", None)
        del item["metadata"]["resourceVersion"]
    return found


def test_an_upgrade_over_itself_changes_no_object(stack, values):
    before = installed(stack)
    assert len(before) > 10
    stack.helm(
        "upgrade", *RELEASE[:1], "charts/trainingsession", *RELEASE[1:], "-f", values, "--wait", "--timeout=120s"
    )
    assert installed(stack) == before


def test_a_repeated_apply_of_the_rendered_chart_changes_nothing(stack, values):
    """As Argo CD compares: what the API server would make of it, server-side."""
    rendered = stack.helm("template", *RELEASE[:1], "charts/trainingsession", *RELEASE[1:], "-f", values, "--no-hooks")
    assert rendered == stack.helm(
        "template", *RELEASE[:1], "charts/trainingsession", *RELEASE[1:], "-f", values, "--no-hooks"
    )
    command = ("kubectl", "diff", "--server-side", "--field-manager=argocd", "-n", "trainingsession", "-f", "-")
    done = stack.run(*command, stdin=rendered)
    assert done.code == 0, done.stdout + done.stderr


def test_helm_test_says_that_the_operator_is_ready(stack):
    assert "The operator is ready" in stack.helm("test", *RELEASE, "--logs", "--timeout=120s")


def test_the_operator_s_account_cannot_write_another_secret(stack):
    done = stack.run("kubectl", f"--as={OPERATOR}", "create", "secret", "generic", "other", "--from-literal=a=b")
    assert done.code != 0
    assert "may write only the Secret trainingsession-mongodb" in done.stderr


def test_pods_run_in_a_namespace_that_enforces_the_restricted_standard(stack):
    label = "pod-security.kubernetes.io/enforce=restricted"
    done = stack.run("kubectl", "label", "--dry-run=server", "--overwrite", "namespace", "trainingsession", label)
    assert done.code == 0
    assert "violate" not in done.stderr


def credentials(stack: Cluster) -> dict[str, str]:
    data = stack.get("secret", "trainingsession-mongodb-server", "-n", "trainingsession")["data"]
    return {key: base64.b64decode(value).decode() for key, value in data.items()}


def test_the_administrator_of_mongodb_is_rotated_by_one_command(stack):
    before = credentials(stack)
    done = stack.run("charts/trainingsession/scripts/rotate-mongodb", *RELEASE[:1], "trainingsession")
    assert done.code == 0, done.stdout + done.stderr
    after = credentials(stack)
    assert after["keyfile"] == before["keyfile"]
    assert {after["username"], after["password"]}.isdisjoint(before.values())
    assert (
        f"administrator is {after['username']}; 0 old user(s) dropped; 1 old user(s) can be used until" in done.stdout
    )
    assert after["password"] not in done.stdout + done.stderr
    assert "The operator is ready" in stack.helm("test", *RELEASE, "--logs", "--timeout=120s")
