"""docs/mongodb.md says what the programs say."""

import inspect
import re

import yaml

from trainingsession_operator import mongodb_check


def test_its_sentences_are_those_of_readiness(repo):
    page = (repo / "docs/mongodb.md").read_text()
    table = page.partition("| it says |")[2].partition("\n\n")[0]
    said = [part.strip() for row in re.findall(r"^\| (.+?) \|", table, re.MULTILINE)[1:] for part in row.split(";")]
    source = inspect.getsource(mongodb_check)
    source = re.sub(r'"\s*\n\s*f?"', "", source)
    assert len(said) > 10
    for words in said:
        assert words.replace("NAME", "{name}") in source, words


def test_its_values_and_files_are_there(repo):
    page = (repo / "docs/mongodb.md").read_text()
    values = yaml.safe_load((repo / "charts/trainingsession/values.yaml").read_text())
    named = set(re.findall(r"\b((?:mongodb|features|networkPolicy)\.[A-Za-z.]+[A-Za-z])", page))
    assert len(named) > 10
    for path in named - {"mongodb.md"}:
        found = values
        for key in path.split("."):
            assert key in found, path
            found = found[key]
    for script in ("grow-mongodb", "rotate-mongodb"):
        assert f"charts/trainingsession/scripts/{script} trainingsession trainingsession" in page
        assert (repo / "charts/trainingsession/scripts" / script).stat().st_mode & 0o111
