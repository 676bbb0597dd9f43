"""What judges security: exceptions have reasons, and the bills of materials name every pinned package."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import pytest


@pytest.mark.parametrize("name", ["bandit", "checkov", "hadolint"])
def test_every_exception_of_a_checker_has_its_reason(repo, name):
    page = (repo / f"tests/checkers/{name}.yaml").read_text()
    exceptions = [line for line in page.splitlines() if re.match(r"\s+- ", line)]
    assert exceptions
    assert all(re.fullmatch(r"\s+- [A-Z0-9_]+ # .{20,}", line) for line in exceptions), exceptions


def test_a_bill_of_materials_names_every_pinned_package_with_its_hashes(repo, tmp_path):
    binary = os.environ.get("TS_CYCLONEDX") or shutil.which("cyclonedx-py", path=repo / ".venv-checkers/bin")
    if binary is None:
        missing = "there is no cyclonedx-py; run `make verify`, or set TS_CYCLONEDX to it"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    command = [sys.executable, str(repo / "requirements/sbom"), "--cyclonedx", binary, str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    for name in ("operator", "trainer-cpu", "trainer-cuda"):
        bill = json.loads((tmp_path / f"{name}.cdx.json").read_text())
        pinned = re.findall(r"^([\w.-]+)==([^\s;]+)", (repo / f"requirements/{name}.txt").read_text(), re.MULTILINE)
        packages = [one for one in bill["components"] if one["type"] == "library"]
        assert {(one["name"], one["version"]) for one in packages} == set(pinned)
        assert all(one["externalReferences"][0]["hashes"] for one in packages)
        assert bill["metadata"]["component"]["version"] == (repo / "VERSION").read_text().strip()
        (base,) = [one for one in bill["components"] if one["type"] == "container"]
        assert (
            f"ARG BASE_IMAGE={base['name']}:{base['version']}\n"
            in (repo / f"Dockerfile.{name.partition('-')[0]}").read_text()
        )
