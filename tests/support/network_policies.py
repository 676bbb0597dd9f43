"""Kubernetes' rules for NetworkPolicies (networking.k8s.io/v1), applied to rendered ones: may this connection be made?

A pod that no policy of a direction selects is open in it; else one rule of one of them has to allow the connection. Not
done: endPort, matchExpressions with other operators than In, SCTP.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Policy = Mapping[str, Any]


@dataclass(frozen=True)
class Pod:
    """One end of a connection inside of the cluster."""

    namespace: str
    labels: Mapping[str, str]
    address: str = "10.1.2.3"
    ports: Mapping[str, int] = field(default_factory=dict)
    """Container ports by name."""


@dataclass(frozen=True)
class Outside:
    """An address that is no pod's."""

    address: str


End = Pod | Outside


def allowed(policies: Sequence[Policy], source: End, target: End, port: int, protocol: str = "TCP") -> bool:
    """Whether the source may open a connection to the target's port."""
    leaves = not isinstance(source, Pod) or _passes(policies, "Egress", source, target, target, port, protocol)
    enters = not isinstance(target, Pod) or _passes(policies, "Ingress", target, source, target, port, protocol)
    return leaves and enters


def _passes(policies: Sequence[Policy], way: str, own: Pod, peer: End, listens: End, port: int, protocol: str) -> bool:
    mine = [
        policy["spec"]
        for policy in policies
        if policy["metadata"]["namespace"] == own.namespace
        and way in policy["spec"]["policyTypes"]
        and _selects(policy["spec"]["podSelector"], own.labels)
    ]
    peers = "to" if way == "Egress" else "from"
    rules = [rule for spec in mine for rule in spec.get(way.lower()) or ()]
    return not mine or any(
        _any_peer(rule.get(peers), peer, own.namespace) and _any_port(rule.get("ports"), listens, port, protocol)
        for rule in rules
    )


def _any_peer(peers: Sequence[Mapping[str, Any]] | None, end: End, namespace: str) -> bool:
    return not peers or any(_is_peer(peer, end, namespace) for peer in peers)


def _is_peer(peer: Mapping[str, Any], end: End, namespace: str) -> bool:
    if "ipBlock" in peer:
        block = peer["ipBlock"]
        address = ipaddress.ip_address(end.address)
        excluded = any(address in ipaddress.ip_network(one) for one in block.get("except", ()))
        return address in ipaddress.ip_network(block["cidr"]) and not excluded
    if not isinstance(end, Pod):
        return False
    if "namespaceSelector" in peer:
        there = _selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": end.namespace})
    else:
        there = end.namespace == namespace
    return there and _selects(peer.get("podSelector", {}), end.labels)


def _any_port(ports: Sequence[Mapping[str, Any]] | None, listens: End, port: int, protocol: str) -> bool:
    named = listens.ports if isinstance(listens, Pod) else {}
    return not ports or any(
        one.get("protocol", "TCP") == protocol and ("port" not in one or named.get(one["port"], one["port"]) == port)
        for one in ports
    )


def _selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    for rule in selector.get("matchExpressions", ()):
        if rule["operator"] != "In":
            raise NotImplementedError(rule["operator"])
        if labels.get(rule["key"]) not in rule["values"]:
            return False
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
