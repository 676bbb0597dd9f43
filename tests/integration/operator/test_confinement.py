"""The operator's account on a real API server, with its own token: what it needs is taken, and all else is refused.

The rights and admission policies are the chart's, rendered by the real helm. Every line of REFUSED is one request that
a stolen token could try.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client

import builders
from real_apiserver import RealApiServer
from trainingsession_operator.jobs import build_job

Json = dict[str, Any]
RELEASE, HOME, TEAM, ELSEWHERE = "trainingsession", "ml-system", "team-a", "team-b"
ACCOUNT = "trainingsession-operator"
SESSIONS = f"/apis/trainingsession.dev/v1alpha1/namespaces/{TEAM}/trainingsessions"
JOBS = f"/apis/batch/v1/namespaces/{TEAM}/jobs"
JOBS_AT_HOME = f"/apis/batch/v1/namespaces/{HOME}/jobs"
CORE = f"/api/v1/namespaces/{TEAM}"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
ADMISSION = "/apis/admissionregistration.k8s.io/v1"
SOON = 30.0


@dataclass
class Caller:
    """Sends requests as one user."""

    api: client.ApiClient

    def ask(self, method: str, path: str, body: Json | None = None, query: str = "") -> tuple[int, str]:
        """HTTP status, and the sentence of a refusal."""
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"Content-Type": kind, "Accept": "application/json"}
        try:
            answer = self.api.call_api(
                path, method, header_params=headers, body=body, auth_settings=["BearerToken"],
                query_params=[tuple(pair.split("=")) for pair in query.split("&") if pair],
                _return_http_data_only=True, _preload_content=False, _request_timeout=20,
            )  # fmt: skip
        except client.ApiException as refused:
            return int(refused.status), str(json.loads(refused.body).get("message", ""))
        return int(answer.status), ""


def session(name: str, **spec: Any) -> Json:
    made = builders.resource(name=name, **spec)
    metadata = {"name": name, "namespace": TEAM}
    return {"apiVersion": made["apiVersion"], "kind": made["kind"], "metadata": metadata, "spec": made["spec"]}


def secret(name: str, namespace: str = TEAM, **changed: Any) -> Json:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"uri": "x"}, **changed}


def job(change: Callable[[Json], Any] = lambda pod: None, name: str = "digits-job", **metadata: Any) -> Json:
    """The Job that the operator makes, with a change to its pod's spec."""
    made = build_job(builders.session(), builders.settings())
    made["metadata"] |= {"name": name, "namespace": TEAM, **metadata}
    change(made["spec"]["template"]["spec"])
    return made


def container(**changed: Any) -> Callable[[Json], Any]:
    return lambda pod: pod["containers"][0].update(changed)


def volume(**source: Any) -> Callable[[Json], Any]:
    return lambda pod: pod["volumes"].append({"name": "dataset-secret", **source})


def foreign_job(name: str) -> Json:
    pod = {"restartPolicy": "Never", "containers": [{"name": "c", "image": "example.org/c:1"}]}
    metadata = {"name": name, "namespace": TEAM}
    spec = {"suspend": True, "template": {"spec": pod}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


@pytest.fixture(scope="module")
def cluster(repo: Path, tools: Path, tmp_path_factory: pytest.TempPathFactory, define: Any) -> Iterator[RealApiServer]:
    """An API server with the definition, the chart's rights and policies, two teams, and other people's objects."""
    helm = Path(os.environ.get("TS_HELM", tools / "helm"))
    if not helm.is_file():
        pytest.skip(f"there is no {helm}; run `make cluster`, or set TS_HELM to helm")
    server = RealApiServer(tmp_path_factory.mktemp("confinement"), tools)
    try:
        # As in most clusters, so that only the policies are in the way.
        server.start("--allow-privileged=true")
        define(server.client(), repo / "manifests/crd/trainingsessions.yaml")
        admin = Caller(server.client())
        for namespace in (HOME, TEAM, ELSEWHERE):
            make(admin, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
            account = {"apiVersion": "v1", "kind": "ServiceAccount",
                       "metadata": {"name": "default", "namespace": namespace}}  # fmt: skip
            make(admin, account)
        shown = [f"--show-only=templates/operator-{part}.yaml" for part in ("rbac", "admission")]
        command = [str(helm), "template", RELEASE, str(repo / "charts/trainingsession"), "--namespace", HOME, *shown]
        command += ["--set", "trainer.serviceAccounts={flowers-reader}"]
        rendered = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        for manifest in filter(None, yaml.safe_load_all(rendered)):
            make(admin, manifest)
        for name in ("theirs", "trainingsession-mongodb"):
            make(admin, secret(name))
        make(admin, secret("theirs", HOME))
        make(admin, foreign_job("theirs"))
        make(admin, session("running", runPolicy={"ttlSecondsAfterFinished": 60}))
        yield server
    finally:
        server.stop()


PATHS = {
    "Namespace": "/api/v1/namespaces", "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "Secret": "/api/v1/namespaces/{}/secrets", "Job": "/apis/batch/v1/namespaces/{}/jobs",
    "TrainingSession": "/apis/trainingsession.dev/v1alpha1/namespaces/{}/trainingsessions",
    "ClusterRole": f"{RBAC}/clusterroles", "ClusterRoleBinding": f"{RBAC}/clusterrolebindings",
    "Role": RBAC + "/namespaces/{}/roles", "RoleBinding": RBAC + "/namespaces/{}/rolebindings",
    "ValidatingAdmissionPolicy": f"{ADMISSION}/validatingadmissionpolicies",
    "ValidatingAdmissionPolicyBinding": f"{ADMISSION}/validatingadmissionpolicybindings",
}  # fmt: skip


def make(admin: Caller, manifest: Json) -> None:
    path = PATHS[manifest["kind"]].format(manifest["metadata"].get("namespace"))
    code, words = admin.ask("POST", path, manifest)
    assert code == 201, words


@pytest.fixture(scope="module")
def operator(cluster: RealApiServer) -> Caller:
    """Requests with a token of the operator's account, once the policies are in force."""
    core = client.CoreV1Api(cluster.client())
    asked = client.AuthenticationV1TokenRequest(spec=client.V1TokenRequestSpec(audiences=[], expiration_seconds=3600))
    token = core.create_namespaced_service_account_token(ACCOUNT, HOME, asked).status.token
    own = cluster.client()
    own.configuration.api_key = {"authorization": f"Bearer {token}"}
    caller = Caller(own)
    # A policy is in force a moment after it was made, which no object tells.
    tries = [
        lambda: caller.ask("POST", f"{CORE}/secrets", secret("theirs-too"), "dryRun=All")[0],
        lambda: caller.ask("POST", JOBS, foreign_job("stray"), "dryRun=All")[0],
        lambda: caller.ask("DELETE", f"{SESSIONS}/running", None, "dryRun=All")[0],
    ]
    end = time.monotonic() + SOON
    while not all(one() == 403 for one in tries):
        assert time.monotonic() < end, "the policies did not come into force"
        time.sleep(0.1)
    return caller


TAKEN: dict[str, tuple[Any, ...]] = {
    "lists sessions of all namespaces": ("GET", "/apis/trainingsession.dev/v1alpha1/trainingsessions"),
    "reads a session": ("GET", f"{SESSIONS}/running"),
    "writes a status": ("PATCH", f"{SESSIONS}/running/status", {"status": {"phase": "Pending"}}),
    "makes a Job of a session": ("POST", JOBS, job()),
    "lists pods": ("GET", f"{CORE}/pods"),
    "reads a namespace": ("GET", CORE),
    "reads the namespace's Secret": ("GET", f"{CORE}/secrets/trainingsession-mongodb"),
    "updates it": ("PUT", f"{CORE}/secrets/trainingsession-mongodb", secret("trainingsession-mongodb")),
    "makes it": ("POST", f"/api/v1/namespaces/{ELSEWHERE}/secrets", secret("trainingsession-mongodb", ELSEWHERE)),
    "makes the server's Secret": ("POST", f"/api/v1/namespaces/{HOME}/secrets",
                                  secret("trainingsession-mongodb-server", HOME)),
    "makes a Job of an account that the chart allows": (
        "POST", JOBS, job(lambda pod: pod.update(serviceAccountName="flowers-reader"), "digits-account")),
    "makes a Job of a session in its own namespace": ("POST", JOBS_AT_HOME, job(namespace=HOME)),
    "asks whether sessions are served": ("GET", "/apis/trainingsession.dev/v1alpha1"),
}  # fmt: skip

TOKEN_REQUEST = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": []}}
ADMIN_BINDING = {
    "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "mine"},
    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
    "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": HOME}],
}  # fmt: skip
POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
       "spec": {"containers": [{"name": "c", "image": "example.org/c:1"}]}}  # fmt: skip
MINTING = secret("trainingsession-mongodb", ELSEWHERE, type="kubernetes.io/service-account-token")
MINTING["metadata"]["annotations"] = {"kubernetes.io/service-account.name": "default"}
OWNERLESS = job()
OWNERLESS["metadata"]["ownerReferences"] = []
RIGHT = "cannot"
"""Of RBAC: the account "cannot" do it. The others are words of the chart's policies."""

REFUSED: dict[str, tuple[str, Any, ...]] = {
    # Secrets
    "another Secret of the namespace": (RIGHT, "GET", f"{CORE}/secrets/theirs"),
    "another Secret of its own namespace": (RIGHT, "GET", f"/api/v1/namespaces/{HOME}/secrets/theirs"),
    "all Secrets of a namespace": (RIGHT, "GET", f"{CORE}/secrets"),
    "all Secrets of the cluster": (RIGHT, "GET", "/api/v1/secrets"),
    "a watch of Secrets": (RIGHT, "GET", f"{CORE}/secrets", None, "watch=true"),
    "to delete the namespace's Secret": (RIGHT, "DELETE", f"{CORE}/secrets/trainingsession-mongodb"),
    "to patch the namespace's Secret": (RIGHT, "PATCH", f"{CORE}/secrets/trainingsession-mongodb", {"data": {}}),
    "to change another Secret": (RIGHT, "PUT", f"{CORE}/secrets/theirs", secret("theirs")),
    "to make another Secret": ("may write only the Secret", "POST", f"{CORE}/secrets", secret("mine")),
    "the server's Secret in another namespace": (
        "may write only the Secret", "POST", f"{CORE}/secrets", secret("trainingsession-mongodb-server")),
    "a Secret that mints a token": (
        "only Secrets of type Opaque", "POST", f"/api/v1/namespaces/{ELSEWHERE}/secrets", MINTING),
    # Accounts and rights
    "a token of another account": (RIGHT, "POST", f"{CORE}/serviceaccounts/default/token", TOKEN_REQUEST),
    "a token of its own account": (
        RIGHT, "POST", f"/api/v1/namespaces/{HOME}/serviceaccounts/{ACCOUNT}/token", TOKEN_REQUEST),
    "to make itself an administrator": (RIGHT, "POST", f"{RBAC}/clusterrolebindings", ADMIN_BINDING),
    "to change its own rights": (RIGHT, "PATCH", f"{RBAC}/clusterroles/{ACCOUNT}", {"rules": []}),
    "to read its own rights": (RIGHT, "GET", f"{RBAC}/clusterroles/{ACCOUNT}"),
    "to remove a policy": (
        RIGHT, "DELETE", f"{ADMISSION}/validatingadmissionpolicybindings/{ACCOUNT}-secrets"),
    "to change a policy": (
        RIGHT, "PATCH", f"{ADMISSION}/validatingadmissionpolicies/{ACCOUNT}-jobs", {"spec": {"validations": []}}),
    # Pods, nodes and what else there is
    "to make a pod": (RIGHT, "POST", f"{CORE}/pods", POD),
    "to delete pods": (RIGHT, "DELETE", f"{CORE}/pods"),
    "a shell in a pod": (RIGHT, "POST", f"{CORE}/pods/p/exec", None, "command=sh"),
    "the log of a pod": (RIGHT, "GET", f"{CORE}/pods/p/log"),
    "all nodes": (RIGHT, "GET", "/api/v1/nodes"),
    "all namespaces": (RIGHT, "GET", "/api/v1/namespaces"),
    "to delete a namespace": (RIGHT, "DELETE", CORE),
    "to change a namespace": (RIGHT, "PATCH", CORE, {"metadata": {"labels": {"a": "b"}}}),
    "ConfigMaps": (RIGHT, "GET", f"{CORE}/configmaps"),
    "PersistentVolumeClaims": (RIGHT, "GET", f"{CORE}/persistentvolumeclaims"),
    "to make a Deployment": (RIGHT, "POST", f"/apis/apps/v1/namespaces/{TEAM}/deployments", {}),
    "to change the definition": (
        RIGHT, "PATCH", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/trainingsessions.trainingsession.dev",
        {"metadata": {"labels": {"a": "b"}}}),
    "the definition": (
        RIGHT, "GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/trainingsessions.trainingsession.dev"),
    "another definition": (RIGHT, "GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/others.example.com"),
    # Sessions
    "to make a session": (RIGHT, "POST", SESSIONS, session("mine")),
    "to change a session's spec": (RIGHT, "PATCH", f"{SESSIONS}/running", {"spec": {"suspend": True}}),
    "to replace a status": (RIGHT, "PUT", f"{SESSIONS}/running/status", session("running")),
    "to delete all sessions": (RIGHT, "DELETE", SESSIONS),
    "to delete a session that is not finished": ("only finished sessions", "DELETE", f"{SESSIONS}/running"),
    # Jobs
    "to delete all Jobs": (RIGHT, "DELETE", JOBS),
    "to replace a Job": (RIGHT, "PUT", f"{JOBS}/theirs", foreign_job("theirs")),
    "to delete somebody else's Job": ("that a TrainingSession owns", "DELETE", f"{JOBS}/theirs"),
    "to adopt somebody else's Job": (
        "that a TrainingSession owns", "PATCH", f"{JOBS}/theirs",
        {"metadata": {"ownerReferences": job()["metadata"]["ownerReferences"]}}),
    "to start somebody else's Job": (
        "that a TrainingSession owns", "PATCH", f"{JOBS}/theirs", {"spec": {"suspend": False}}),
    "a Job that no session owns": ("that a TrainingSession owns", "POST", JOBS, OWNERLESS),
    "a Job with another account": (
        "name no service account but", "POST", JOBS, job(lambda pod: pod.update(serviceAccountName="builder"))),
    "a Job of an allowed account with its token": (
        "automountServiceAccountToken to false", "POST", JOBS,
        job(lambda pod: pod.update(serviceAccountName="flowers-reader", automountServiceAccountToken=True))),
    "a Job with a token": (
        "automountServiceAccountToken", "POST", JOBS, job(lambda pod: pod.update(automountServiceAccountToken=True))),
    "a Job with the node's disk": ("may mount only", "POST", JOBS, job(volume(hostPath={"path": "/"}))),
    "a Job with another Secret": ("may mount only", "POST", JOBS, job(volume(secret={"secretName": "theirs"}))),
    "a Job with the server's password in its own namespace": (
        "in the operator's own namespace", "POST", JOBS_AT_HOME,
        job(volume(secret={"secretName": "trainingsession-mongodb-server",
                           "items": [{"key": "password", "path": "password"}]}), namespace=HOME)),
    "a Job with the backups in its own namespace": (
        "in the operator's own namespace", "POST", JOBS_AT_HOME,
        job(volume(persistentVolumeClaim={"claimName": "trainingsession-backup"}), namespace=HOME)),
    "a Job with a projected token": (
        "may mount only", "POST", JOBS,
        job(volume(projected={"sources": [{"serviceAccountToken": {"path": "token"}}]}))),
    "a Job with a Secret in its environment": (
        "no environment", "POST", JOBS, job(container(envFrom=[{"secretRef": {"name": "theirs"}}]))),
    "a privileged Job": (
        "gain no privileges", "POST", JOBS, job(container(securityContext={"privileged": True}))),
    "a Job with a capability": (
        "gain no privileges", "POST", JOBS,
        job(container(securityContext={"allowPrivilegeEscalation": False, "capabilities": {"add": ["NET_RAW"]}}))),
    "a Job that runs as root": (
        "must not run as root", "POST", JOBS, job(lambda pod: pod["securityContext"].update(runAsNonRoot=False))),
    "a Job with a container that runs as root": (
        "must not run as root", "POST", JOBS,
        job(lambda pod: pod["containers"][0]["securityContext"].update(runAsUser=0))),
    "a Job with a port of the node": (
        "offer no ports", "POST", JOBS, job(container(ports=[{"containerPort": 80, "hostPort": 80}]))),
    "a Job in the node's network": (
        "must not enter the node's", "POST", JOBS, job(lambda pod: pod.update(hostNetwork=True))),
}  # fmt: skip


@pytest.mark.parametrize("case", TAKEN)
def test_what_the_operator_needs_is_taken(operator, case):
    code, words = operator.ask(*TAKEN[case])
    assert code in (200, 201), words


@pytest.mark.parametrize("case", REFUSED)
def test_all_else_is_refused(operator, case):
    sentence, *request = REFUSED[case]
    code, words = operator.ask(*request)
    assert code == 403, (code, words)
    assert sentence in words
    assert ACCOUNT in words or "operator of TrainingSession" in words


def test_whoever_is_not_the_operator_is_not_touched_by_its_policies(cluster, operator):
    del operator  # the policies are in force
    admin = Caller(cluster.client())
    assert admin.ask("POST", f"{CORE}/secrets", secret("anything"), "dryRun=All")[0] == 201
    assert admin.ask("DELETE", f"{JOBS}/theirs", None, "dryRun=All")[0] == 200
