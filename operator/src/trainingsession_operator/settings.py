"""The operator's settings: read once from the environment at the start, then passed in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .errors import StartError
from .pod_settings import PodSettings, read_pod_settings


@dataclass(frozen=True)
class Settings:
    """What the chart sets. No field is secret: passwords come from files and Secrets."""

    trainer_image: str
    """Image of every session's Job."""
    trainer_image_pull_policy: str
    trainer_image_pull_secrets: tuple[str, ...]
    trainer_gpus: str
    """required: a trainer that holds GPUs and cannot use them ends at once; optional: it computes on processors."""
    datasets_mirror: str
    """Address below which the data sets known by name are mirrored; empty for their own homes."""
    weights_mirror: str
    """Address below which Keras's weights are mirrored; empty for Keras's own."""
    module_images: tuple[str, ...]
    """What the name of an image in spec.module.image must begin with; empty allows none."""
    service_accounts: tuple[str, ...]
    """Accounts that a session may name in spec.scheduling.serviceAccountName; empty allows none."""
    package_index: str
    """Address of the index that a module's packages come from; empty for pip's own."""
    pods: PodSettings
    """What every trainer's pod is given."""
    namespaces: tuple[str, ...]
    """Namespaces whose sessions are served; empty for all."""
    workers: int
    """Sessions worked on at the same time, 1 to 64."""
    log_level: str
    log_format: str
    """text for people, json for machines."""
    requests_per_second: int
    """Requests to the API server that are sent in the long run."""
    requests_burst: int
    """Requests that are sent at once after a pause."""
    health_port: int
    """Of /healthz."""
    metrics_port: int
    """Of /readyz and /metrics."""
    pod_namespace: str
    """Namespace of the operator itself, where the server Secret is."""
    mongodb_uri_file: str
    """File with the administrator's URI of a MongoDB that is run elsewhere; empty for the chart's own."""
    mongodb_server_secret: str
    """Secret with the credentials of the chart's own MongoDB."""
    mongodb_hosts: str
    """host:port, comma-separated, of the chart's own MongoDB."""
    mongodb_replica_set: str
    mongodb_ca_file: str
    """File with the authorities that signed MongoDB's certificate; empty where the image's own authorities suffice.

    Trainers find the same bytes at the same path, so that one URI serves both.
    """
    mongodb_users: str
    """managed: a user per namespace; shared: every namespace uses the server's own user."""
    features_quota: int | None
    """Bytes that a namespace's features may take before the least recently used are evicted; None for no limit."""
    eviction_grace_seconds: int
    """A feature set that was opened within this time is never evicted."""
    orphan_grace_seconds: int
    """What nothing names is removed when it is older. More than clocks of nodes are wrong and uploads take."""
    storage_interval_seconds: int
    """Time between two rounds over what the namespaces store."""


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Raises StartError naming the variable, its value and what it takes."""
    return Settings(
        trainer_image=_required(environment, "TRAINER_IMAGE", "the image of the trainer"),
        trainer_image_pull_policy=_one_of(
            environment, "TRAINER_IMAGE_PULL_POLICY", ("IfNotPresent", "Always", "Never")
        ),
        trainer_image_pull_secrets=_list(environment, "TRAINER_IMAGE_PULL_SECRETS"),
        trainer_gpus=_one_of(environment, "TRAINER_GPUS", ("required", "optional")),
        datasets_mirror=_address(environment, "DATASETS_MIRROR"),
        weights_mirror=_address(environment, "WEIGHTS_MIRROR"),
        module_images=_list(environment, "MODULE_IMAGES"),
        service_accounts=_list(environment, "SERVICE_ACCOUNTS"),
        package_index=_address(environment, "PACKAGE_INDEX"),
        pods=read_pod_settings(environment),
        namespaces=_list(environment, "WATCH_NAMESPACES"),
        workers=_number(environment, "WORKERS", 16, 1, 64),
        log_level=_one_of(environment, "LOG_LEVEL", ("info", "debug", "warning", "error")),
        log_format=_one_of(environment, "LOG_FORMAT", ("text", "json")),
        requests_per_second=_number(environment, "API_REQUESTS_PER_SECOND", 100, 10, 10_000),
        requests_burst=_number(environment, "API_REQUESTS_BURST", 1_000, 10, 100_000),
        health_port=_number(environment, "HEALTH_PORT", 8080, 1, 65_535),
        metrics_port=_number(environment, "METRICS_PORT", 8081, 1, 65_535),
        pod_namespace=environment.get("POD_NAMESPACE", "trainingsession"),
        mongodb_uri_file=environment.get("MONGODB_URI_FILE", ""),
        mongodb_server_secret=environment.get("MONGODB_SERVER_SECRET", "trainingsession-mongodb-server"),
        mongodb_hosts=environment.get("MONGODB_HOSTS", "")
        if environment.get("MONGODB_URI_FILE")
        else _required(environment, "MONGODB_HOSTS", "host:port of MongoDB"),
        mongodb_replica_set=environment.get("MONGODB_REPLICA_SET", "rs0"),
        mongodb_ca_file=environment.get("MONGODB_CA_FILE", ""),
        mongodb_users=_one_of(environment, "MONGODB_USERS", ("managed", "shared")),
        features_quota=_bytes(environment, "FEATURES_QUOTA_PER_NAMESPACE"),
        eviction_grace_seconds=60 * _number(environment, "EVICTION_GRACE_MINUTES", 10, 1, 10_080),
        orphan_grace_seconds=3600 * _number(environment, "ORPHAN_GRACE_HOURS", 24, 3, 8_760),
        storage_interval_seconds=60 * _number(environment, "STORAGE_INTERVAL_MINUTES", 10, 1, 1_440),
    )


def _required(environment: Mapping[str, str], name: str, meaning: str) -> str:
    value = environment.get(name, "")
    if not value:
        raise StartError(f"the environment variable {name} is missing; set it to {meaning}")
    return value


def _list(environment: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(item for item in (part.strip() for part in environment.get(name, "").split(",")) if item)


def _one_of(environment: Mapping[str, str], name: str, values: tuple[str, ...]) -> str:
    value = environment.get(name) or values[0]
    if value not in values:
        raise StartError(f'the environment variable {name} is "{value}"; set it to one of {", ".join(values)}')
    return value


def _number(environment: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = environment.get(name) or str(default)
    if not text.isdecimal() or not least <= int(text) <= most:
        raise StartError(
            f'the environment variable {name} is "{text}"; set it to a whole number from {least} to {most}'
        )
    return int(text)


def _address(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "")
    if value and not re.fullmatch(r"https?://[^/?#\s@]+(/[^?#\s]*)?", value):
        raise StartError(
            f'the environment variable {name} is "{value}"; set it to an address such as https://mirror/data, '
            "without a password and without a query, or to nothing"
        )
    return value


def _bytes(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name, "")
    if not text:
        return None
    found = re.fullmatch(r"([1-9][0-9]{0,8})(Mi|Gi|Ti)", text, re.ASCII)
    if found is None:
        raise StartError(f'the environment variable {name} is "{text}"; set it to a size such as 200Gi, or to nothing')
    return int(found[1]) << {"Mi": 20, "Gi": 30, "Ti": 40}[found[2]]
