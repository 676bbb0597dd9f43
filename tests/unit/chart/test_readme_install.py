"""The command with which the README installs the chart."""

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
