"""One version everywhere, workflows that are pinned, and a table of compatibility that is true."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

FILES = ("VERSION", "CHANGELOG.md", "README.md", "operator/pyproject.toml", "trainer/pyproject.toml",
         "trainer/src/trainingsession_trainer/__init__.py", "charts/trainingsession/Chart.yaml",
         "docs/use-the-model.md", "examples/serve/Dockerfile", "examples/serve/serve.yaml")  # fmt: skip


def version(repo: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(repo / "release/version"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(repo, tmp_path) -> Path:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(repo / name, tmp_path / name)
    return tmp_path


def test_all_copies_of_the_version_agree(repo):
    done = version(repo)
    assert done.returncode == 0, done.stderr


def test_a_new_version_is_written_everywhere(repo, copy):
    old = (copy / "VERSION").read_text().strip()
    assert version(repo, "7.8.9", "--root", str(copy)).returncode == 0
    for name in set(FILES) - {"CHANGELOG.md"}:
        text = (copy / name).read_text()
        assert "7.8.9" in text, name
        assert not re.search(rf"(version\S* |er:|^){re.escape(old)}$", text, re.MULTILINE), name


@pytest.mark.parametrize("name", sorted(set(FILES) - {"VERSION", "CHANGELOG.md"}))
def test_a_copy_that_was_forgotten_is_named(repo, copy, name):
    current = (copy / "VERSION").read_text().strip()
    (copy / name).write_text((copy / name).read_text().replace(current, "0.0.1", 1))
    done = version(repo, "--root", str(copy))
    assert done.returncode == 1
    assert f"{name} says 0.0.1, VERSION says {current}" in done.stderr


def test_a_release_needs_its_heading_in_the_changelog_and_its_tag(repo, copy):
    done = version(repo, "1.2.3", "--release", "--tag", "v1.2.4", "--root", str(copy))
    assert done.returncode == 1
    assert 'no heading "## 1.2.3 - YYYY-MM-DD"' in done.stderr
    assert "the tag is v1.2.4, and the version's is v1.2.3" in done.stderr
    changelog = copy / "CHANGELOG.md"
    released = changelog.read_text().replace("## Unreleased\n", "## Unreleased\n\n## 1.2.3 - 2030-01-02\n")
    changelog.write_text(released)
    assert version(repo, "--release", "--tag", "v1.2.3", "--root", str(copy)).returncode == 0
    changelog.write_text(released.replace("## Unreleased\n", "## Unreleased\n\n- More.\n", 1))
    assert "something under" in version(repo, "--release", "--root", str(copy)).stderr


@pytest.mark.parametrize("wrong", ["1.2", "v1.2.3", "latest"])
def test_what_is_no_version_is_refused(repo, copy, wrong):
    done = version(repo, wrong, "--root", str(copy))
    assert done.returncode == 2
    assert f'"{wrong}" is no version' in done.stderr


def test_workflows_pin_every_action_by_its_commit_and_ask_for_few_rights(repo):
    workflows = sorted((repo / ".github/workflows").glob("*.yaml"))
    assert len(workflows) == 2
    for path in workflows:
        text = path.read_text()
        used = re.findall(r"uses: (.+)", text)
        assert used
        assert all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v[\d.]+", one) for one in used), path
        workflow = yaml.safe_load(text)
        assert workflow["permissions"] == {"contents": "read"}
        targets = set(re.findall(r"\bmake ([a-z -]+)$", text, re.MULTILINE))
        listed = set(re.findall(r"^([a-z-]+):.*## ", (repo / "Makefile").read_text(), re.MULTILINE))
        assert {target for group in targets for target in group.split()} <= listed
    names = re.findall(r"file: (Dockerfile\.\w+)", (repo / ".github/workflows/release.yaml").read_text())
    assert set(names) == {"Dockerfile.operator", "Dockerfile.trainer"}


def test_a_release_needs_a_passed_ci_and_attests_all_that_it_pushes_and_attaches(repo):
    jobs = yaml.safe_load((repo / ".github/workflows/release.yaml").read_text())["jobs"]
    assert (jobs["images"]["needs"], jobs["release"]["needs"]) == ("ready", "images")
    asked = " ".join(step.get("run", "") for step in jobs["ready"]["steps"])
    assert "release/check --tag" in asked
    assert "--workflow ci.yaml" in asked
    platforms = {one["name"]: one["platforms"] for one in jobs["images"]["strategy"]["matrix"]["include"]}
    assert platforms == {"operator": "linux/amd64,linux/arm64", "trainer": "linux/amd64"}
    (build,) = [step["with"] for step in jobs["images"]["steps"] if "build-push" in step.get("uses", "")]
    assert (build["sbom"], build["provenance"]) == (True, "mode=max")
    attested = [step["with"] for job in jobs.values() for step in job["steps"] if "attest" in step.get("uses", "")]
    assert {one.get("subject-path") or one["subject-digest"] for one in attested} == {
        "${{ steps.build.outputs.digest }}", "${{ steps.chart.outputs.digest }}", "dist/*"}  # fmt: skip
    assert jobs["release"]["steps"][-1]["run"].rstrip().endswith("dist/*")


@pytest.fixture(scope="session")
def artefacts(repo, tmp_path_factory) -> Path:
    """What release/artefacts makes for a registry."""
    cache = Path(os.environ.get("TS_CACHE", Path.home() / ".cache/trainingsession"))
    if not os.environ.get("CI") and not list(cache.glob("bin-*/helm")):
        pytest.skip("there is no helm; run `make cluster`")
    folder = tmp_path_factory.mktemp("dist")
    command = [str(repo / "release/artefacts"), str(folder), "ghcr.io/owner"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_what_is_attached_pulls_the_released_images_by_default(repo, artefacts):
    release = (repo / "VERSION").read_text().strip()
    assert {path.name for path in artefacts.iterdir()} == {"install.yaml", f"trainingsession-{release}.tgz"}
    with tarfile.open(artefacts / f"trainingsession-{release}.tgz") as package:
        values = yaml.safe_load(package.extractfile("trainingsession/values.yaml"))
    assert values["operator"]["image"]["registry"] == values["trainer"]["image"]["registry"] == "ghcr.io/owner"
    assert values["mongodb"]["image"]["registry"] == ""
    text = (artefacts / "install.yaml").read_text()
    named = set(re.findall(r'(?:image|TRAINER_IMAGE\n +value): "(.+)"', text))
    ours = {f"ghcr.io/owner/trainingsession/{name}:{release}" for name in ("operator", "trainer")}
    assert named == {*ours, f"mongo:{values['mongodb']['image']['tag']}"}


def test_images_are_pushed_under_the_names_that_the_chart_asks_for(repo):
    text = (repo / ".github/workflows/release.yaml").read_text()
    assert "repository=ghcr.io/${GITHUB_REPOSITORY_OWNER,,}/trainingsession/${{ matrix.name }}" in text
    values = yaml.safe_load((repo / "charts/trainingsession/values.yaml").read_text())
    for name in ("operator", "trainer"):
        assert values[name]["image"]["repository"] == f"trainingsession/{name}"


@pytest.mark.parametrize("wrong", ["https://ghcr.io/owner", "ghcr.io/Owner", "ghcr.io/owner/", "ghcr.io|owner"])
def test_a_registry_that_is_none_is_refused_in_a_sentence(repo, tmp_path, artefacts, wrong):
    command = [str(repo / "release/artefacts"), str(tmp_path), wrong]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f'"{wrong}" is no registry; give one such as ghcr.io/owner, in small letters.\n'


def test_the_documented_way_to_a_release_passes_its_check_in_a_clean_clone(repo, artefacts, tmp_path):
    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=tmp_path / "clone", capture_output=True, text=True, check=False)

    def commit() -> None:
        run("git", "add", "--all")
        done = run("git", "-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "--quiet", "--message", "A")
        assert done.returncode == 0, done.stderr

    subprocess.run(["git", "clone", "--quiet", str(repo), str(tmp_path / "clone")], check=True, capture_output=True)
    assert run("release/version", "9.8.7").returncode == 0
    changelog = tmp_path / "clone/CHANGELOG.md"
    text = changelog.read_text()
    changelog.write_text(text.replace("## Unreleased\n", "## Unreleased\n\n## 9.8.7 - 2030-01-02\n", 1))
    commit()
    stale = run("release/check")
    assert stale.returncode == 1
    assert "manifests/kustomize/base is out of date; run `make generate`" in stale.stderr
    assert run("charts/plain", "base").returncode == 0
    assert "changes that are not committed" in run("release/check").stderr
    commit()
    done = run("release/check", "--tag", "v9.8.7")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Version 9.8.7 can be tagged: git tag -s v9.8.7")
    assert run("release/check", "--tag", "v9.8.6").returncode == 1


@pytest.mark.parametrize("name", ["operator", "trainer"])
def test_images_carry_the_labels_of_the_oci(repo, name):
    recipe = (repo / f"Dockerfile.{name}").read_text()
    labels = set(re.findall(r"org\.opencontainers\.image\.(\w+)=", recipe))
    assert labels == {"title", "description", "licenses", "version", "revision", "source"}
    assert {"VERSION", "REVISION", "SOURCE"} <= set(re.findall(r"^ARG (\w+)=", recipe, re.MULTILINE))


def test_the_table_of_compatibility_says_what_is_pinned(repo):
    rows = dict(re.findall(r"^\| ([A-Z]\w+) \| (.+) \|$", (repo / "docs/compatibility.md").read_text(), re.MULTILINE))
    chart = yaml.safe_load((repo / "charts/trainingsession/Chart.yaml").read_text())
    least = re.fullmatch(r">=(\d+\.\d+)\.0-0", chart["kubeVersion"])
    tools = dict(re.findall(r"^(\w+)_VERSION=v?(\S+)$", (repo / "tests/cluster/lib.sh").read_text(), re.MULTILINE))
    pins = dict(re.findall(r"^([\w-]+)==([^\s;]+)", (repo / "requirements/trainer-cuda.txt").read_text(), re.MULTILINE))
    values = yaml.safe_load((repo / "charts/trainingsession/values.yaml").read_text())
    assert rows["Kubernetes"].startswith(f"{least[1]} and newer | {tools['KUBERNETES']} ")
    assert f" {tools['HELM']} " in rows["Helm"]
    assert f" {pins['tensorflow']} " in rows["TensorFlow"]
    assert f" {pins['keras']} " in rows["Keras"]
    assert f"pymongo {pins['pymongo']}" in rows["MongoDB"]
    assert f"MongoDB {values['mongodb']['image']['tag']} " in (repo / "docs/compatibility.md").read_text()
