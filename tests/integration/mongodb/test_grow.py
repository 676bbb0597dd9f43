"""scripts/grow-mongodb of the chart on a real API server with Kubernetes' own controller of StatefulSets.

No disk grows here: there is no storage driver and no kubelet. Claims are marked as bound by hand.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from real_apiserver import RealApiServer

NAMESPACE = "ml-system"
RELEASE = "trainingsession"
STATEFULSET = "trainingsession-mongodb"
SOON = 60


@dataclass
class Release:
    """The chart, installed by helm with three members."""

    repo: Path
    tools: Path
    kubeconfig: Path

    def run(self, *command: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ, "KUBECONFIG": str(self.kubeconfig), "PATH": f"{self.tools}:{os.environ['PATH']}",
        }  # fmt: skip
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, env=environment)

    def ok(self, *command: str, stdin: str | None = None) -> str:
        done = self.run(*command, stdin=stdin)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def grow(self, release: str, size: str) -> subprocess.CompletedProcess[str]:
        return self.run(str(self.repo / "charts/trainingsession/scripts/grow-mongodb"), release, NAMESPACE, size)

    def get(self, *what: str) -> Any:
        return json.loads(self.ok("kubectl", "-n", NAMESPACE, "get", "-o", "json", *what))

    def pods(self) -> dict[str, str]:
        """UIDs of the members' pods, and of the StatefulSet that has each."""
        found = self.get("pods")["items"]
        owners = {pod["metadata"]["uid"]: pod["metadata"].get("ownerReferences", [{}])[0].get("uid") for pod in found}
        return {uid: str(owner) for uid, owner in owners.items()}

    def uid(self) -> str:
        return str(self.get("statefulset", STATEFULSET)["metadata"]["uid"])

    def sizes(self) -> set[str]:
        """Of the claims, and of the claims that the StatefulSet would make."""
        wanted = [claim["spec"] for claim in self.get("pvc")["items"]]
        wanted += [one["spec"] for one in self.get("statefulset", STATEFULSET)["spec"]["volumeClaimTemplates"]]
        return {spec["resources"]["requests"]["storage"] for spec in wanted}

    def wait_for(self, check: Any) -> None:
        end = time.monotonic() + SOON
        while not check():
            assert time.monotonic() < end
            time.sleep(0.2)


@pytest.fixture(scope="module")
def release(repo: Path, tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    server = RealApiServer(tmp_path_factory.mktemp("apiserver"), tools)
    try:
        server.start()
        made = Release(repo, tools, server.kubeconfig())
        server.start_controllers("statefulset-controller", "garbage-collector-controller")
        document = {
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "grows"},
            "provisioner": "example.com/none", "allowVolumeExpansion": True,
        }  # fmt: skip
        made.ok("kubectl", "create", "-f", "-", stdin=json.dumps(document))
        made.ok("kubectl", "create", "namespace", NAMESPACE)
        made.ok("kubectl", "-n", NAMESPACE, "create", "serviceaccount", "default")
        made.ok(
            "helm", "install", RELEASE, str(repo / "charts/trainingsession"), "-n", NAMESPACE,
            "--set", "mongodb.members=3,mongodb.persistence.size=1Gi,mongodb.persistence.storageClassName=grows",
        )  # fmt: skip
        made.wait_for(lambda: len(made.pods()) == len(made.get("pvc")["items"]) == 3)
        bound = json.dumps({"status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}})
        for claim in made.get("pvc")["items"]:
            named = ("kubectl", "-n", NAMESPACE, "patch", "pvc", claim["metadata"]["name"], "--type=merge")
            made.ok(*named, "-p", json.dumps({"spec": {"volumeName": f"volume-{claim['metadata']['name']}"}}))
            made.ok(*named, "--subresource=status", "-p", bound)
        yield made
    finally:
        server.stop()


def test_every_volume_grows_and_the_pods_run_on_under_a_statefulset_of_the_new_size(release):
    before, old = release.pods(), release.uid()
    done = release.grow(RELEASE, "2Gi")
    assert done.returncode == 0, done.stdout + done.stderr
    assert release.sizes() == {"2Gi"}
    assert release.uid() != old
    release.wait_for(lambda: set(release.pods().values()) == {release.uid()})
    assert set(release.pods()) == set(before), "no pod was restarted"

    # The command that it names, with the chart in place.
    (line,) = [text.strip() for text in done.stdout.splitlines() if text.strip().startswith("helm upgrade")]
    release.ok(*line.replace("CHART", str(release.repo / "charts/trainingsession")).split())
    assert release.sizes() == {"2Gi"}
    assert set(release.pods()) == set(before)


@pytest.mark.parametrize(
    ("name", "size", "sentence"),
    [
        (RELEASE, "512Mi", "can not be less than"),
        (RELEASE, "two", 'The size "two" is not one that the chart takes; write it like 100Gi.'),
        ("other", "3Gi", "has no volume of release other's MongoDB; check both names"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_changed(release, name, size, sentence):
    before = release.uid(), release.sizes(), release.pods()
    done = release.grow(name, size)
    assert done.returncode != 0
    assert sentence in done.stderr
    assert (release.uid(), release.sizes(), release.pods()) == before


def test_a_storage_class_that_does_not_grow_is_named(release):
    patched = json.dumps({"allowVolumeExpansion": False})
    release.ok("kubectl", "patch", "storageclass", "grows", "--type=merge", "-p", patched)
    before = release.uid(), release.sizes()
    done = release.grow(RELEASE, "4Gi")
    release.ok("kubectl", "patch", "storageclass", "grows", "--type=merge", "-p", '{"allowVolumeExpansion": true}')
    assert done.returncode == 1
    assert 'its StorageClass "grows" has no allowVolumeExpansion: true' in done.stderr
    assert (release.uid(), release.sizes()) == before


def test_an_interrupted_run_is_made_good_by_the_command_that_it_names(release):
    before = release.pods()
    release.ok("kubectl", "-n", NAMESPACE, "delete", "statefulset", STATEFULSET, "--cascade=orphan")
    done = release.grow(RELEASE, "5Gi")
    assert done.returncode == 1
    assert "this makes it again: helm upgrade" in done.stderr
    line = done.stderr.strip().partition("again: ")[2].replace("5Gi", "2Gi")
    release.ok(*line.replace("CHART", str(release.repo / "charts/trainingsession")).split())
    release.wait_for(lambda: set(release.pods().values()) == {release.uid()})
    assert set(release.pods()) == set(before)
