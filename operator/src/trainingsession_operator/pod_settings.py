"""What the chart's values give every trainer's pod: labels, nodes, the way out of the cluster. Read once, passed in."""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import StartError

CA_BUNDLE_BYTES = 64 << 10
"""Annotations of an object may have 256 KiB in all, and the session's own may take 100."""
IN_THE_CLUSTER = ("localhost", "127.0.0.1", "::1", ".svc", ".cluster.local")
"""Never asked for through a proxy."""
_PROXY = re.compile(r"https?://[^/?#\s@]+/?")
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True)
class PodSettings:
    """The same for every session; what a session says itself is added, and wins."""

    annotations: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    gpu_tolerations: tuple[Mapping[str, Any], ...] = ()
    """Of pods that hold GPUs."""
    proxy: Mapping[str, str] = field(default_factory=dict)
    """Environment variables; empty without a proxy."""
    ca_bundle: str = ""
    """Certificates (PEM) of authorities that are trusted beside the image's own."""


def read_pod_settings(environment: Mapping[str, str]) -> PodSettings:
    """Raises StartError naming the variable, its value and what it takes."""
    return PodSettings(
        annotations=_texts(environment, "TRAINER_POD_ANNOTATIONS"),
        labels=_texts(environment, "TRAINER_POD_LABELS"),
        node_selector=_texts(environment, "TRAINER_NODE_SELECTOR"),
        tolerations=_objects(environment, "TRAINER_TOLERATIONS"),
        gpu_tolerations=_objects(environment, "TRAINER_GPU_TOLERATIONS"),
        proxy=_proxy(environment),
        ca_bundle=_certificates(environment, "CA_BUNDLE_FILE"),
    )


def _texts(environment: Mapping[str, str], name: str) -> dict[str, str]:
    def of_texts(found: object) -> bool:
        return isinstance(found, dict) and all(isinstance(value, str) for value in found.values())

    return dict(_json(environment, name, "{}", of_texts, "a JSON object of texts"))


def _objects(environment: Mapping[str, str], name: str) -> tuple[dict[str, Any], ...]:
    def of_objects(found: object) -> bool:
        return isinstance(found, list) and all(isinstance(item, dict) for item in found)

    return tuple(_json(environment, name, "[]", of_objects, "a JSON list of objects"))


def _json(environment: Mapping[str, str], name: str, empty: str, fits: Callable[[object], bool], what: str) -> Any:
    text = environment.get(name) or empty
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not fits(found):
        raise StartError(f'the environment variable {name} is "{text[:200]}"; set it to {what}, or to nothing')
    return found


def _proxy(environment: Mapping[str, str]) -> dict[str, str]:
    found = {}
    own = (name.strip() for name in environment.get("TRAINER_NO_PROXY", "").split(","))
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        variable = f"TRAINER_{name}"
        address = environment.get(variable, "")
        if not address:
            continue
        if "@" in address:
            # The value itself is not repeated: it would bring the password into the log.
            raise StartError(
                f"the environment variable {variable} holds a user or a password, which everybody who reads the "
                "trainers' pods would see; let the proxy know the trainers by their addresses, or go through one that "
                "adds the password"
            )
        if not _PROXY.fullmatch(address):
            raise StartError(
                f'the environment variable {variable} is "{address}"; set it to an address such as http://proxy:3128'
            )
        found[name] = address
    if not found:
        return {}
    mongodb = (host.rpartition(":")[0] for host in environment.get("MONGODB_HOSTS", "").split(",") if host)
    found["NO_PROXY"] = ",".join(dict.fromkeys([*IN_THE_CLUSTER, *mongodb, *filter(None, own)]))
    # Some libraries read only the one, some only the other.
    return found | {name.lower(): value for name, value in found.items()}


def _certificates(environment: Mapping[str, str], name: str) -> str:
    """Read the file that the variable names and keep its certificates alone: bundles are half comment."""
    path = environment.get(name, "")
    if not path:
        return ""
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"{path} with the certificates of trainer.caBundle cannot be read ({error})") from error
    if "PRIVATE KEY" in text:
        raise StartError(f"{path} holds a private key; trainer.caBundle takes certificates only, so make the key anew")
    bundle = "".join(f"{block}\n" for block in _CERTIFICATE.findall(text))
    try:
        if not bundle:
            raise ValueError("it holds none")  # noqa: TRY301 - one place words the sentence
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=bundle)
    except (ValueError, ssl.SSLError) as error:
        raise StartError(
            f"{path} has to hold certificates of authorities in PEM ({error}); mend the ConfigMap of trainer.caBundle"
        ) from error
    if len(bundle) > CA_BUNDLE_BYTES:
        raise StartError(
            f"{path} holds {len(bundle) >> 10} KiB of certificates; at most {CA_BUNDLE_BYTES >> 10} KiB reach them, "
            "so leave only your own authorities in it; those of the image are trusted anyway"
        )
    return bundle
