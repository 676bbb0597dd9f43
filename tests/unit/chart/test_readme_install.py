"""The commands and values with which the documents install the chart."""

import re
import shlex

import yaml


def test_the_install_command_of_the_readme_renders_with_the_registry(helm, repo):
    text = (repo / "README.md").read_text().replace("\\\n", " ")
    (line,) = [line for line in text.splitlines() if line.strip().startswith("helm install ")]
    _, _, *arguments = shlex.split(line.replace("REGISTRY", "registry.example.com/team"))
    arguments = [str(repo / part) if part.startswith("charts/") else part for part in arguments]
    done = helm("template", *arguments)
    assert done.returncode == 0, done.stderr
    manifests = [document for document in yaml.safe_load_all(done.stdout) if document]
    (operator,) = [m for m in manifests if m["kind"] == "Deployment"]
    container = operator["spec"]["template"]["spec"]["containers"][0]
    version = (repo / "VERSION").read_text().strip()
    assert container["image"] == f"registry.example.com/team/trainingsession/operator:{version}"
    environment = {item["name"]: item.get("value") for item in container["env"]}
    assert environment["TRAINER_IMAGE"] == f"registry.example.com/team/trainingsession/trainer:{version}"


def test_every_value_of_the_page_for_clusters_without_the_internet_is_one_of_the_chart(render, repo):
    text = (repo / "docs/air-gapped.md").read_text()
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    assert len(blocks) >= 5
    for values in blocks:
        assert render(values).all
    for mentioned in re.findall(r"`((?:trainer|operator|mongodb|networkPolicy)\.[A-Za-z.]+)`", text):
        found = yaml.safe_load((repo / "charts/trainingsession/values.yaml").read_text())
        for key in mentioned.split("."):
            assert key in found, mentioned
            found = found[key]


def test_the_commands_for_several_releases_and_for_few_rights_render(helm, repo, tmp_path):
    text = (repo / "docs/rbac.md").read_text().replace("\\\n", " ").partition("## Several releases")[2]
    lines = [line.strip().partition(" | ")[0] for line in text.splitlines() if line.startswith("    helm ")]
    assert len(lines) == 3
    (tmp_path / "values.yaml").write_text("{watchNamespaces: [team-b]}")
    for line in lines:
        _, _, *arguments = shlex.split(line.replace("values.yaml", str(tmp_path / "values.yaml")))
        done = helm("template", *[str(repo / part) if part.startswith("charts/") else part for part in arguments])
        assert done.returncode == 0, done.stderr
    assert "kind: ValidatingAdmissionPolicy" in done.stdout
    assert "kind: Deployment" not in done.stdout
