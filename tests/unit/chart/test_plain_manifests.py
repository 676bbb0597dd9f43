"""The chart for those without helm: base and overlays, built by the real kustomize, and the one file of a release."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from trainingsession_trainer.yaml12 import load_all

Manifest = dict[str, Any]
Objects = dict[tuple[str, str, str], Manifest]
NAMESPACE = "trainingsession"
OVERLAYS = ("single-node", "production", "external-mongodb")
HELM_ONLY = ("helm.sh/chart", "app.kubernetes.io/managed-by")


@pytest.fixture(scope="session")
def kustomize(repo: Path) -> Callable[[str], Objects]:
    """Objects of a folder below manifests; kubectl is TS_KUBECTL, the cluster's, a cached one, or the one on PATH."""
    cache = Path(os.environ.get("TS_CACHE", Path.home() / ".cache" / "trainingsession"))
    candidates = [repo / ".cluster/bin/kubectl", *sorted(cache.glob("bin-*/kubectl"), reverse=True)]
    present = [str(path) for path in candidates if os.access(path, os.X_OK)]
    binary = os.environ.get("TS_KUBECTL") or next(iter(present), None) or shutil.which("kubectl")
    if binary is None:
        missing = "there is no kubectl; run `make cluster`, put it on PATH or set TS_KUBECTL to it"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)

    @functools.cache
    def build(folder: str) -> Objects:
        command = [binary, "kustomize", str(repo / "manifests" / folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        return objects(load_all(done.stdout))

    return build


def objects(manifests: Any) -> Objects:
    """By kind, namespace and name; without helm's labels and tests, and lists of named things by their names."""
    found = {}
    for manifest in manifests:
        if manifest and "helm.sh/hook" not in (metadata := manifest["metadata"]).get("annotations", {}):
            for label in HELM_ONLY:
                metadata.get("labels", {}).pop(label, None)
            found[manifest["kind"], metadata.get("namespace", ""), metadata["name"]] = by_name(manifest)
    return found


def by_name(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: by_name(one) for key, one in value.items()}
    if isinstance(value, list):
        named = all(isinstance(one, dict) and isinstance(one.get("name"), str) for one in value)
        return sorted(map(by_name, value), key=lambda one: one["name"]) if named else [by_name(one) for one in value]
    return value


def rendered(render, values: Manifest | None = None) -> Objects:
    """Of the chart, without what only helm runs, such as the pods of `helm test`."""
    found = render({"crds": {"install": False}, **(values or {})}, namespace=NAMESPACE).all
    return objects(one for one in found if "helm.sh/hook" not in one["metadata"].get("annotations", {}))


def test_the_base_is_what_helm_installs_by_default(kustomize, render):
    assert kustomize("kustomize/base") == rendered(render)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_what_helm_installs_with_its_values(kustomize, render, repo, overlay):
    values = yaml.safe_load((repo / f"manifests/kustomize/overlays/{overlay}/values.yaml").read_text())
    built, wanted = kustomize(f"kustomize/overlays/{overlay}"), rendered(render, values)
    assert built.keys() == wanted.keys()
    for key, manifest in wanted.items():
        # A hand-written object carries no version, which would only go stale.
        if "app.kubernetes.io/version" not in built[key]["metadata"]["labels"]:
            del manifest["metadata"]["labels"]["app.kubernetes.io/version"]
        assert built[key] == manifest


def test_every_overlay_is_tried(repo):
    assert {path.name for path in (repo / "manifests/kustomize/overlays").iterdir()} == set(OVERLAYS)


def test_what_must_outlive_an_installation_is_in_no_overlay(kustomize):
    assert {kind for kind, _, _ in kustomize("kustomize/setup")} == {"Namespace", "CustomResourceDefinition"}
    for overlay in OVERLAYS:
        kinds = {kind for kind, _, _ in kustomize(f"kustomize/overlays/{overlay}")}
        assert not kinds & {"Namespace", "CustomResourceDefinition", "PersistentVolumeClaim", "Secret"}


def test_the_base_in_the_repository_is_the_chart_s(repo, helm):
    done = subprocess.run([repo / "charts/plain", "check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_one_file_of_a_release_holds_setup_and_base(repo, helm, kustomize):
    chart = str(repo / "charts/trainingsession")
    done = subprocess.run([repo / "charts/plain", "install", chart], capture_output=True, text=True, check=True)
    assert "helm.sh/chart" not in done.stdout
    found = objects(load_all(done.stdout))
    definition = found["CustomResourceDefinition", "", "trainingsessions.trainingsession.dev"]
    assert definition["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    assert found == {**kustomize("kustomize/setup"), **kustomize("kustomize/base")}
    # kubectl makes the namespace before what lives in it only if it comes first.
    assert next(iter(yaml.safe_load_all(done.stdout)))["kind"] == "Namespace"
