"""kubectl installs on a real API server without helm: all of it, again without a change, and away without a loss.

No controller runs, so nothing becomes ready; tests/e2e has that, by helm, and tests/unit/chart says both are one.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from real_apiserver import RealApiServer

OVERLAYS = ("base", "overlays/single-node", "overlays/production", "overlays/external-mongodb")
KINDS = (
    "deployments,statefulsets,services,networkpolicies,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings,"
    "validatingadmissionpolicies,validatingadmissionpolicybindings"
)
Program = Callable[..., str]


@pytest.fixture(scope="module")
def program(repo: Path, tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Program]]:
    """Gives the real kubectl or helm on a server of its own; a refusal fails the test with its words."""
    for name in ("kubectl", "helm"):
        if not (tools / name).is_file():
            pytest.skip(f"there is no {tools / name}; run `make cluster`")
    server = RealApiServer(tmp_path_factory.mktemp("plain"), tools)
    server.start()
    configuration = server.kubeconfig()

    def give(name: str) -> Program:
        def run(*arguments: str) -> str:
            command = [str(tools / name), "--kubeconfig", str(configuration), *arguments]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=repo)
            assert done.returncode == 0, done.stderr
            return done.stdout

        return run

    try:
        give("kubectl")("create", "namespace", "team-a")
        yield give
    finally:
        server.stop()


@pytest.fixture(scope="module")
def kubectl(program: Callable[[str], Program]) -> Program:
    return program("kubectl")


@pytest.fixture(scope="module")
def helm(program: Callable[[str], Program]) -> Program:
    return program("helm")


@pytest.fixture(scope="module")
def install_yaml(repo: Path, program, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The one file of a release."""
    file = tmp_path_factory.mktemp("release") / "install.yaml"
    command = [str(repo / "charts/plain"), "install", str(repo / "charts/trainingsession")]
    file.write_text(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return str(file)


def installed(kubectl: Program, what: str = "resourceVersion") -> dict[str, str]:
    """What is there, with the version that each write raises, or with its UID."""
    mine = ("-l", "app.kubernetes.io/instance=trainingsession", "--all-namespaces", "-o", "json")
    found = json.loads(kubectl("get", KINDS, *mine))["items"]
    return {f"{one['kind']} {one['metadata']['name']}": one["metadata"][what] for one in found}


def test_one_file_installs_all_in_one_go_and_the_namespace_confines_it(kubectl, install_yaml):
    told = kubectl("apply", "--server-side", "-f", install_yaml)
    assert "namespace/trainingsession serverside-applied" in told
    assert "trainingsessions.trainingsession.dev serverside-applied" in told
    kubectl("wait", "--for=condition=Established", "crd/trainingsessions.trainingsession.dev", "--timeout=30s")
    label = kubectl("get", "namespace", "trainingsession", "-o", "jsonpath={.metadata.labels}")
    assert json.loads(label)["pod-security.kubernetes.io/enforce"] == "restricted"
    kubectl("apply", "--server-side", "--dry-run=server", "-f", "manifests/samples/digits.yaml")


def test_the_same_file_again_changes_nothing(kubectl, install_yaml):
    before = installed(kubectl)
    assert len(before) > 15
    kubectl("apply", "--server-side", "-f", install_yaml)
    assert installed(kubectl) == before


def test_the_documented_removal_leaves_what_holds_data(kubectl, install_yaml):
    kubectl("delete", "--wait=false", "-f", install_yaml, "-l", "app.kubernetes.io/instance=trainingsession")
    assert installed(kubectl) == {}
    kubectl("get", "namespace/trainingsession", "crd/trainingsessions.trainingsession.dev")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kustomize_installs_and_removes_each_overlay(kubectl, overlay):
    kubectl("apply", "--server-side", "-k", "manifests/kustomize/setup")
    kubectl("apply", "--server-side", "-k", f"manifests/kustomize/{overlay}")
    before = installed(kubectl)
    assert "Deployment trainingsession-operator" in before
    assert ("StatefulSet trainingsession-mongodb" in before) == (overlay != "overlays/external-mongodb")
    kubectl("apply", "--server-side", "-k", f"manifests/kustomize/{overlay}")
    assert installed(kubectl) == before
    kubectl("delete", "--wait=false", "-k", f"manifests/kustomize/{overlay}")
    kubectl("get", "namespace/trainingsession", "crd/trainingsessions.trainingsession.dev")
    assert installed(kubectl) == {}


def test_helm_takes_over_what_kubectl_installed_and_goes_on_from_there(repo, kubectl, helm):
    kubectl("apply", "--server-side", "-k", "manifests/kustomize/setup")
    kubectl("apply", "--server-side", "-k", "manifests/kustomize/base")
    before = installed(kubectl, "uid")
    (line,) = re.findall(r"^    helm (install .*)$", (repo / "manifests/kustomize/README.md").read_text(), re.MULTILINE)
    helm(*shlex.split(line))
    helm(
        "upgrade",
        "trainingsession",
        "charts/trainingsession",
        "-n",
        "trainingsession",
        "--set",
        "operator.logLevel=debug",
        "--force-conflicts",
    )
    assert installed(kubectl, "uid") == before
    asked = kubectl("get", "deployment/trainingsession-operator", "-n", "trainingsession", "-o", "jsonpath={..env}")
    assert {"name": "LOG_LEVEL", "value": "debug"} in json.loads(asked)
    helm("uninstall", "trainingsession", "--namespace", "trainingsession", "--wait=false")
    assert installed(kubectl) == {}
    kubectl("get", "namespace/trainingsession", "crd/trainingsessions.trainingsession.dev")


@pytest.mark.parametrize("cloud", ["eks", "gke", "aks"])
def test_a_cloud_s_storage_class_grows_and_keeps_disks_in_the_zone_of_their_pod(kubectl, cloud):
    made = json.loads(kubectl("create", "-f", f"manifests/clusters/{cloud}/storage-class.yaml", "-o", "json"))
    kubectl("delete", "-f", f"manifests/clusters/{cloud}/storage-class.yaml")
    assert made["allowVolumeExpansion"]
    assert (made["volumeBindingMode"], made["reclaimPolicy"]) == ("WaitForFirstConsumer", "Retain")
    # GKE and AKS have a default of their own, and a second would be one too many.
    default = "storageclass.kubernetes.io/is-default-class" in made["metadata"].get("annotations", {})
    assert default == (cloud == "eks")
