"""Numbers are what kubectl takes them for (sigs.k8s.io/yaml), not what YAML 1.1 says."""

from __future__ import annotations

import math

import pytest
import yaml

from trainingsession_trainer.yaml12 import load_all


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 100000.0),
        ("1.5e3", 1500.0),
        ("-2e-2", -0.02),
        (".5", 0.5),
        ("1.", 1.0),
        ("0.2", 0.2),
        ("+1", 1),
        ("0", 0),
        ("42", 42),
        ("0x1f", 31),
        ("010", 8),
        ("1:30", "1:30"),
        ("2024-01-31", "2024-01-31"),
        ("1e", "1e"),
        ("e3", "e3"),
        ("1.2.3", "1.2.3"),
        ("'1e-3'", "1e-3"),
        ("true", True),
        ("null", None),
        (".inf", math.inf),
    ],
)
def test_scalars(text: str, value: object) -> None:
    (read,) = load_all(text)
    assert read == value
    assert type(read) is type(value)


def test_not_a_number_is_read() -> None:
    assert math.isnan(load_all(".nan")[0])


def test_the_loader_of_others_is_left_alone() -> None:
    assert yaml.safe_load("1e-3") == "1e-3"


def test_python_objects_are_not_made() -> None:
    with pytest.raises(yaml.YAMLError):
        load_all("!!python/object/apply:os.getcwd []")
