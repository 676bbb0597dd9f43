"""The commands with which the pages of the clouds install the chart."""

import re
import shlex

import pytest
import yaml


@pytest.mark.parametrize("cloud", ["eks", "gke", "aks"])
def test_the_install_command_of_a_cloud_renders_with_its_registry_and_storage_class(helm, repo, cloud):
    folder = repo / "manifests/clusters" / cloud
    text = (folder / "README.md").read_text().replace("\\\n", " ")
    (line,) = re.findall(r"^    (helm install trainingsession .*)$", text, re.MULTILINE)
    _, _, *arguments = shlex.split(line.replace("$REGISTRY", "registry.example.com/team"))
    arguments = [str(repo / part) if part.startswith("charts/") else part for part in arguments]
    done = helm("template", *arguments)
    assert done.returncode == 0, done.stderr
    manifests = [document for document in yaml.safe_load_all(done.stdout) if document]
    (operator,) = [m for m in manifests if m["kind"] == "Deployment"]
    assert operator["spec"]["template"]["spec"]["containers"][0]["image"].startswith("registry.example.com/team/")
    # What is pushed is what is pulled.
    pushed = re.findall(r"docker push \"\$REGISTRY/(\S+):\$VERSION\"", text)
    assert pushed == ["trainingsession/operator", "trainingsession/trainer"]
    made = yaml.safe_load((folder / "storage-class.yaml").read_text())
    (mongodb,) = [m for m in manifests if m["kind"] == "StatefulSet"]
    asked = mongodb["spec"]["volumeClaimTemplates"][0]["spec"].get("storageClassName")
    default = "storageclass.kubernetes.io/is-default-class" in made["metadata"].get("annotations", {})
    assert asked == (None if default else made["metadata"]["name"])
