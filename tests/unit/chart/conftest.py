"""The chart rendered by the real helm."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Manifest = dict[str, Any]
RELEASE = "trainingsession"
NAMESPACE = "ml-system"


def _find_helm(repo: Path) -> str | None:
    named = os.environ.get("TS_HELM")
    if named:
        return named
    cached = sorted(Path(os.environ.get("TS_CACHE", Path.home() / ".cache" / "trainingsession")).glob("bin-*/helm"))
    for candidate in (repo / ".cluster" / "bin" / "helm", *reversed(cached)):
        if os.access(candidate, os.X_OK):
            return str(candidate)
    return shutil.which("helm")


@pytest.fixture(scope="session")
def helm(repo: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs helm; the binary is TS_HELM, the cluster's, a cached one, or the one on PATH."""
    binary = _find_helm(repo)
    if binary is None:
        missing = "there is no helm; run `make cluster`, put helm on PATH or set TS_HELM to it"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)

    def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        # Without a kubeconfig: rendering must not ask any cluster.
        environment = {**os.environ, "KUBECONFIG": os.devnull}
        return subprocess.run(
            [binary, *arguments], input=stdin, capture_output=True, text=True, check=False, env=environment, timeout=60
        )

    return run


@pytest.fixture(scope="session")
def chart(repo: Path) -> Path:
    return repo / "charts" / "trainingsession"


@pytest.fixture(scope="session")
def template(
    helm: Callable[..., subprocess.CompletedProcess[str]], chart: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`helm template` of the chart with the given values, successful or not."""

    def run(
        values: dict[str, Any] | None = None, *, release: str = RELEASE, namespace: str = NAMESPACE
    ) -> subprocess.CompletedProcess[str]:
        given = json.dumps(values or {})
        return helm("template", release, str(chart), "--namespace", namespace, "--values", "-", stdin=given)

    return run


class Rendered:
    """The manifests of one rendering."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.all: list[Manifest] = [document for document in yaml.load_all(text, yaml.CSafeLoader) if document]

    def kind(self, kind: str) -> list[Manifest]:
        return [manifest for manifest in self.all if manifest["kind"] == kind]

    def one(self, kind: str, name: str) -> Manifest:
        found = [manifest for manifest in self.kind(kind) if manifest["metadata"]["name"] == name]
        assert len(found) == 1, f"{len(found)} of {kind}/{name}; rendered are {self.names()}"
        return found[0]

    def names(self) -> list[str]:
        return [f"{manifest['kind']}/{manifest['metadata']['name']}" for manifest in self.all]

    def pods(self) -> dict[str, Manifest]:
        """Pod templates by the name of their workload."""
        workloads = [*self.kind("Deployment"), *self.kind("StatefulSet"), *self.kind("DaemonSet"), *self.kind("Job")]
        pods = {workload["metadata"]["name"]: workload["spec"]["template"] for workload in workloads}
        for scheduled in self.kind("CronJob"):
            pods[scheduled["metadata"]["name"]] = scheduled["spec"]["jobTemplate"]["spec"]["template"]
        return pods


@pytest.fixture(scope="session")
def render(template: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., Rendered]:
    """The chart's manifests with the given values, rendered once for all tests that want the same."""
    texts: dict[str, str] = {}

    def run(values: dict[str, Any] | None = None, **where: str) -> Rendered:
        key = json.dumps([values or {}, where], sort_keys=True)
        if key not in texts:
            done = template(values, **where)
            assert done.returncode == 0, done.stderr
            texts[key] = done.stdout
        return Rendered(texts[key])

    return run
