"""The rendered NetworkPolicies by Kubernetes' rules; the tests' own cluster enforces none."""

from __future__ import annotations

import ipaddress

import pytest

import builders
from network_policies import Outside, Pod, allowed
from trainingsession_operator.jobs import build_job

METADATA = ("169.254.169.254", "169.254.170.2", "169.254.170.23", "fd00:ec2::254", "fd00:ec2::23", "168.63.129.16",
            "100.100.100.200")  # fmt: skip
INTERNET = Outside("151.101.0.223")
PROMETHEUS = Pod("monitoring", {"app.kubernetes.io/name": "prometheus"})
STRANGER = Pod("team-a", {"app": "notebook"})
NEIGHBOUR = Pod("ml-system", {"app": "notebook"})
DNS = Pod("kube-system", {"k8s-app": "kube-dns"})
CONFINED = {"networkPolicy": {"trainerNamespaces": ["team-a"]}}


def of_workload(rendered, name: str) -> Pod:
    pod = rendered.pods()[name]
    ports = {
        port["name"]: port["containerPort"] for each in pod["spec"]["containers"] for port in each.get("ports", ())
    }
    return Pod("ml-system", pod["metadata"]["labels"], ports=ports)


@pytest.fixture
def operator(render) -> Pod:
    return of_workload(render(CONFINED), "trainingsession-operator")


@pytest.fixture
def mongodb(render) -> Pod:
    return of_workload(render(CONFINED), "trainingsession-mongodb")


def trainer(namespace: str = "team-a") -> Pod:
    """With the labels that the operator really gives."""
    job = build_job(builders.session(), builders.settings())
    return Pod(namespace, job["spec"]["template"]["metadata"]["labels"])


@pytest.fixture
def policies(render):
    return render(CONFINED).kind("NetworkPolicy")


def test_operator_and_trainers_reach_mongodb_and_nobody_else(policies, operator, mongodb):
    for source in (operator, trainer("team-a"), trainer("team-b"), mongodb):
        assert allowed(policies, source, mongodb, 27017), source
    for source in (STRANGER, NEIGHBOUR, PROMETHEUS, INTERNET, Pod("ml-system", {})):
        assert not allowed(policies, source, mongodb, 27017), source
    assert not allowed(policies, operator, mongodb, 8082)


def test_with_listed_namespaces_only_their_trainers_reach_mongodb(render, mongodb):
    policies = render({"watchNamespaces": ["team-a"]}).kind("NetworkPolicy")
    assert allowed(policies, trainer("team-a"), mongodb, 27017)
    assert not allowed(policies, trainer("team-b"), mongodb, 27017)


def test_the_operator_is_reached_for_its_metrics_only(policies, operator):
    assert allowed(policies, PROMETHEUS, operator, 8081)
    assert not allowed(policies, PROMETHEUS, operator, 8080)


def test_the_pod_of_helm_test_reaches_the_operator_s_metrics_and_dns_and_is_reached_by_nobody(
    render, policies, operator, mongodb
):
    (found,) = render(CONFINED).kind("Pod")
    pod = Pod("ml-system", found["metadata"]["labels"])
    assert allowed(policies, pod, operator, 8081)
    assert allowed(policies, pod, DNS, 53, "UDP")
    for target, port in ((mongodb, 27017), (INTERNET, 443), (Outside("169.254.169.254"), 80)):
        assert not allowed(policies, pod, target, port)
    assert not allowed(policies, STRANGER, pod, 80)


def test_the_operator_reaches_the_api_server_dns_and_mongodb(policies, operator, mongodb):
    assert allowed(policies, operator, Outside("10.0.0.1"), 443)
    assert allowed(policies, operator, Outside("203.0.113.7"), 6443)
    assert allowed(policies, operator, DNS, 53, "UDP")
    assert allowed(policies, operator, mongodb, 27017)


def test_a_confined_trainer_reaches_mongodb_dns_and_what_is_allowed(policies, mongodb, operator):
    source = trainer()
    assert allowed(policies, source, mongodb, 27017)
    assert allowed(policies, source, DNS, 53, "UDP")
    assert allowed(policies, source, DNS, 53)
    assert allowed(policies, source, Outside("169.254.20.10"), 53, "UDP")
    assert allowed(policies, source, INTERNET, 443)
    assert allowed(policies, source, Outside("2a04:4e42::223"), 443)
    for target, port in ((INTERNET, 80), (STRANGER, 80), (operator, 8081), (DNS, 443 + 1), (Outside("10.0.0.9"), 22)):
        assert not allowed(policies, source, target, port), (target, port)
    assert not allowed(policies, STRANGER, source, 80), "nobody calls a trainer"


@pytest.mark.parametrize("address", METADATA)
def test_the_metadata_address_of_a_cloud_is_never_reached(render, policies, operator, mongodb, address):
    blocks = [("10.0.0.0/8", 443), ("10.0.0.0/8", 80), ("169.0.0.0/16", 80), ("fd12:3456::/32", 80)]
    egress = [{"cidr": cidr, "ports": [port]} for cidr, port in blocks]
    narrow = {"trainerNamespaces": ["team-a"], "trainerEgress": egress}
    for found in (policies, render({"networkPolicy": narrow}).kind("NetworkPolicy")):
        for source in (trainer(), operator, mongodb):
            for port in (80, 443, 32526):
                assert not allowed(found, source, Outside(address), port)


@pytest.mark.parametrize(
    "cidr",
    ["169.254.169.254/32", "169.254.0.0/16", "169.0.0.0/8", "128.0.0.0/1", "168.63.0.0/16", "100.64.0.0/10",
     "fd00:ec2::254/128", "fd00:0ec2::/32", "FD00:EC2::/48", "fd00::/8", "fc00::/7", "8000::/1", "fe80::/10",
     "::ffff:a9fe:a9fe/128"],
)  # fmt: skip
def test_a_block_that_holds_a_metadata_address_is_refused(template, cidr):
    given = {"trainerNamespaces": ["a"], "trainerEgress": [{"cidr": cidr, "ports": [80]}]}
    done = template({"networkPolicy": given})
    assert done.returncode != 0
    assert "169.254.169.254" in done.stderr
    assert cidr in done.stderr


def test_an_external_mongodb_is_reached_where_its_block_is_allowed(render):
    given = {"trainerNamespaces": ["team-a"], "trainerEgress": [{"cidr": "192.0.2.0/24", "ports": [27017]}]}
    policies = render({"networkPolicy": given, "mongodb": {"external": {"uriSecret": "u"}}}).kind("NetworkPolicy")
    assert {policy["metadata"]["name"] for policy in policies} == {
        "trainingsession-operator",
        "trainingsession-test",
        "trainingsession-trainers",
    }
    assert allowed(policies, trainer(), Outside("192.0.2.7"), 27017)
    assert not allowed(policies, trainer(), INTERNET, 443)


def test_policies_can_be_left_out_and_blocks_are_what_the_api_server_takes(render, policies):
    assert not render({"networkPolicy": {"enabled": False}}).kind("NetworkPolicy")
    blocks = [
        peer["ipBlock"] for policy in policies for rule in policy["spec"].get("egress", ())
        for peer in rule.get("to", ()) if "ipBlock" in peer
    ]  # fmt: skip
    assert len(blocks) > 5
    for block in blocks:
        whole = ipaddress.ip_network(block["cidr"])
        assert all(ipaddress.ip_network(part).subnet_of(whole) for part in block.get("except", ()))
