"""The operator's settings: read once from the environment at the start, then passed in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .errors import StartError


@dataclass(frozen=True)
class Settings:
    """What the chart sets. No field is secret: passwords come from files and Secrets."""

    trainer_image: str
    """Image of every session's Job."""
    trainer_image_pull_policy: str
    trainer_image_pull_secrets: tuple[str, ...]
    namespaces: tuple[str, ...]
    """Namespaces whose sessions are served; empty for all."""
    workers: int
    """Sessions worked on at the same time, 1 to 64."""
    log_level: str
    pod_namespace: str
    """Namespace of the operator itself, where the server Secret is."""
    mongodb_uri_file: str
    """File with the administrator's URI of a MongoDB that is run elsewhere; empty for the chart's own."""
    mongodb_server_secret: str
    """Secret with the credentials of the chart's own MongoDB."""
    mongodb_hosts: str
    """host:port, comma-separated, of the chart's own MongoDB."""
    mongodb_replica_set: str
    mongodb_users: str
    """managed: a user per namespace; shared: every namespace uses the server's own user."""


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Raises StartError naming the variable, its value and what it takes."""
    return Settings(
        trainer_image=_required(environment, "TRAINER_IMAGE", "the image of the trainer"),
        trainer_image_pull_policy=_one_of(
            environment, "TRAINER_IMAGE_PULL_POLICY", ("IfNotPresent", "Always", "Never")
        ),
        trainer_image_pull_secrets=_list(environment, "TRAINER_IMAGE_PULL_SECRETS"),
        namespaces=_list(environment, "WATCH_NAMESPACES"),
        workers=_number(environment, "WORKERS", 16, 1, 64),
        log_level=_one_of(environment, "LOG_LEVEL", ("info", "debug", "warning", "error")),
        pod_namespace=environment.get("POD_NAMESPACE", "trainingsession"),
        mongodb_uri_file=environment.get("MONGODB_URI_FILE", ""),
        mongodb_server_secret=environment.get("MONGODB_SERVER_SECRET", "trainingsession-mongodb-server"),
        mongodb_hosts=environment.get("MONGODB_HOSTS", "")
        if environment.get("MONGODB_URI_FILE")
        else _required(environment, "MONGODB_HOSTS", "host:port of MongoDB"),
        mongodb_replica_set=environment.get("MONGODB_REPLICA_SET", "rs0"),
        mongodb_users=_one_of(environment, "MONGODB_USERS", ("managed", "shared")),
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
