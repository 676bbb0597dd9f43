"""The trainer's dataclasses say what the CRD says: the same fields, required ones, defaults and bounds."""

from __future__ import annotations

import dataclasses
import types
import typing
from decimal import Decimal
from pathlib import Path

import pytest

from trainingsession_trainer.spec import Spec
from trainingsession_trainer.structure import Rule, camel
from trainingsession_trainer.yaml12 import load_all

# What stands beside the type's own bounds: CEL rules say it for these, and the trainer in its own code.
QUANTITIES = {"spec.resources.cpu", "spec.resources.memory", "spec.resources.ephemeralStorage"}
BY_RULE = {"spec.dataset.uri", "spec.baseModel.weightsFrom.uri", "spec.module.git.url",
           "spec.tracking.mlflow.uri"}  # fmt: skip
MAXIMUM_BY_RULE = {"spec.dataset.validationSplit": Decimal("0.9")}


@pytest.fixture(scope="module")
def schema(repo: Path):
    crd = load_all((repo / "manifests/crd/trainingsessions.yaml").read_text("utf-8"))[0]
    return crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]


def walk(cls, schema, path):
    """Yield (path, hint, field, rule, schema) of every field, and check names and required fields on the way."""
    fields = {camel(field.name): field for field in dataclasses.fields(cls)}
    assert set(fields) == set(schema["properties"]), path
    hints = typing.get_type_hints(cls)
    for name, field in fields.items():
        below = schema["properties"][name]
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        assert required == (name in schema.get("required", [])), f"{path}.{name}"
        hint = hints[field.name]
        if isinstance(hint, types.UnionType):
            hint = next(option for option in typing.get_args(hint) if option is not types.NoneType)
        yield f"{path}.{name}", hint, field, field.metadata.get("rule", Rule()), below
        inner = typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else hint
        if dataclasses.is_dataclass(inner):
            yield from walk(inner, below.get("items", below), f"{path}.{name}")


def bounds(schema) -> dict:
    """The bounds of a schema in the words of Rule; those of a list's items count as the list's."""
    inner = schema.get("items", {}) if schema.get("type") == "array" else schema
    low = inner.get("minimum")
    exclusive = inner.get("exclusiveMinimum", False)
    return {
        "enum": tuple(inner.get("enum", ())),
        "minimum": None if exclusive or low is None else Decimal(str(low)),
        "above": Decimal(str(low)) if exclusive else None,
        "maximum": Decimal(str(inner["maximum"])) if "maximum" in inner else None,
        "min_items": schema.get("minItems"),
        "max_items": schema.get("maxItems", schema.get("maxProperties")),
    }


def test_fields_and_required_fields_are_the_same(schema) -> None:
    paths = [path for path, *_ in walk(Spec, schema, "spec")]
    assert "spec.training.optimizer.config" in paths
    assert "spec.scheduling.tolerations.tolerationSeconds" in paths


def test_bounds_are_the_same(schema) -> None:
    for path, _, _, rule, below in walk(Spec, schema, "spec"):
        if path in QUANTITIES or path == "spec.resources":
            continue
        mine = {name: getattr(rule, name) for name in bounds(below)}
        wanted = bounds(below)
        if path in MAXIMUM_BY_RULE:
            wanted["maximum"] = MAXIMUM_BY_RULE[path]
            assert [entry["rule"] for entry in below["x-kubernetes-validations"]] == [f"self <= {wanted['maximum']}"]
        assert mine == wanted, path


def test_patterns_and_lengths_are_the_same(schema) -> None:
    for path, hint, _, rule, below in walk(Spec, schema, "spec"):
        if hint is not str or path in QUANTITIES:
            continue
        # \A and \Z, because $ would let a trailing newline through in Python and does not in the API server.
        mine = rule.pattern.replace(r"\A", "^").replace(r"\Z", "$")
        if path in BY_RULE:
            rules = [entry["rule"] for entry in below["x-kubernetes-validations"]]
            assert any(mine in rule.replace("\\\\", "\\") for rule in rules), path
        else:
            assert mine == below.get("pattern", ""), path
            longest = below.get("maxLength")
            assert rule.max_length in (longest, None), path


def test_defaults_are_the_same(schema) -> None:
    for path, _, field, _, below in walk(Spec, schema, "spec"):
        wanted = below.get("default")
        if wanted is None or wanted == {}:
            continue
        default = field.default
        assert (float(default) if isinstance(default, Decimal) else default) == wanted, path
