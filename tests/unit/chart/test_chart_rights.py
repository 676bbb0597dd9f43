"""What the operator may do in the cluster: the rights, the admission policies, and the definition it serves."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

OPERATOR = "trainingsession-operator"
ACCOUNT = [{"kind": "ServiceAccount", "name": OPERATOR, "namespace": "ml-system"}]
KEEP = {"helm.sh/resource-policy": "keep"}


def rules(role: dict[str, Any]) -> set[tuple[str, str, tuple[str, ...], str]]:
    """Each single right of a role: API group, resource, names, verb."""
    return {
        (group, resource, tuple(rule.get("resourceNames", ())), verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def served(namespace: str = "") -> set[tuple[str, str, tuple[str, ...], str]]:
    """The rights in a namespace whose sessions are served, all of them and no other."""
    names = ("trainingsession-mongodb",)
    return {
        ("", "namespaces", (namespace,) if namespace else (), "get"),
        *(("trainingsession.dev", "trainingsessions", (), verb) for verb in ("get", "list", "watch", "delete")),
        ("kueue.x-k8s.io", "workloads", (), "list"),
        ("visibility.kueue.x-k8s.io", "localqueues/pendingworkloads", (), "get"),
        ("trainingsession.dev", "trainingsessions/status", (), "patch"),
        *(("batch", "jobs", (), verb) for verb in ("create", "get", "list", "watch", "patch", "delete")),
        *(("", "pods", (), verb) for verb in ("list", "watch")),
        *(("", "events", (), verb) for verb in ("create", "list")),
        *(("", "secrets", names, verb) for verb in ("get", "update")),
        ("", "secrets", (), "create"),
    }


def test_the_operator_has_these_rights_and_no_other(render):
    rendered = render()
    assert rules(rendered.one("ClusterRole", OPERATOR)) == served()
    server = ("", "secrets", ("trainingsession-mongodb-server",), "get")
    assert rules(rendered.one("Role", f"{OPERATOR}-server")) == {server, ("", "secrets", (), "create")}
    assert len(rendered.kind("ClusterRole")) == len(rendered.kind("Role")) == 1


def documented(repo: Path) -> dict[str, set[tuple[str, str, tuple[str, ...], str]]]:
    """The rights in docs/rbac.md by where they hold."""
    found: dict[str, set[tuple[str, str, tuple[str, ...], str]]] = {"sessions": set(), "release": set()}
    for line in (repo / "docs/rbac.md").read_text().splitlines():
        where, *columns = (part.strip() for part in line.strip("|").split("|"))
        if where in found:
            group, resource, names, verb, why = columns
            assert why.endswith("."), line
            found[where].add(("" if group == "core" else group, resource, tuple(filter(None, [names])), verb))
    return found


def test_every_right_is_documented_with_its_reason_and_every_documented_one_is_given(render, repo):
    rendered, told = render(), documented(repo)
    assert rules(rendered.one("ClusterRole", OPERATOR)) == told["sessions"]
    assert rules(rendered.one("Role", f"{OPERATOR}-server")) == told["release"]


VERBS = {
    "read": "get",
    "get": "get",
    "list": "list",
    "create": "create",
    "patch": "patch",
    "replace": "update",
    "delete": "delete",
}
RESOURCES = {
    "job": ("batch", "jobs"),
    "pod": ("", "pods"),
    "event": ("", "events"),
    "secret": ("", "secrets"),
    "custom_object": ("trainingsession.dev", "trainingsessions"),
    "custom_object_status": ("trainingsession.dev", "trainingsessions/status"),
    "namespace": ("", "namespaces"),
}


def asked_for(source: str) -> set[tuple[str, str, str]]:
    """The rights that calls of the Kubernetes client need, by the names of its methods: group, resource, verb."""
    needed = set()
    for node in ast.walk(ast.parse(source)):
        name = node.attr if isinstance(node, ast.Attribute) else ""
        match = re.fullmatch(rf"({'|'.join(VERBS)})_(?:namespaced_|cluster_)?(\w+?)(?:_for_all_namespaces)?", name)
        if match and match[2] in RESOURCES:
            needed.add((*RESOURCES[match[2]], VERBS[match[1]]))
    return needed


def test_the_rights_are_what_the_operator_s_code_asks_for(render, repo):
    package = repo / "operator/src/trainingsession_operator"
    needed = asked_for((package / "cluster.py").read_text()) | asked_for((package / "mongodb_server.py").read_text())
    # kopf lists and watches what handlers.py subscribes to.
    watched = {("trainingsession.dev", "trainingsessions"), ("batch", "jobs"), ("", "pods")}
    needed |= {(*resource, verb) for resource in watched for verb in ("list", "watch")}
    # kueue.py asks for these by name.
    needed |= {("kueue.x-k8s.io", "workloads", "list")}
    needed |= {("visibility.kueue.x-k8s.io", "localqueues/pendingworkloads", "get")}
    rendered = render()
    given = rules(rendered.one("ClusterRole", OPERATOR)) | rules(rendered.one("Role", f"{OPERATOR}-server"))
    assert {(group, resource, verb) for group, resource, _, verb in given} == needed


@pytest.mark.parametrize("values", [{}, {"watchNamespaces": ["a"]}, {"mongodb": {"external": {"uriSecret": "atlas"}}}])
def test_no_right_has_a_wildcard_or_reads_secrets_at_large(render, values):
    rendered = render(values)
    for role in [*rendered.kind("ClusterRole"), *rendered.kind("Role")]:
        for group, resource, names, verb in rules(role):
            assert "*" not in (group, resource, verb)
            if resource == "secrets":
                assert verb not in {"list", "watch", "deletecollection", "patch"}
                assert names or verb == "create"


def test_every_binding_is_for_the_operator_s_account(render):
    rendered = render({"watchNamespaces": ["team-a"]})
    assert rendered.one("ServiceAccount", OPERATOR)["metadata"]["namespace"] == "ml-system"
    assert rendered.pods()[OPERATOR]["spec"]["serviceAccountName"] == OPERATOR
    bindings = [*rendered.kind("ClusterRoleBinding"), *rendered.kind("RoleBinding")]
    assert len(bindings) == 2
    for binding in bindings:
        assert binding["subjects"] == ACCOUNT
        role = rendered.one(binding["roleRef"]["kind"], binding["roleRef"]["name"])
        assert role["metadata"].get("namespace") == binding["metadata"].get("namespace")


def test_with_listed_namespaces_the_rights_are_there_only(render):
    rendered = render({"watchNamespaces": ["team-a", "team-b"]})
    assert not rendered.kind("ClusterRole")
    assert not rendered.kind("ClusterRoleBinding")
    roles = {
        role["metadata"]["namespace"]: role for role in rendered.kind("Role") if role["metadata"]["name"] == OPERATOR
    }
    assert {namespace: rules(role) for namespace, role in roles.items()} == {
        name: served(name) for name in ("team-a", "team-b")
    }


def test_whoever_may_create_nothing_for_the_whole_cluster_can_install_for_the_namespaces_that_are_listed(render):
    values = {"watchNamespaces": ["team-a"], "crds": {"install": False}, "admissionPolicy": {"enabled": False}}
    assert all(manifest["metadata"].get("namespace") for manifest in render(values).all)


def test_the_admission_policies_deny_and_are_for_the_operator_only(render):
    rendered = render()
    policies = rendered.kind("ValidatingAdmissionPolicy")
    assert {policy["metadata"]["name"] for policy in policies} == {
        f"{OPERATOR}-{kind}" for kind in ("secrets", "jobs", "sessions")
    }
    for policy in policies:
        name = policy["metadata"]["name"]
        assert policy["spec"]["failurePolicy"] == "Fail"
        condition = policy["spec"]["matchConditions"][0]["expression"]
        assert condition == 'request.userInfo.username == "system:serviceaccount:ml-system:trainingsession-operator"'
        assert all(validation["message"] for validation in policy["spec"]["validations"])
        binding = rendered.one("ValidatingAdmissionPolicyBinding", name)
        assert binding["spec"] == {"policyName": name, "validationActions": ["Deny"]}


def test_with_an_external_mongodb_the_server_secret_is_not_allowed_either(render):
    own, external = render(), render({"mongodb": {"external": {"uriSecret": "atlas"}}})
    name = "trainingsession-mongodb-server"
    assert name in str(own.one("ValidatingAdmissionPolicy", f"{OPERATOR}-secrets"))
    assert name not in str(external.all)


def test_the_definition_is_the_source_s_and_is_kept(render, repo):
    source = yaml.safe_load((repo / "manifests/crd/trainingsessions.yaml").read_text())
    rendered = render().one("CustomResourceDefinition", "trainingsessions.trainingsession.dev")
    assert rendered["metadata"].pop("annotations") == KEEP
    assert rendered == source


def test_the_definition_can_be_left_out(render):
    assert not render({"crds": {"install": False}}).kind("CustomResourceDefinition")


def generate(script: Any, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, check=False)


def test_the_chart_s_definition_is_up_to_date(repo):
    done = generate(repo / "charts/generate", "--check")
    assert done.returncode == 0, done.stderr


def test_a_changed_definition_is_noticed_and_its_braces_survive_helm(repo, tmp_path, helm):
    for part in ("charts", "manifests/crd"):
        shutil.copytree(repo / part, tmp_path / part)
    source = tmp_path / "manifests/crd/trainingsessions.yaml"
    changed = source.read_text().replace("description: One training of", "description: '{{ .Values }} }} {{' #", 1)
    source.write_text(changed)

    stale = generate(tmp_path / "charts/generate", "--check")
    assert stale.returncode == 1
    assert "make generate" in stale.stderr

    assert generate(tmp_path / "charts/generate").returncode == 0
    assert generate(tmp_path / "charts/generate", "--check").returncode == 0
    done = helm(
        "template", "x", str(tmp_path / "charts/trainingsession"), "--show-only", "templates/crd-trainingsessions.yaml"
    )
    assert done.returncode == 0, done.stderr
    rendered = yaml.safe_load(done.stdout)
    rendered["metadata"].pop("annotations")
    assert rendered == yaml.safe_load(changed)


def test_a_definition_that_cannot_be_marked_as_kept_is_refused(repo, tmp_path):
    for part in ("charts", "manifests/crd"):
        shutil.copytree(repo / part, tmp_path / part)
    source = tmp_path / "manifests/crd/trainingsessions.yaml"
    source.write_text(source.read_text().replace("metadata:\n", "metadata:\n  annotations: {a: b}\n", 1))
    done = generate(tmp_path / "charts/generate")
    assert done.returncode != 0
    assert "without annotations" in done.stderr
