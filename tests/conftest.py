"""Fixtures that every kind of test shares: the repository, the real mongod, and real data where it is present."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from real_mongod import RealMongod

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repo() -> Path:
    """Root of the repository."""
    return REPO


@pytest.fixture(scope="session")
def mongod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealMongod]:
    """A real mongod without authentication, one for the whole run; use a database of your own."""
    server = RealMongod(tmp_path_factory.mktemp("mongod"))
    server.start()
    server.initiate()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def schemas() -> Path:
    """What tests/checkers/schemas made: eksctl.json, definitions of others (crd-*.yaml); or the folder TS_SCHEMAS."""
    cache = Path(os.environ.get("TS_CACHE", Path.home() / ".cache" / "trainingsession"))
    made = sorted(cache.glob("schemas-*"), key=lambda path: path.stat().st_mtime)
    folder = os.environ.get("TS_SCHEMAS") or (made[-1] if made else None)
    if folder is None:
        missing = "there are no schemas of others; run tests/checkers/schemas, or set TS_SCHEMAS to its folder"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return Path(folder)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real CIFAR-10 images and ImageNet weights; its README says what they are."""
    folder = Path(os.environ.get("TS_SHARED_DATA", REPO.parent / "shared" / "data"))
    if (folder / "cifar10.tar.gz").is_file():
        return folder
    if os.environ.get("CI"):
        pytest.fail(f"{folder} holds no cifar10.tar.gz; in CI the real data must be there")
    pytest.skip(f"{folder} holds no cifar10.tar.gz; set TS_SHARED_DATA to the folder with the real data")
