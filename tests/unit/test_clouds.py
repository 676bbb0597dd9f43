"""The clusters of manifests/clusters, as far as they can be judged without an account."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

CLOUDS = ("eks", "gke", "aks")


@pytest.fixture(scope="session")
def eksctl_schema(schemas: Path) -> dict[str, Any]:
    """eksctl's own schema of its configuration."""
    return json.loads((schemas / "eksctl.json").read_text())


@pytest.fixture
def cluster(repo) -> dict[str, Any]:
    return yaml.safe_load((repo / "manifests/clusters/eks/cluster.yaml").read_text())


def wrongs(schema, document) -> list[str]:
    validator = jsonschema.validators.validator_for(schema)(schema)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in validator.iter_errors(document)]


def test_eksctl_takes_the_cluster(eksctl_schema, cluster):
    assert wrongs(eksctl_schema, cluster) == []


@pytest.fixture
def whole_cluster(repo) -> dict[str, Any]:
    """With what is commented out in cluster.yaml, which are those comments that are YAML."""
    text = (repo / "manifests/clusters/eks/cluster.yaml").read_text()
    return yaml.safe_load(re.sub(r"^  # (?=- name: |  |withOIDC: |serviceAccounts:)", "  ", text, flags=re.MULTILINE))


def test_eksctl_takes_what_is_commented_out(eksctl_schema, whole_cluster):
    assert whole_cluster["iam"]["serviceAccounts"][0]["metadata"]["name"] == "s3-reader"
    assert [group["name"] for group in whole_cluster["managedNodeGroups"]] == ["system", "cpu", "gpu", "gpu-spot"]
    assert wrongs(eksctl_schema, whole_cluster) == []


def test_the_schema_of_eksctl_finds_mistakes(eksctl_schema, cluster):
    gpu = cluster["managedNodeGroups"][2]
    gpu["taint"] = gpu.pop("taints")
    cluster["managedNodeGroups"][0]["amiFamily"] = "AmazonLinux2024"
    assert len(wrongs(eksctl_schema, cluster)) == 2


def test_gpu_nodes_come_from_zero_keep_others_away_and_hide_their_credentials(whole_cluster):
    groups = {group["name"]: group for group in whole_cluster["managedNodeGroups"]}
    assert len(groups["system"]["availabilityZones"]) == 1, "MongoDB's volume cannot change its zone"
    for name in ("gpu", "gpu-spot"):
        group = groups[name]
        assert (group["minSize"], group["desiredCapacity"]) == (0, 0)
        assert group["propagateASGTags"]
        assert group["disablePodIMDS"]
        # The only taint that NVIDIA's device plugin tolerates.
        assert [taint["key"] for taint in group["taints"]] == ["nvidia.com/gpu"]
        assert group["labels"]["k8s.amazonaws.com/accelerator"] == "nvidia-a10g"
        assert group["amiFamily"] == "AmazonLinux2023"


def test_a_session_s_default_processors_fit_on_the_nodes_for_trainers(repo, whole_cluster):
    definition = yaml.safe_load((repo / "manifests/crd/trainingsessions.yaml").read_text())
    spec = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    wanted = int(spec["resources"]["properties"]["cpu"]["default"])
    sizes = {"large": 2, "xlarge": 4, "2xlarge": 8, "4xlarge": 16}
    for group in whole_cluster["managedNodeGroups"][1:]:
        for kind in group.get("instanceTypes") or [group["instanceType"]]:
            # The kubelet and the add-ons take some of it.
            assert sizes[kind.partition(".")[2]] >= wanted + 1, group["name"]


def test_the_page_of_a_spot_session_names_labels_and_taints_that_the_group_has(repo, whole_cluster):
    text = (repo / "manifests/clusters/eks/README.md").read_text()
    (block,) = re.findall(r"```yaml\n(spec:.*?)```", text, re.DOTALL)
    scheduling = yaml.safe_load(block)["spec"]["scheduling"]
    (spot,) = [group for group in whole_cluster["managedNodeGroups"] if group.get("spot")]
    assert scheduling["nodeSelector"].items() <= spot["labels"].items()
    assert {one["key"] for one in scheduling["tolerations"]} == {taint["key"] for taint in spot["taints"]}


def commands(repo: Path, cloud: str, first: str) -> list[list[str]]:
    text = (repo / f"manifests/clusters/{cloud}/README.md").read_text().replace("\\\n", " ")
    return [shlex.split(line) for line in text.splitlines() if line.startswith(f"    {first} ")]


@pytest.mark.parametrize("cloud", CLOUDS)
def test_files_that_a_page_applies_are_there(repo, cloud):
    applied = [one for one in commands(repo, cloud, "kubectl") if one[1] == "apply"]
    assert applied
    for command in applied:
        name = command[command.index("-f") + 1]
        assert name.startswith("https://") or (repo / name).is_file(), name


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_page_gives_a_price_only_with_its_source_and_date(repo, cloud):
    text = (repo / f"manifests/clusters/{cloud}/README.md").read_text()
    for line in text.splitlines():
        if re.search(r"\d\.\d{2}", line) and "|" in line:
            assert re.search(r", (?:\d+ )?[A-Z][a-z]+ 20\d\d", line), line


NOTER = """#!/usr/bin/env bash
# Notes its arguments and succeeds: it knows no argument, makes nothing and checks no name.
# One per line, an empty line behind each call.
printf '%s\\n' "${0##*/}" "$@" "" >>"$NOTES"
"""


@pytest.fixture
def script(repo, tmp_path):
    """Runs a cloud's script with programs that only note what they are asked; the sentences, and the calls."""
    for name in ("gcloud", "az"):
        (tmp_path / name).write_text(NOTER)
        (tmp_path / name).chmod(0o755)

    def run(name: str, **settings: str) -> tuple[subprocess.CompletedProcess[str], list[list[str]]]:
        notes = tmp_path / "notes"
        notes.write_text("")
        path = f"{tmp_path}:{os.environ['PATH']}"
        done = subprocess.run(
            [repo / "manifests/clusters" / name], env={"PATH": path, "NOTES": str(notes), **settings},
            capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return done, [call.splitlines() for call in notes.read_text().split("\n\n") if call]

    return run


def after(call: list[str], option: str) -> str:
    return call[call.index(option) + 1]


def test_gke_is_made_in_one_zone_with_gpu_nodes_from_zero(script):
    done, calls = script("gke/create", PROJECT="mine", REGION="europe-west4", SPOT="yes")
    assert done.returncode == 0, done.stderr
    assert all(call[:3] == ["gcloud", "--project", "mine"] for call in calls)
    made = [call for call in calls if "create" in call and "container" in call]
    assert [after(call, "create") for call in made] == ["trainingsession", "cpu", "gpu", "gpu-spot"]
    assert {after(call, "--node-locations") for call in made} == {"europe-west4-a"}
    for call in made[1:]:
        assert (after(call, "--num-nodes"), after(call, "--min-nodes"), after(call, "--max-nodes")) == ("0", "0", "4")
    for call in made[2:]:
        assert "gpu-driver-version=default" in after(call, "--accelerator")
    assert ["--spot" in call for call in made] == [False, False, False, True]
    assert "--enable-dataplane-v2" in made[0], "what enforces network policies"


def test_aks_is_made_in_one_zone_with_tainted_gpu_nodes_from_zero(script):
    done, calls = script("aks/create", REGISTRY_NAME="mine", SPOT="yes")
    assert done.returncode == 0, done.stderr
    (cluster,) = [call for call in calls if call[1:3] == ["aks", "create"]]
    assert (after(cluster, "--zones"), after(cluster, "--network-dataplane")) == ("1", "cilium")
    pools = [call for call in calls if call[1:4] == ["aks", "nodepool", "add"]]
    assert [after(call, "--name") for call in pools] == ["cpu", "gpu", "gpuspot"]
    for call in pools:
        assert (after(call, "--node-count"), after(call, "--min-count"), after(call, "--max-count")) == ("0", "0", "4")
    for call in pools[1:]:
        assert after(call, "--node-taints") == "nvidia.com/gpu=present:NoSchedule"
        assert "nvidia.com/gpu.present=true" in call
    assert ["Spot" in call for call in pools] == [False, False, True]


@pytest.mark.parametrize(
    ("name", "setting"), [("gke/create", "PROJECT"), ("gke/remove", "PROJECT"), ("aks/create", "REGISTRY_NAME")]
)
def test_a_script_without_its_setting_asks_for_it_and_does_nothing(script, name, setting):
    done, calls = script(name)
    assert done.returncode != 0
    assert f"{setting}: is not set; " in done.stderr
    assert f"{setting}=" in done.stderr
    assert calls == []


def test_removing_goes_by_the_names_of_making_and_leaves_the_asking_to_the_cloud(script):
    _, made = script("gke/create", PROJECT="mine")
    _, gone = script("gke/remove", PROJECT="mine")
    assert all("--quiet" not in call and "--yes" not in call for call in gone)
    assert {after(call, "delete").partition("@")[0] for call in gone} <= {one for call in made for one in call}
    _, gone = script("aks/remove")
    assert gone == [["az", "group", "delete", "--name", "trainingsession"]]


@pytest.mark.parametrize("cloud", CLOUDS)
def test_sessions_on_spot_name_a_label_that_the_scripts_give(repo, cloud):
    folder = repo / "manifests/clusters" / cloud
    (block,) = re.findall(r"```yaml\n(spec:.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    scheduling = yaml.safe_load(block)["spec"]["scheduling"]
    assert scheduling["nodeSelector"] == {"trainingsession.dev/role": "gpu-spot"}
    # For a Job without a GPU, which tolerates nothing by itself.
    assert "nvidia.com/gpu" in {one["key"] for one in scheduling["tolerations"]}
    made = (folder / ("cluster.yaml" if cloud == "eks" else "create")).read_text()
    assert "gpu-spot" in made
    assert "trainingsession.dev/role" in made
