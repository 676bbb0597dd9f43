"""The samples on a real API server: each is accepted, and means the same to the trainer."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from kubernetes import client

from trainingsession_trainer.config import parse_session
from trainingsession_trainer.yaml12 import load_all

SAMPLES = sorted((Path(__file__).parents[3] / "manifests/samples").glob("*.yaml"))


def sessions(path: Path):
    return [entry for entry in load_all(path.read_text("utf-8")) if entry and entry["kind"] == "TrainingSession"]


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_sample_is_accepted_and_the_trainer_takes_what_the_api_server_stores(api, namespace, path):
    customs = client.CustomObjectsApi(api)
    for document in sessions(path):
        group, version = document["apiVersion"].split("/")
        stored = customs.create_namespaced_custom_object(
            group, version, namespace, "trainingsessions", document, dry_run="All", field_validation="Strict"
        )
        assert parse_session(stored).name == document["metadata"]["name"]


def test_no_two_samples_have_the_same_name():
    names = [document["metadata"]["name"] for path in SAMPLES for document in sessions(path)]
    assert len(names) == len(set(names))


def test_the_example_service_is_accepted_where_pods_are_restricted(api, namespace, repo):
    core, apps = client.CoreV1Api(api), client.AppsV1Api(api)
    restricted = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    core.patch_namespace(namespace, restricted)
    deployment, service = yaml.safe_load_all((repo / "examples/serve/serve.yaml").read_text())
    strict = {"dry_run": "All", "field_validation": "Strict"}
    apps.create_namespaced_deployment(namespace, deployment, **strict)
    core.create_namespaced_service(namespace, service, **strict)
    template = deployment["spec"]["template"]
    pod = {"metadata": {**template["metadata"], "name": "classifier"}, "spec": template["spec"]}
    core.create_namespaced_pod(namespace, pod, **strict)
    assert service["spec"]["selector"] == template["metadata"]["labels"]
    names = {item["name"] for item in template["spec"]["containers"][0]["env"]}
    assert names == {"SESSION"}, "no password, no address: both are in the mounted files"
