"""Two releases side by side: each serves its own namespaces, with rights there alone, and keeps to its own MongoDB."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest

from forward_proxy import Authority
from real_cluster import Cluster, condition

FIRST, SECOND, NEITHER, SYSTEM = "e2e-first", "e2e-second", "e2e-neither", "e2e-second-system"
FAST = {"training": {"epochs": 1}, "baseModel": {"inputSize": [32, 32]}, "resources": {"gpus": 0, "cpu": "500m"}}


@pytest.fixture(scope="module")
def releases(stack: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The first release serves one namespace for a while, and a second one, which brings no definition, another."""
    for name in (FIRST, SECOND, NEITHER, SYSTEM):
        stack.namespace(name)
    values = tmp_path_factory.mktemp("release") / "values.yaml"
    values.write_text(stack.helm("get", "values", "trainingsession", "-n", "trainingsession", "-o", "yaml"))
    stack.ok("tests/cluster/install", "--set", f"watchNamespaces={{{FIRST}}}")
    (values.parent / "ca.crt").write_bytes(Authority(values.parent).certificate.read_bytes())
    stack.kubectl("create", "configmap", "authorities", "-n", SYSTEM, f"--from-file={values.parent / 'ca.crt'}")
    stack.kubectl("create", "serviceaccount", "reader", "-n", SECOND)
    stack.helm(
        "install", "second", "charts/trainingsession", "-n", SYSTEM, "-f", str(values), "--wait", "--timeout=180s",
        "--set", f"crds.install=false,watchNamespaces={{{SECOND}}},trainer.serviceAccounts={{reader}}",
        "--set", "trainer.caBundle.configMap=authorities,trainer.proxy.https=http://proxy.example.test:3128",
    )  # fmt: skip
    yield stack
    stack.run("helm", "uninstall", "second", "-n", SYSTEM, "--wait")
    stack.ok("tests/cluster/install")
    for name in (FIRST, SECOND, NEITHER, SYSTEM):
        stack.delete_namespace(name)


def test_each_release_trains_what_is_in_its_own_namespace_and_stores_it_in_its_own_mongodb(releases, digits):
    for namespace in (FIRST, SECOND, NEITHER):
        releases.apply(digits("one", **FAST), namespace=namespace)
    for namespace, host in ((FIRST, "trainingsession-mongodb-0"), (SECOND, "second-trainingsession-mongodb-0")):
        finished = releases.wait_finished(namespace, "one")
        assert finished["status"]["phase"] == "Succeeded", condition(finished, "Failed")
        secret = releases.get("secret", "trainingsession-mongodb", "-n", namespace)
        assert f"@{host}." in base64.b64decode(secret["data"]["uri"]).decode()
    assert "status" not in releases.session(NEITHER, "one"), "neither release serves this namespace"


def test_a_session_runs_as_an_allowed_account_without_a_token_and_with_what_the_values_give(releases, digits):
    given = digits("as-reader", scheduling={"serviceAccountName": "reader"}, **FAST)
    releases.apply(given, namespace=SECOND)
    assert releases.wait_finished(SECOND, "as-reader")["status"]["phase"] == "Succeeded"
    (pod,) = releases.get("pods", "-n", SECOND, "-l", "trainingsession.dev/session=as-reader")["items"]
    assert pod["spec"]["serviceAccountName"] == "reader"
    assert not any("projected" in volume for volume in pod["spec"]["volumes"]), "a token for the API server"
    assert pod["metadata"]["annotations"]["karpenter.sh/do-not-disrupt"] == "true"
    log = releases.kubectl("logs", "-n", SECOND, pod["metadata"]["name"])
    assert "Certificates of the cluster's own authorities that are trusted too: 1" in log


def test_the_second_release_has_rights_in_its_own_namespaces_alone(releases):
    account = f"system:serviceaccount:{SYSTEM}:second-trainingsession-operator"
    for namespace, answer in ((SECOND, "yes"), (FIRST, "no"), (NEITHER, "no")):
        for what in (("create", "jobs"), ("list", "trainingsessions"), ("get", "secrets/trainingsession-mongodb")):
            done = releases.run("kubectl", "auth", "can-i", *what, "-n", namespace, "--as", account)
            assert done.stdout.strip() == answer, (what, namespace)
    roles = releases.kubectl("get", "clusterroles", "-l", "app.kubernetes.io/instance=second", "-o", "name")
    assert roles == ""


def test_removing_the_second_release_leaves_the_first_and_the_definition(releases, digits):
    releases.helm("uninstall", "second", "-n", SYSTEM, "--wait")
    releases.apply(digits("two", **FAST), namespace=FIRST)
    assert releases.wait_finished(FIRST, "two")["status"]["phase"] == "Succeeded"
