"""The chart's rights and admission policies on a real API server, tried with the operator's own account."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import yaml

from real_cluster import Cluster, Finished
from trainingsession_operator.jobs import build_job
from trainingsession_operator.resource import parse_session
from trainingsession_operator.settings import read_settings

Change = Callable[[dict[str, Any]], Any]
SESSION = {
    "apiVersion": "trainingsession.dev/v1alpha1", "kind": "TrainingSession", "name": "digits", "controller": True,
    "uid": "11111111-2222-3333-4444-555555555555", "blockOwnerDeletion": False,
}  # fmt: skip


@dataclass(frozen=True)
class Account:
    """The operator's account of a release that has rights and policies only: nothing runs with it."""

    cluster: Cluster
    home: str
    """The release's own namespace."""
    namespace: str
    """One with sessions."""
    name: str
    user: str

    def kubectl(self, *arguments: str, stdin: str | None = None) -> Finished:
        return self.cluster.run("kubectl", f"--as={self.user}", "-n", self.namespace, *arguments, stdin=stdin)

    def create(self, manifest: dict[str, Any]) -> Finished:
        """Ask the API server whether it would take the object; it runs every check and stores nothing."""
        return self.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(manifest))


@pytest.fixture(scope="module")
def account(stack: Cluster) -> Iterator[Account]:
    release = f"confined-{uuid.uuid4().hex[:6]}"
    parts = ("--show-only", "templates/operator-rbac.yaml", "--show-only", "templates/operator-admission.yaml")
    # As the sample wants it.
    values = ("--set", "trainer.serviceAccounts={flowers-reader}")
    manifests = stack.helm("template", release, "charts/trainingsession", "-n", release, *values, *parts)
    team = f"{release}-team"
    for namespace in (release, team):
        stack.kubectl("create", "namespace", namespace)
    stack.kubectl("apply", "-f", "-", stdin=manifests)
    name = f"{release}-trainingsession-operator"
    made = Account(stack, release, team, name, f"system:serviceaccount:{release}:{name}")
    # A policy is in force a moment after it was made.
    stack.wait_for("the policy on Secrets", lambda: "may write only" in made.create(secret("other")).stderr, 30)
    bare = job()
    del bare["metadata"]["ownerReferences"]
    stack.wait_for("the policy on Jobs", lambda: "owns" in made.create(bare).stderr, 30)
    yield made
    stack.kubectl("delete", "-f", "-", "--wait=false", stdin=manifests)
    stack.kubectl("delete", "namespace", release, team, "--wait=false")


def secret(name: str, **changed: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"uri": "x"}, **changed}


def job(change: Change = lambda pod: None) -> dict[str, Any]:
    """A Job such as the operator makes, with a change to its pod's spec."""
    pod = {
        "automountServiceAccountToken": False,
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532},
        "containers": [
            {
                "name": "trainer",
                "image": "trainingsession/trainer:dev",
                "env": [{"name": "HOME", "value": "/tmp"}],
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            }
        ],
        "volumes": [
            {"name": "mongodb", "secret": {"secretName": "trainingsession-mongodb"}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "data", "persistentVolumeClaim": {"claimName": "flowers", "readOnly": True}},
            {"name": "session", "downwardAPI": {"items": [{"path": "uid", "fieldRef": {"fieldPath": "metadata.uid"}}]}},
        ],
    }
    change(pod)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "digits-11111111", "ownerReferences": [SESSION]},
        "spec": {"template": {"spec": pod}},
    }


def test_its_secrets_and_jobs_are_taken(account):
    for manifest in (secret("trainingsession-mongodb"), job()):
        done = account.create(manifest)
        assert done.code == 0, done.stderr
    server = secret(f"{account.home}-trainingsession-mongodb-server")
    done = replace(account, namespace=account.home).create(server)
    assert done.code == 0, done.stderr


def test_beside_mongodb_s_secrets_and_volumes_a_job_mounts_no_claim(account):
    at_home = replace(account, namespace=account.home)
    done = at_home.create(job())
    assert done.code != 0
    assert "in the operator's own namespace" in done.stderr
    done = at_home.create(job(lambda pod: pod["volumes"].pop(2)))
    assert done.code == 0, done.stderr


@pytest.mark.parametrize("sample", ["digits", "complete"])
def test_the_jobs_that_the_operator_builds_are_taken(account, repo, sample):
    session = yaml.safe_load((repo / f"manifests/samples/{sample}.yaml").read_text())
    session["metadata"] |= {
        "namespace": account.namespace,
        "uid": SESSION["uid"],
        "resourceVersion": "1",
        "generation": 1,
    }
    settings = read_settings({"TRAINER_IMAGE": "trainingsession/trainer:dev", "MONGODB_HOSTS": "mongodb:27017"})
    done = account.create(build_job(parse_session(session), settings))
    assert done.code == 0, done.stderr


def test_the_secret_of_a_server_elsewhere_is_refused(account):
    # The name alone is not enough: it has to be in the release's own namespace, where the Role ends as well.
    done = account.create(secret(f"{account.home}-trainingsession-mongodb-server"))
    assert done.code != 0
    assert "may write only the Secret trainingsession-mongodb" in done.stderr


def test_a_secret_that_would_mint_a_token_is_refused(account):
    minting = secret("trainingsession-mongodb", type="kubernetes.io/service-account-token")
    minting["metadata"]["annotations"] = {"kubernetes.io/service-account.name": account.name}
    done = account.create(minting)
    assert done.code != 0
    assert "only Secrets of type Opaque" in done.stderr


def trainer(**changed: Any) -> Change:
    return lambda pod: pod["containers"][0].update(changed)


def volume(**source: Any) -> Change:
    return lambda pod: pod["volumes"].append({"name": "more", **source})


TOKEN = {"sources": [{"serviceAccountToken": {"path": "token"}}]}
FROM_SECRET = {"secretKeyRef": {"name": "other", "key": "password"}}
REFUSED: dict[str, tuple[Change, str]] = {
    "a token by default": (lambda pod: pod.pop("automountServiceAccountToken"), "automountServiceAccountToken"),
    "a token": (lambda pod: pod.update(automountServiceAccountToken=True), "automountServiceAccountToken"),
    "another account": (lambda pod: pod.update(serviceAccountName="builder"), "name no service account"),
    "a projected token": (volume(projected=TOKEN), "may mount only"),
    "the node's disk": (volume(hostPath={"path": "/"}), "may mount only"),
    "another Secret": (volume(secret={"secretName": "other"}), "may mount only"),
    "all of a data set's Secret": (volume(name="dataset-secret", secret={"secretName": "flowers"}), "may mount only"),
    "another key of a data set's Secret": (
        volume(name="dataset-secret", secret={"secretName": "flowers", "items": [{"key": "token", "path": "token"}]}),
        "may mount only",
    ),
    "a ConfigMap": (volume(configMap={"name": "other"}), "may mount only"),
    "a Secret in the environment": (trainer(env=[{"name": "P", "valueFrom": FROM_SECRET}]), "no environment"),
    "all of a Secret in the environment": (trainer(envFrom=[{"secretRef": {"name": "other"}}]), "no environment"),
    "privileges": (trainer(securityContext={"privileged": True}), "gain no privileges"),
    "no security context": (trainer(securityContext=None), "gain no privileges"),
    "the node's network": (lambda pod: pod.update(hostNetwork=True), "must not enter the node's"),
    "the node's processes": (lambda pod: pod.update(hostPID=True), "must not enter the node's"),
    "an init container with a Secret": (
        lambda pod: pod.update(
            initContainers=[{**pod["containers"][0], "name": "i", "env": [{"name": "P", "valueFrom": FROM_SECRET}]}]
        ),
        "no environment",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_job_with_more_than_it_needs_is_refused(account, case):
    change, sentence = REFUSED[case]
    done = account.create(job(change))
    assert done.code != 0
    assert sentence in done.stderr


@pytest.mark.parametrize(
    "owners", [[], [{**SESSION, "kind": "CronJob", "apiVersion": "batch/v1"}], [{**SESSION, "controller": False}]]
)
def test_a_job_that_no_session_owns_is_refused(account, owners):
    stray = job()
    stray["metadata"]["ownerReferences"] = owners
    done = account.create(stray)
    assert done.code != 0
    assert "only Jobs that a TrainingSession owns" in done.stderr


def test_a_job_of_somebody_else_is_not_adopted(account):
    foreign = job(lambda pod: pod.update(volumes=[]))
    foreign["metadata"] = {"name": "foreign"}
    foreign["spec"]["suspend"] = True
    account.cluster.kubectl("create", "-n", account.namespace, "-f", "-", stdin=json.dumps(foreign))
    adopt = json.dumps({"metadata": {"ownerReferences": [SESSION]}})
    done = account.kubectl("patch", "job/foreign", "--type=merge", f"--patch={adopt}")
    assert done.code != 0
    assert "only Jobs that a TrainingSession owns" in done.stderr


def test_a_job_of_somebody_else_is_not_deleted(account):
    foreign = job(lambda pod: pod.update(volumes=[]))
    foreign["metadata"] = {"name": "kept"}
    foreign["spec"]["suspend"] = True
    account.cluster.kubectl("create", "-n", account.namespace, "-f", "-", stdin=json.dumps(foreign))
    done = account.kubectl("delete", "job/kept", "--wait=false")
    assert done.code != 0
    assert "only Jobs that a TrainingSession owns" in done.stderr


def test_others_are_not_touched_by_the_policies(account):
    done = account.cluster.run(
        "kubectl", "-n", account.namespace, "create", "--dry-run=server", "-f", "-", stdin=json.dumps(secret("other"))
    )
    assert done.code == 0, done.stderr


@pytest.mark.parametrize(
    ("verb", "what", "allowed"),
    [
        ("list", "trainingsessions.trainingsession.dev", True),
        ("patch", "trainingsessions.trainingsession.dev --subresource=status", True),
        ("update", "trainingsessions.trainingsession.dev", False),
        ("get", "secret/trainingsession-mongodb", True),
        ("get", "secret/other", False),
        ("list", "secrets", False),
        ("watch", "secrets", False),
        ("create", "pods", False),
        ("delete", "jobs.batch", True),  # the policy leaves only those of sessions
        ("deletecollection", "jobs.batch", False),
        ("create", "pods --subresource=exec", False),
        ("list", "namespaces", False),
        ("get", "nodes", False),
        ("delete", "customresourcedefinitions", False),
    ],
)
def test_its_rights_end_where_its_work_ends(account, verb, what, allowed):
    done = account.kubectl("auth", "can-i", verb, *what.split())
    assert done.stdout.strip() == ("yes" if allowed else "no"), done.stderr
