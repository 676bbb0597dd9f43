"""The chart installed on the real cluster, once for all end-to-end tests."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from real_cluster import Cluster

RELEASE_NAMESPACE = "trainingsession"


@pytest.fixture(scope="session")
def cluster(repo: Path) -> Cluster:
    found = Cluster(repo)
    if not found.kubeconfig.is_file():
        pytest.fail("there is no .cluster/kubeconfig; run `make cluster` first")
    return found


@pytest.fixture(scope="session")
def stack(cluster: Cluster) -> Cluster:
    """Operator and MongoDB from the chart, newly installed, so that the images of this tree run."""
    if (cluster.repo / ".cluster/provider").read_text().strip() == "named" and _has_crd(cluster):
        pytest.fail(
            "The cluster that TS_KUBECONFIG names has TrainingSession already, and these tests would remove it "
            "with its data; name another cluster, or remove release, namespace and definition yourself."
        )
    cluster.run("helm", "uninstall", "trainingsession", "-n", RELEASE_NAMESPACE, "--wait")
    cluster.kubectl("delete", "ts", "--all", "-A", "--ignore-not-found") if _has_crd(cluster) else None
    cluster.delete_namespace(RELEASE_NAMESPACE)
    cluster.ok("tests/cluster/install")
    return cluster


def _has_crd(cluster: Cluster) -> bool:
    return cluster.run("kubectl", "get", "crd", "trainingsessions.trainingsession.dev").code == 0


@pytest.fixture(scope="session")
def digits(repo: Path) -> Callable[..., dict[str, Any]]:
    """Builder: the sample digits.yaml under another name, with changes given as nested keyword arguments."""
    sample = yaml.safe_load((repo / "manifests/samples/digits.yaml").read_text())

    def build(name: str, **spec: dict[str, Any]) -> dict[str, Any]:
        session: dict[str, Any] = copy.deepcopy(sample)
        session["metadata"]["name"] = name
        for field, change in spec.items():
            session["spec"].setdefault(field, {}).update(change)
        return session

    return build
