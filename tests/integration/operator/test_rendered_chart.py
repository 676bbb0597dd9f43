"""A real API server takes every object that the chart renders, with no field that it does not know."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client

NAMESPACES = ("ml-system", "team-a", "team-b")
VALUES = {
    "by default": None,
    "with everything": "tests/checkers/everything.yaml",
    "with a MongoDB elsewhere": "manifests/kustomize/overlays/external-mongodb/values.yaml",
    "in production": "manifests/kustomize/overlays/production/values.yaml",
}


@pytest.fixture(scope="module")
def paths(api: client.ApiClient, define, schemas: Path) -> dict[tuple[str, str], tuple[str, bool]]:
    """(apiVersion, kind) → plural, and whether it lives in a namespace, as the server tells once others' are there."""
    for definition in sorted(schemas.glob("crd-*.yaml")):
        define(api, definition)
    core = client.CoreV1Api(api)
    for name in NAMESPACES:
        restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
        core.create_namespace({"metadata": {"name": name, "labels": restricted}})
        # Its controller does not run, and no pod is admitted without one.
        core.create_namespaced_service_account(name, {"metadata": {"name": "default"}})
    groups = ["v1", *(version.group_version for group in client.ApisApi(api).get_api_versions().groups
                      for version in group.versions)]  # fmt: skip
    found = {}
    for group in groups:
        for one in ask(api, "GET", f"/{'api' if group == 'v1' else 'apis'}/{group}")["resources"]:
            if "/" not in one["name"]:
                found[group, one["kind"]] = (one["name"], one["namespaced"])
    return found


def ask(api: client.ApiClient, method: str, path: str, body: Any = None, **query: str) -> dict[str, Any]:
    answer = api.call_api(
        path, method, body=body, query_params=list(query.items()), auth_settings=["BearerToken"],
        header_params={"Content-Type": "application/json", "Accept": "application/json"},
        _return_http_data_only=True, _preload_content=False, _request_timeout=20,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(answer.data)
    return found


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_every_rendered_object_is_taken(api, paths, repo: Path, tools: Path, values):
    helm = Path(os.environ.get("TS_HELM", tools / "helm"))
    if not helm.is_file():
        pytest.skip(f"there is no {helm}; run `make cluster`, or set TS_HELM to helm")
    command = [str(helm), "template", "guarded", str(repo / "charts/trainingsession"), "--namespace", NAMESPACES[0]]
    command += ["--set", "crds.install=false", *(["--values", str(repo / values)] if values else [])]
    rendered = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    manifests = [one for one in yaml.safe_load_all(rendered) if one]
    taken = []
    for manifest in manifests:
        version, kind, metadata = manifest["apiVersion"], manifest["kind"], manifest["metadata"]
        plural, namespaced = paths[version, kind]
        where = f"/namespaces/{metadata['namespace']}" if namespaced else ""
        prefix = "/api" if version == "v1" else "/apis"
        try:
            ask(api, "POST", f"{prefix}/{version}{where}/{plural}", manifest, dryRun="All", fieldValidation="Strict")
        except client.ApiException as refused:
            pytest.fail(f"{kind} {metadata['name']}: {json.loads(refused.body)['message']}")
        taken.append(kind)
    assert {"Deployment", "ValidatingAdmissionPolicy", "NetworkPolicy"} <= set(taken)
    if values == VALUES["with everything"]:
        assert {"StatefulSet", "ServiceMonitor", "PrometheusRule", "Certificate", "Role"} <= set(taken)
        assert (taken.count("NetworkPolicy"), taken.count("CronJob")) == (6, 2)
    else:
        assert "ClusterRole" in taken
