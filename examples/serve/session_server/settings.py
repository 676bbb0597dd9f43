"""Settings from the environment, read once at the start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from .errors import StartError


@dataclass(frozen=True)
class Settings:
    """What the service is told; every field is an environment variable in capital letters."""

    session: str
    """Name of the session whose model is served."""
    mongodb_folder: str = "/etc/trainingsession/mongodb"
    """Folder with the files `uri` and `database`, as the Secret trainingsession-mongodb holds them."""
    host: str = "0.0.0.0"  # noqa: S104 - a pod's only interface
    port: int = 8080
    most_bytes: int = 10 * 1024 * 1024
    """A larger picture is refused before it is read to its end."""
    most_pixels: int = 25_000_000
    """A picture that says it has more is refused before it is decoded."""
    at_once: int = 2
    """Pictures that are decoded and classified at the same time; each may take 5 bytes per pixel and more."""
    waiting: int = 32
    """Requests that may wait; more are answered 503."""


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Read the settings; raises StartError."""
    if not environment.get("SESSION"):
        raise StartError("SESSION is not set; give it the name of the session whose model is to be served.")
    values: dict[str, str | int] = {}
    for field in fields(Settings):
        text = environment.get(field.name.upper())
        if not text:
            continue
        if field.type != "int":
            values[field.name] = text
        elif text.isascii() and text.isdecimal() and int(text) > 0:
            values[field.name] = int(text)
        else:
            raise StartError(f"{field.name.upper()} is {text!r}; it must be a whole number above 0.")
    return Settings(**values)  # type: ignore[arg-type]


def read_mongodb(folder: Path) -> tuple[str, str]:
    """Read the URI and the name of the database; raises StartError."""
    found = []
    for name in ("uri", "database"):
        try:
            found.append((folder / name).read_text("utf-8").strip())
        except OSError as error:
            raise StartError(
                f"{folder / name} cannot be read ({error.strerror}); mount the Secret trainingsession-mongodb there."
            ) from error
    return found[0], found[1]
