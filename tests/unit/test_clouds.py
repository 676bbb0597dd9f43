"""The clusters of manifests/clusters, as far as they can be judged without an account."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

CLOUDS = ("eks",)


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


def test_eksctl_takes_what_is_commented_out(eksctl_schema, repo):
    text = (repo / "manifests/clusters/eks/cluster.yaml").read_text()
    opened = re.sub(r"^(    )# (- namespace|  )", r"\1\2", text, flags=re.MULTILINE)
    document = yaml.safe_load(opened)
    assert [one["namespace"] for one in document["iam"]["podIdentityAssociations"]] == ["kube-system", "team-a"]
    assert wrongs(eksctl_schema, document) == []


def test_the_schema_of_eksctl_finds_mistakes(eksctl_schema, cluster):
    cluster["managedNodeGroups"][1]["taint"] = cluster["managedNodeGroups"][1].pop("taints")
    cluster["managedNodeGroups"][0]["amiFamily"] = "AmazonLinux2024"
    assert len(wrongs(eksctl_schema, cluster)) == 2


def test_gpu_nodes_come_from_zero_keep_others_away_and_hide_their_credentials(cluster):
    groups = {group["name"]: group for group in cluster["managedNodeGroups"]}
    assert set(groups) == {"system", "gpu", "gpu-spot"}
    assert len(groups["system"]["availabilityZones"]) == 1, "MongoDB's volume cannot change its zone"
    for name in ("gpu", "gpu-spot"):
        group = groups[name]
        assert (group["minSize"], group["desiredCapacity"]) == (0, 0)
        assert group["propagateASGTags"]
        assert group["disablePodIMDS"]
        assert "nvidia.com/gpu" in {taint["key"] for taint in group["taints"]}
        assert group["amiFamily"] == "AmazonLinux2023"


def test_the_page_of_a_spot_session_names_labels_and_taints_that_the_group_has(repo, cluster):
    text = (repo / "manifests/clusters/eks/README.md").read_text()
    (block,) = re.findall(r"```yaml\n(spec:.*?)```", text, re.DOTALL)
    scheduling = yaml.safe_load(block)["spec"]["scheduling"]
    (spot,) = [group for group in cluster["managedNodeGroups"] if group.get("spot")]
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
