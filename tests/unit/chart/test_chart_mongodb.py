"""The chart's own MongoDB with one and with three members."""

from __future__ import annotations

from typing import Any

import pytest

from network_policies import Pod, allowed
from trainingsession_operator.mongodb_init import read_arguments
from trainingsession_operator.settings import read_settings

MONGODB = "trainingsession-mongodb"
HOSTS = [f"{MONGODB}-{number}.{MONGODB}.ml-system.svc:27017" for number in range(3)]
THREE = {"mongodb": {"members": 3}}
EXTERNAL = {"mongodb": {"members": 3, "external": {"uriSecret": "atlas"}}}


def statefulset(rendered: Any) -> dict[str, Any]:
    return rendered.one("StatefulSet", MONGODB)["spec"]


def pod_of(rendered: Any) -> dict[str, Any]:
    return statefulset(rendered)["template"]["spec"]


def container(pod: dict[str, Any], name: str) -> dict[str, Any]:
    return next(each for each in [*pod["initContainers"], *pod["containers"]] if each["name"] == name)


@pytest.mark.parametrize(("values", "members"), [({}, 1), (THREE, 3)], ids=["one", "three"])
def test_operator_sidecars_and_volumes_agree_on_the_members(render, values, members):
    rendered = render(values)
    assert statefulset(rendered)["replicas"] == members
    operator = rendered.pods()["trainingsession-operator"]["spec"]["containers"][0]
    environment = {variable["name"]: variable.get("value", "") for variable in operator["env"]}
    assert read_settings(environment).mongodb_hosts.split(",") == HOSTS[:members]
    told = container(pod_of(rendered), "init")["args"]
    for number in range(members):
        settings = read_arguments([word.replace("$(POD_NAME)", f"{MONGODB}-{number}") for word in told])
        assert settings.host == HOSTS[number]
        assert settings.members == tuple(HOSTS[:members])


def test_one_member_finds_itself_without_dns_and_of_three_each_waits_for_its_own_name(render):
    alone, one_of_three = pod_of(render()), pod_of(render(THREE))
    assert alone["hostAliases"] == [{"ip": "127.0.0.1", "hostnames": [HOSTS[0].removesuffix(":27017")]}]
    assert "name" not in {each["name"] for each in alone["initContainers"]}
    # One template serves three pods, and an alias would lead two of them to the wrong one.
    assert "hostAliases" not in one_of_three
    waiting = container(one_of_three, "name")
    assert waiting["args"] == [HOSTS[0].replace(f"{MONGODB}-0", "$(POD_NAME)"), "$(POD_IPS)"]
    assert {variable["name"] for variable in waiting["env"]} == {"POD_NAME", "POD_IPS"}


def test_three_members_keep_to_three_nodes_and_zones(render):
    spread = pod_of(render(THREE))
    labels = statefulset(render(THREE))["selector"]["matchLabels"]
    (rule,) = spread["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert rule == {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": labels}}
    (zones,) = spread["topologySpreadConstraints"]
    assert zones["whenUnsatisfiable"] == "ScheduleAnyway"
    assert zones["labelSelector"] == {"matchLabels": labels}
    soft = pod_of(render({"mongodb": {"members": 3, "podAntiAffinity": "preferred"}}))["affinity"]["podAntiAffinity"]
    ((wish,),) = soft.values()
    assert list(soft) == ["preferredDuringSchedulingIgnoredDuringExecution"]
    assert wish["podAffinityTerm"] == rule
    assert not {"affinity", "topologySpreadConstraints"} & set(pod_of(render()))


def test_drains_take_one_of_three_members_at_a_time_and_are_not_held_up_by_a_single_one(render):
    budget = render(THREE).one("PodDisruptionBudget", MONGODB)["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["selector"]["matchLabels"] == statefulset(render(THREE))["selector"]["matchLabels"]
    assert not render().kind("PodDisruptionBudget")
    assert not render(EXTERNAL).kind("PodDisruptionBudget")


def test_members_start_at_once_because_the_first_asks_the_others(render):
    assert statefulset(render(THREE))["podManagementPolicy"] == "Parallel"


@pytest.mark.parametrize("members", [1, 3])
def test_one_certificate_serves_members_that_come_later(render, members):
    tls = {"certManager": {"issuerName": "authority"}}
    (certificate,) = render({"mongodb": {"members": members, "tls": tls}}).kind("Certificate")
    assert certificate["spec"]["dnsNames"] == [*(host.removesuffix(":27017") for host in HOSTS), "localhost"]


def test_members_reach_each_other_and_dns(render):
    rendered = render(THREE)
    pod = rendered.pods()[MONGODB]
    ports = {port["name"]: port["containerPort"] for each in pod["spec"]["containers"] for port in each["ports"]}
    member = Pod("ml-system", pod["metadata"]["labels"], ports=ports)
    policies = rendered.kind("NetworkPolicy")
    assert allowed(policies, member, member, 27017)
    assert allowed(policies, member, Pod("kube-system", {"k8s-app": "kube-dns"}), 53, "UDP")


@pytest.mark.parametrize(("key", "value"), [("members", 2), ("members", "3"), ("podAntiAffinity", "hard")])
def test_other_numbers_and_words_are_refused_with_the_right_ones(template, key, value):
    done = template({"mongodb": {key: value}})
    assert done.returncode != 0
    assert f"at '/mongodb/{key}': value must be one of" in done.stderr


def test_the_notes_name_every_volume(helm, chart):
    arguments = ("install", "trainingsession", str(chart), "-n", "ml-system", "--dry-run=client")
    notes = helm(*arguments, "--set", "mongodb.members=3").stdout
    for number in range(3):
        assert f"pvc/data-{MONGODB}-{number} " in notes


def test_its_administrator_is_not_shared_among_namespaces(template):
    done = template({"mongodb": {"users": "shared"}})
    assert done.returncode != 0
    assert "set mongodb.users to managed, or name your own MongoDB in mongodb.external.uriSecret" in done.stderr


def test_priority_and_annotations_reach_its_pods(render):
    annotations = {"karpenter.sh/do-not-disrupt": "true"}
    values = {"mongodb": {"priorityClassName": "storage", "podAnnotations": annotations}}
    pod = render(values).one("StatefulSet", MONGODB)["spec"]["template"]
    assert pod["spec"]["priorityClassName"] == "storage"
    assert annotations.items() <= pod["metadata"]["annotations"].items()
    plain = render({}).one("StatefulSet", MONGODB)["spec"]["template"]
    assert "priorityClassName" not in plain["spec"]
    assert list(plain["metadata"]["annotations"]) == ["kubectl.kubernetes.io/default-container"]
