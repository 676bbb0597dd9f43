"""helm on a real API server: upgrades from every earlier chart, nothing that drifts, two releases side by side.

No pod runs; tests/e2e has the same with sessions.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from real_apiserver import RealApiServer

Run = Callable[..., subprocess.CompletedProcess[str]]
CHART = "charts/trainingsession"
DEFINITION = "trainingsessions.trainingsession.dev"
PACKAGES = sorted((Path(__file__).parents[2] / "data/charts").glob("*.tgz"))


@pytest.fixture
def run(repo: Path, tools: Path, tmp_path: Path) -> Iterator[Run]:
    """helm and kubectl as an administrator of an API server of their own."""
    if missing := [name for name in ("helm", "kubectl") if not (tools / name).is_file()]:
        pytest.skip(f"{tools} holds no {' and no '.join(missing)}; run `make cluster`")
    server = RealApiServer(tmp_path, tools)
    try:
        server.start()
        environment = {**os.environ, "KUBECONFIG": str(server.kubeconfig()), "HELM_CACHE_HOME": str(tmp_path / "helm")}

        def call(program: str, *arguments: str, stdin: str = "", fails: bool = False) -> Any:
            done = subprocess.run(
                [str(tools / program), *arguments], input=stdin, capture_output=True, text=True, cwd=repo,
                env=environment, timeout=120, check=False,
            )  # fmt: skip
            assert fails or done.returncode == 0, f"{program} {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
            return done

        for name in ("home", "team-a", "team-b", "second"):
            call("kubectl", "create", "namespace", name)
        yield call
    finally:
        server.stop()


def objects(run: Run, release: str, namespace: str) -> list[dict[str, Any]]:
    """Every object of the release as it is stored, but for what helm and the server count."""
    manifest = run("helm", "get", "manifest", release, "-n", namespace).stdout
    found: list[dict[str, Any]] = json.loads(run("kubectl", "get", "-o", "json", "-f", "-", stdin=manifest).stdout)[
        "items"
    ]
    for one in found:
        one.pop("status", None)
        for key in ("resourceVersion", "managedFields"):
            one["metadata"].pop(key, None)
    return found


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.stem)
def test_an_earlier_release_is_upgraded_with_its_definition_and_a_second_upgrade_changes_nothing(run, package):
    run("helm", "install", "trainingsession", str(package), "-n", "home")
    before = json.loads(run("kubectl", "get", "crd", DEFINITION, "-o", "json").stdout)["metadata"]
    confined = ("--set", "networkPolicy.trainerNamespaces={team-a}")
    upgrade = ("helm", "upgrade", "trainingsession", CHART, "-n", "home", *confined)
    run(*upgrade)
    after = json.loads(run("kubectl", "get", "crd", DEFINITION, "-o", "json").stdout)["metadata"]
    assert after["uid"] == before["uid"]
    assert after["generation"] > before["generation"]
    first = objects(run, "trainingsession", "home")
    run(*upgrade)
    assert objects(run, "trainingsession", "home") == first

    # As Argo CD compares what it rendered with what is there.
    rendered = run("helm", "template", "trainingsession", CHART, "-n", "home", "--no-hooks", *confined).stdout
    diff = ("kubectl", "diff", "--server-side", "--field-manager=argocd", "-f", "-")
    done = run(*diff, stdin=rendered, fails=True)
    assert done.returncode == 0, done.stdout + done.stderr
    apply = ("kubectl", "apply", "--server-side", "--field-manager=argocd", "-f", "-")
    run(*apply, stdin=rendered)
    versions = ("kubectl", "get", "-o", "jsonpath={.items[*].metadata.resourceVersion}", "-f", "-")
    once = run(*versions, stdin=rendered).stdout
    run(*apply, stdin=rendered)
    assert run(*versions, stdin=rendered).stdout == once
    assert objects(run, "trainingsession", "home") == first

    run("helm", "uninstall", "trainingsession", "-n", "home")
    assert DEFINITION in run("kubectl", "get", "crd", "-o", "name").stdout


def test_two_releases_live_side_by_side_and_one_of_the_same_name_is_refused(run):
    lists = ("--set", "watchNamespaces={team-a}")
    run("helm", "install", "first", CHART, "-n", "home", *lists)
    once_more = run("helm", "install", "first", CHART, "-n", "second", *lists, fails=True)
    assert once_more.returncode != 0
    assert "release-namespace" in once_more.stderr
    run("helm", "install", "second", CHART, "-n", "second", "--set", "crds.install=false,watchNamespaces={team-b}")
    for namespace, own in (("team-a", "first"), ("team-b", "second")):
        for release, home in (("first", "home"), ("second", "second")):
            account = f"--as=system:serviceaccount:{home}:{release}-trainingsession-operator"
            for what in (
                ("create", "jobs"),
                ("get", f"namespaces/{namespace}"),
                ("get", "secrets/trainingsession-mongodb"),
            ):
                done = run("kubectl", "auth", "can-i", *what, "-n", namespace, account, fails=True)
                assert (done.stdout.strip() == "yes") == (release == own), (release, namespace, what)
    run("helm", "uninstall", "second", "-n", "second")
    assert objects(run, "first", "home")


def test_a_namespace_s_own_administrator_installs_for_it_alone(run):
    """Somebody with the rights of docs/rbac.md in two namespaces, and none on the cluster."""
    run("kubectl", "apply", "-f", "manifests/crd/trainingsessions.yaml")
    for namespace in ("home", "team-a"):
        run("kubectl", "create", "rolebinding", "admin", "-n", namespace, "--clusterrole=cluster-admin", "--user=anna")
    values = "crds.install=false,admissionPolicy.enabled=false,watchNamespaces={team-a}"
    run("helm", "install", "own", CHART, "-n", "home", "--set", values, "--kube-as-user=anna")
    refused = run(
        "helm", "upgrade", "own", CHART, "-n", "home", "--set", "crds.install=false", "--kube-as-user=anna", fails=True
    )
    assert 'User "anna" cannot' in refused.stderr
