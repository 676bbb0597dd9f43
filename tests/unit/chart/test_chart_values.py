"""What the chart accepts as values, and what it refuses with a sentence that names the key."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest
import yaml


def nested(path: str, value: Any) -> dict[str, Any]:
    """{"a": {"b": value}} for "a.b"."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


def objects(schema: dict[str, Any], root: dict[str, Any], path: str = "") -> list[tuple[str, dict[str, Any]]]:
    """Every object of the schema with its path, references followed."""
    if "$ref" in schema:
        return objects(root["definitions"][schema["$ref"].rpartition("/")[2]], root, path)
    found = [(path, schema)] if schema.get("type") == "object" else []
    for key, child in schema.get("properties", {}).items():
        found += objects(child, root, f"{path}.{key}".lstrip("."))
    for child in [*schema.get("allOf", []), *([schema["items"]] if "items" in schema else [])]:
        found += objects(child, root, path)
    return found


def test_the_chart_is_clean_for_helm_lint_strict(helm, chart):
    done = helm("lint", "--strict", str(chart))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout


@pytest.mark.parametrize(
    "path",
    [
        "mongo",
        "crds.instal",
        "operator.replicas",
        "monitoring.serviceMonitor.scrape",
        "operator.image.name",
        "operator.resources.limit",
        "operator.resources.limits.memroy",
        "trainer.env",
        "trainer.image.pullSecrets",
        "mongodb.enabled",
        "mongodb.external.uri",
        "mongodb.persistence.storageClass",
        "backup.cron",
        "backup.s3.bucket",
        "mongodb.resources.requests.gpu",
    ],
)
def test_an_unknown_key_is_refused_by_name(template, path):
    done = template(nested(path, {"x": "y"}))
    assert done.returncode != 0
    parent, _, key = path.rpartition(".")
    assert f"'{key}'" in done.stderr
    assert parent.replace(".", "/") in done.stderr


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("operator.workers", 0),
        ("operator.workers", "many"),
        ("operator.logLevel", "verbose"),
        ("operator.logFormat", "xml"),
        ("operator.apiRequestsPerSecond", 1),
        ("operator.apiRequestsBurst", 0),
        ("monitoring.serviceMonitor.interval", "often"),
        ("monitoring.prometheusRule.runbookUrl", "https://example.com/runbook#top"),
        ("monitoring.prometheusRule.pendingMinutes", 1),
        ("monitoring.dashboard.labels", {"grafana_dashboard": 1}),
        ("operator.image.repository", ""),
        ("operator.image.digest", "sha256:short"),
        ("trainer.image.pullPolicy", "Sometimes"),
        ("trainer.moduleImages", ["registry.example.com/team, evil"]),
        ("features.quotaPerNamespace", "200"),
        ("features.quotaPerNamespace", "0Gi"),
        ("features.evictionGraceMinutes", 0),
        ("trainer.datasetsMirror", "mirror/data"),
        ("trainer.weightsMirror", "https://me:secret@mirror"),
        ("storage.intervalMinutes", 0),
        ("storage.orphanGraceHours", 2),
        ("backup.schedule", "every night"),
        ("backup.keep", 0),
        ("backup.deadlineMinutes", 1),
        ("backup.persistence.size", "50"),
        ("backup.s3.url", "https://backups"),
        ("backup.s3.endpoint", "minio:9000"),
        ("mongodb.users", "provided"),
        ("mongodb.persistence.size", "50"),
        ("mongodb.resources.limits.memory", None),
        ("mongodb.resources.limits.memory", "2e9"),
        ("mongodb.cacheSizeGB", 0.1),
        ("mongodb.replicaSet", ""),
        ("mongodb.runAsUser", 0),
        ("watchNamespaces", ["Team_A"]),
        ("watchNamespaces", "team-a"),
        ("operator.tolerations", [{"key": "a", "effct": "NoSchedule"}]),
        ("global.imageRegistry", "registry example.com"),
        ("global.imageRegistry", "https://registry.example.com"),
        ("operator.priorityClassName", "High Priority"),
        ("trainer.serviceAccounts", "flowers-reader"),
        ("trainer.serviceAccounts", ["Flowers_Reader"]),
        ("trainer.podAnnotations", {"karpenter.sh/do-not-disrupt": True}),
        ("trainer.podLabels", {"cost center": "7"}),
        ("trainer.podLabels", {"cost-center": "7 and 8"}),
        ("operator.nodeSelector", {"pool/a/b": "ml"}),
        ("trainer.gpuTolerations", [{"key": "nvidia.com/gpu", "operator": "Exist"}]),
        ("trainer.caBundle.configMap", "Our_Authorities"),
        ("trainer.proxy.http", "proxy:3128"),
        ("trainer.proxy.noProxy", "a,b"),
        ("trainer.packageIndex", "https://me:secret@index/simple"),
    ],
)
def test_a_bad_value_is_refused_with_its_place(template, path, value):
    done = template(nested(path, value))
    assert done.returncode != 0
    assert path.split(".")[-1] in done.stderr


def test_maps_and_lists_of_kubernetes_are_taken_as_they_are(render):
    toleration = {"key": "dedicated", "operator": "Equal", "value": "ml", "effect": "NoSchedule"}
    where = {"nodeSelector": {"example.com/pool": "system"}, "tolerations": [toleration]}
    for pod in render({"operator": where, "mongodb": where}).pods().values():
        assert pod["spec"]["nodeSelector"] == {"example.com/pool": "system"}
        assert pod["spec"]["tolerations"] == [toleration]


def test_every_object_of_the_schema_refuses_unknown_keys(chart):
    schema = json.loads((chart / "values.schema.json").read_text())
    # Maps of labels and the like name the type of their values. Kubernetes itself checks an affinity, and `global` is
    # shared with other charts.
    free = {"global", "operator.affinity"}
    found = objects(schema, schema)
    assert {path for path, node in found if node.get("additionalProperties", True) is True} == free


def test_the_schema_knows_exactly_the_keys_of_the_values(chart):
    schema = json.loads((chart / "values.schema.json").read_text())
    values = yaml.safe_load((chart / "values.yaml").read_text())
    for path, node in objects(schema, schema):
        present: Any = values
        for key in path.split(".") if path else []:
            present = present[key] if isinstance(present, dict) and key in present else None
        if isinstance(present, dict) and "additionalProperties" in node and node.get("properties"):
            unset = set(node["properties"]) - set(present)
            # Quantities need not be given, and `global` is Helm's.
            assert unset <= {"global", "requests", "limits", "cpu", "memory", "ephemeral-storage"}, path


def test_every_value_carries_a_comment(chart):
    lines = (chart / "values.yaml").read_text().splitlines()
    values = yaml.safe_load("\n".join(lines))
    containers = {"resources", "requests", "limits", "cpu", "memory"}
    for number, line in enumerate(lines):
        key, colon, value = line.strip().partition(":")
        if not colon or line.strip().startswith("#") or key in containers:
            continue
        is_block = not value.strip()
        assert is_block or lines[number - 1].strip().startswith("#"), f"values.yaml:{number + 1}: {key} has no comment"
    assert values["operator"]["resources"]


def unknown_fields(value: Any, schema: dict[str, Any], path: str = "") -> list[str]:
    """Fields of a manifest that the definition does not have; the API server would refuse or drop them."""
    if isinstance(value, list):
        return [name for item in value for name in unknown_fields(item, schema.get("items", {}), path)]
    if not isinstance(value, dict) or schema.get("x-kubernetes-preserve-unknown-fields") or "properties" not in schema:
        return []
    found = [f"{path}.{key}" for key in value if key not in schema["properties"]]
    for key, child in value.items():
        found += unknown_fields(child, schema["properties"].get(key, {}), f"{path}.{key}")
    return found


@pytest.mark.parametrize("values", [{}, {"watchNamespaces": ["team-a"]}, {"mongodb": {"external": {"uriSecret": "u"}}}])
def test_the_notes_name_what_is_there_and_their_session_is_valid(helm, render, chart, repo, values):
    arguments = ("install", "trainingsession", str(chart), "-n", "ml-system", "--dry-run=client", "--values", "-")
    done = helm(*arguments, stdin=json.dumps(values))
    assert done.returncode == 0, done.stderr
    notes = done.stdout.partition("\nNOTES:\n")[2]
    names = {name.partition("/")[2] for name in render(values).names()}
    for kind, name in re.findall(r"(deploy|sts)/([a-z0-9-]+)", notes):
        assert name in names, f"{kind}/{name}"
    assert ("sts/" in notes) == ("external" not in values.get("mongodb", {}))

    session = yaml.safe_load(re.search(r"<<END\n(.*?)\nEND\n", notes, re.DOTALL)[1])
    crd = yaml.safe_load((repo / "manifests/crd/trainingsessions.yaml").read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    jsonschema.Draft4Validator(schema).validate(session)
    assert unknown_fields(session["spec"], schema["properties"]["spec"]) == []
    assert session["kind"] == crd["spec"]["names"]["kind"]
