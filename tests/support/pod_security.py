"""The Pod Security Standard `restricted`, as far as a manifest tells."""

from __future__ import annotations

from typing import Any


def restricted_violations(spec: dict[str, Any]) -> list[str]:
    """What the Pod Security Standard `restricted` refuses in a pod's spec."""
    found = [f"{key} is set" for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key)]
    pod = spec.get("securityContext", {})
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    for volume in spec.get("volumes", []):
        found += [f"volume {volume['name']} is a {kind}" for kind in set(volume) - {"name"} - allowed]
    for each in [*spec.get("initContainers", []), *spec["containers"]]:
        own = {**pod, **each.get("securityContext", {})}
        rules = {
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
            "privileged": not own.get("privileged"),
            "capabilities": "ALL" in own.get("capabilities", {}).get("drop", [])
            and set(own.get("capabilities", {}).get("add", [])) <= {"NET_BIND_SERVICE"},
            "runAsNonRoot": own.get("runAsNonRoot") is True,
            "runAsUser": own.get("runAsUser") != 0,
            "seccompProfile": own.get("seccompProfile", {}).get("type") in {"RuntimeDefault", "Localhost"},
            "hostPort": not any(port.get("hostPort") for port in each.get("ports", [])),
        }
        found += [f"{each['name']}: {rule}" for rule, kept in rules.items() if not kept]
    return found
