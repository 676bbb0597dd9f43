"""The chart's README: every value with its default and its comment, generated, and part of the package."""

from __future__ import annotations

import subprocess
import sys
import tarfile

import yaml


def leaves(values, schema, root, path=""):
    """Paths of the values that the schema takes as one: what is no object, and maps with free keys."""
    if "$ref" in schema:
        schema = root["definitions"][schema["$ref"].rpartition("/")[2]]
    properties = schema.get("properties", {})
    if not isinstance(values, dict) or not properties:
        return [path]
    return [leaf for key, value in values.items()
            for leaf in leaves(value, properties.get(key, {}), root, f"{path}.{key}".lstrip("."))]  # fmt: skip


def test_it_is_up_to_date(repo):
    done = subprocess.run(
        [sys.executable, repo / "charts/values-table", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_it_names_every_value_with_what_it_is_for(repo, chart):
    values = yaml.safe_load((chart / "values.yaml").read_text())
    schema = yaml.safe_load((chart / "values.schema.json").read_text())
    rows = [line.split("` | ")[0][3:] for line in (chart / "README.md").read_text().splitlines() if line[:3] == "| `"]
    assert len(rows) == len(set(rows))
    for leaf in leaves(values, schema, schema):
        assert any(leaf == row or leaf.startswith(f"{row}.") for row in rows), f"{leaf} has no `# --` comment"


def test_its_helm_commands_are_ones_that_helm_takes(helm, chart):
    text = (chart / "README.md").read_text().replace("\\\n", " ")
    (line,) = [line.strip() for line in text.splitlines() if line.strip().startswith("helm install")]
    arguments = line.replace("oci://REGISTRY/charts/trainingsession", str(chart)).replace("REGISTRY", "example.com")
    done = helm("template", *arguments.split()[2:])
    assert done.returncode == 0, done.stderr
    assert 'image: "example.com/trainingsession/operator:' in done.stdout


def test_the_package_has_it_and_stays_below_100_kb(helm, chart, tmp_path):
    done = helm("package", str(chart), "--destination", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (package,) = tmp_path.glob("*.tgz")
    assert package.stat().st_size < 100 * 1024
    with tarfile.open(package) as files:
        names = files.getnames()
    assert {f"trainingsession/{name}" for name in ("README.md", "values.schema.json", "templates/NOTES.txt")} <= set(
        names
    )
