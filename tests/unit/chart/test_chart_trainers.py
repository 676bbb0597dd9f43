"""What the values say of every trainer's pod, of images and of the operator's own pod, as the operator reads it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from trainingsession_operator.settings import read_settings

OPERATOR = "trainingsession-operator"
MONGODB = "trainingsession-mongodb"


def told(rendered: Any, name: str = OPERATOR) -> dict[str, str]:
    """The operator's environment as the kubelet gives it: $$ is $."""
    found = rendered.pods()[name]["spec"]["containers"][0]
    return {variable["name"]: variable.get("value", "").replace("$$", "$") for variable in found["env"]}


def test_trainers_are_kept_where_they_are_unless_told_otherwise(render):
    pods = read_settings(told(render())).pods
    assert pods.annotations == {
        "karpenter.sh/do-not-disrupt": "true",
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    }
    assert (pods.tolerations, pods.gpu_tolerations, pods.node_selector, pods.labels) == ((), (), {}, {})
    assert (pods.proxy, pods.ca_bundle) == ({}, "")


def test_every_value_of_trainers_reaches_the_operator_as_it_was_given(render):
    trainer = {
        "podAnnotations": {"karpenter.sh/do-not-disrupt": None, "note": "$(HOME) <b> & \"quoted\""},
        "podLabels": {"cost-center": "7"},
        "nodeSelector": {"pool": "ml"},
        "tolerations": [{"key": "dedicated", "value": "ml", "effect": "NoSchedule"}],
        "gpuTolerations": [{"key": "pool", "value": "gpu", "effect": "NoSchedule"}],
        "serviceAccounts": ["flowers-reader", "other"],
        "proxy": {"https": "http://proxy.example.com:3128", "noProxy": [".example.com"]},
        "packageIndex": "https://mirror.example.com/simple",
    }  # fmt: skip
    found = read_settings(told(render({"trainer": trainer})))
    assert found.pods.annotations == {
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        "note": "$(HOME) <b> & \"quoted\"",
    }  # fmt: skip
    assert (found.pods.labels, found.pods.node_selector) == ({"cost-center": "7"}, {"pool": "ml"})
    assert found.pods.tolerations == tuple(trainer["tolerations"])
    assert found.pods.gpu_tolerations == tuple(trainer["gpuTolerations"])
    assert found.service_accounts == ("flowers-reader", "other")
    assert found.package_index == "https://mirror.example.com/simple"
    assert found.pods.proxy["HTTPS_PROXY"] == "http://proxy.example.com:3128"
    assert {".example.com", f"{MONGODB}-0.{MONGODB}.ml-system.svc"} <= set(found.pods.proxy["NO_PROXY"].split(","))


def test_the_policy_lets_pass_the_service_accounts_of_the_values_alone(render):
    def clause(values: dict[str, Any] | None = None) -> str:
        policy = render(values).one("ValidatingAdmissionPolicy", f"{OPERATOR}-jobs")
        return next(e["expression"] for e in policy["spec"]["validations"] if "serviceAccountName" in e["expression"])

    assert 'serviceAccountName in ["default"]' in clause()
    allowed = clause({"trainer": {"serviceAccounts": ["flowers-reader"]}})
    assert 'serviceAccountName in ["default","flowers-reader"]' in allowed


def test_the_authorities_are_mounted_from_their_configmap(render):
    rendered = render({"trainer": {"caBundle": {"configMap": "our-authorities", "key": "bundle.pem"}}})
    pod = rendered.pods()[OPERATOR]["spec"]
    (volume,) = (volume for volume in pod["volumes"] if volume["name"] == "ca-bundle")
    assert volume["configMap"] == {
        "name": "our-authorities", "items": [{"key": "bundle.pem", "path": "ca-bundle.crt"}],
    }  # fmt: skip
    (mount,) = (mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "ca-bundle")
    assert told(rendered)["CA_BUNDLE_FILE"] == f"{mount['mountPath']}/ca-bundle.crt"
    assert "CA_BUNDLE_FILE" not in told(render())


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"trainer": {"proxy": {"https": "http://me:hunter2@proxy:3128"}}},
         "trainer.proxy.https holds a user or a password"),
        ({"trainer": {"podLabels": {"app.kubernetes.io/name": "mine"}}},
         "trainer.podLabels: app.kubernetes.io/name is given by the chart,"),
        ({"trainer": {"podLabels": {"trainingsession.dev/session": "mine"}}}, "trainingsession.dev/session is"),
        ({"trainer": {"podLabels": {"kueue.x-k8s.io/queue-name": "mine"}}}, "kueue.x-k8s.io/queue-name is given by"),
        ({"trainer": {"podLabels": {"job-name": "mine"}}}, "job-name is given by"),
        ({"trainer": {"podAnnotations": {"trainingsession.dev/session": "{}"}}},
         "trainer.podAnnotations: trainingsession.dev/session is the operator's own"),
        ({"commonLabels": {"app.kubernetes.io/instance": "mine"}},
         "commonLabels: app.kubernetes.io/instance is given by the chart"),
        ({"operator": {"podLabels": {"app.kubernetes.io/component": "mine"}}}, "is given by the chart"),
        ({"operator": {"serviceAccount": {"create": False}}}, "name the account that is there"),
    ],
)  # fmt: skip
def test_what_the_schema_cannot_know_is_refused_with_a_sentence(template, values, sentence):
    done = template(values)
    assert done.returncode != 0
    assert sentence in done.stderr
    assert "hunter2" not in done.stderr


REGISTRY = "registry.example.com/mirror"


def images(rendered: Any) -> list[str]:
    pods = rendered.pods().values()
    used = [c["image"] for pod in pods for c in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]]
    jobs = [job["spec"]["jobTemplate"]["spec"]["template"]["spec"] for job in rendered.kind("CronJob")]
    bare = [pod["spec"] for pod in rendered.kind("Pod")]
    used += [c["image"] for spec in (*jobs, *bare) for c in [*spec.get("initContainers", []), *spec["containers"]]]
    return [*used, told(rendered)["TRAINER_IMAGE"]]


@pytest.mark.parametrize("everything", [False, True])
def test_one_value_puts_every_image_into_a_private_registry(render, repo, everything):
    import yaml

    values = yaml.safe_load((repo / "tests/checkers/everything.yaml").read_text()) if everything else {}
    for image in images(render({**values, "global": {"imageRegistry": f"{REGISTRY}/"}})):
        assert image.startswith(f"{REGISTRY}/"), image
        assert "//" not in image


def test_an_image_s_own_registry_wins_over_the_one_for_all(render):
    own = {"image": {"registry": "other.example.com"}}
    found = images(render({"global": {"imageRegistry": REGISTRY}, "mongodb": own}))
    assert {image.partition("/")[0] for image in found} == {"registry.example.com", "other.example.com"}


def test_pull_secrets_for_all_images_are_added_to_those_of_one(render):
    secrets = ["everywhere", {"name": "as-other-charts-write-it"}]
    rendered = render({
        "global": {"imagePullSecrets": secrets, "other": 1}, "imagePullSecrets": ["mirror"],
        "trainer": {"imagePullSecrets": ["trainers", "everywhere"]}, "backup": {"enabled": True},
    })  # fmt: skip
    for pod in rendered.pods().values():
        names = [secret["name"] for secret in pod["spec"]["imagePullSecrets"]]
        assert names == ["mirror", "everywhere", "as-other-charts-write-it"]
    found = read_settings(told(rendered)).trainer_image_pull_secrets
    assert found == ("trainers", "everywhere", "as-other-charts-write-it")


def test_common_labels_are_on_every_object_and_pod_but_select_nothing(render):
    values = {"commonLabels": {"cost-center": "7"}, "operator": {"podLabels": {"team": "ml"}}}
    rendered = render({**values, "backup": {"enabled": True}})
    for manifest in rendered.all:
        if manifest["kind"] != "CustomResourceDefinition":
            assert manifest["metadata"]["labels"]["cost-center"] == "7", manifest["metadata"]["name"]
    for name, pod in rendered.pods().items():
        assert pod["metadata"]["labels"]["cost-center"] == "7", name
    assert rendered.pods()[OPERATOR]["metadata"]["labels"]["team"] == "ml"
    for workload in [*rendered.kind("Deployment"), *rendered.kind("StatefulSet")]:
        assert "cost-center" not in json.dumps(workload["spec"]["selector"])
        assert "cost-center" not in json.dumps(workload["spec"].get("volumeClaimTemplates", []))


def test_the_operator_s_pod_is_placed_and_marked_as_the_values_say(render):
    affinity = {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}
    operator = {"affinity": affinity, "priorityClassName": "system", "podAnnotations": {"note": "x"}}
    pod = render({"operator": operator}).pods()[OPERATOR]
    assert (pod["spec"]["affinity"], pod["spec"]["priorityClassName"]) == (affinity, "system")
    annotations = {"kubectl.kubernetes.io/default-container": "operator", "note": "x"}
    assert pod["metadata"]["annotations"] == annotations


@pytest.mark.parametrize("create", [True, False])
def test_another_account_of_the_operator_has_the_rights_and_the_limits(render, create):
    account = {"create": create, "name": "builder", "annotations": {"a": "b"} if create else {}}
    rendered = render({"operator": {"serviceAccount": account}, "watchNamespaces": ["team-a"]})
    assert rendered.pods()[OPERATOR]["spec"]["serviceAccountName"] == "builder"
    found = rendered.kind("ServiceAccount")
    assert [(one["metadata"]["name"], one["metadata"]["annotations"]) for one in found] == (
        [("builder", {"a": "b"})] if create else []
    )
    bindings = [*rendered.kind("ClusterRoleBinding"), *rendered.kind("RoleBinding")]
    assert {subject["name"] for binding in bindings for subject in binding["subjects"]} == {"builder"}
    for policy in rendered.kind("ValidatingAdmissionPolicy"):
        (condition,) = policy["spec"]["matchConditions"]
        assert '"system:serviceaccount:ml-system:builder"' in condition["expression"]
