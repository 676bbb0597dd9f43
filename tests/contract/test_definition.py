"""The definition documents and bounds every field, and the operator's dataclasses have its defaults."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import builders
from trainingsession_operator import jobs, plan, readable, resource, status, trainer_pod
from trainingsession_operator.errors import SessionError
from trainingsession_trainer.datasets import credentials

Json = dict[str, Any]


@pytest.fixture(scope="module")
def definition(repo: Path) -> Json:
    found: Json = yaml.safe_load((repo / "manifests/crd/trainingsessions.yaml").read_text())
    return found


@pytest.fixture(scope="module")
def schema(definition: Json) -> Json:
    found: Json = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    return {key: found[key] for key in ("spec", "status")}


def fields(name: str, schema: Json) -> Iterator[tuple[str, Json]]:
    """Every field below `schema` with its path."""
    for key, below in schema.get("properties", {}).items():
        yield f"{name}.{key}", below
        yield from fields(f"{name}.{key}", below)
    if "items" in schema:
        yield f"{name}[]", schema["items"]
        yield from fields(f"{name}[]", schema["items"])


def every(schema: Json) -> list[tuple[str, Json]]:
    return [found for part, below in schema.items() for found in fields(part, below)]


def test_every_field_has_a_description(schema):
    assert [path for path, below in every(schema) if not below.get("description") and not path.endswith("[]")] == []


def test_every_field_says_only_what_a_schema_can_say(schema):
    known = {
        "type", "format", "description", "enum", "default", "nullable", "pattern", "minLength", "maxLength", "minimum",
        "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems", "maxProperties", "items",
        "properties", "required",
        "additionalProperties", "x-kubernetes-validations", "x-kubernetes-list-type", "x-kubernetes-list-map-keys",
        "x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields",
    }  # fmt: skip
    assert {path: set(below) - known for path, below in every(schema) if set(below) - known} == {}


def test_every_string_list_and_map_has_a_bound(schema):
    open_ended = []
    for path, below in every(schema):
        kind = below.get("type")
        if kind == "string" and not (below.get("enum") or below.get("maxLength") or below.get("format") == "date-time"):
            open_ended.append(path)
        if kind == "array" and "maxItems" not in below:
            open_ended.append(path)
        free = "additionalProperties" in below or below.get("x-kubernetes-preserve-unknown-fields")
        if kind == "object" and free and "maxProperties" not in below:
            open_ended.append(path)
        inner = below.get("additionalProperties")
        anything = isinstance(inner, dict) and inner.get("x-kubernetes-preserve-unknown-fields")
        if isinstance(inner, dict) and not anything and not {"maxLength", "maximum"} & set(inner):
            open_ended.append(f"{path}{{}}")
        if below.get("x-kubernetes-int-or-string") and "maxLength" not in below:
            open_ended.append(path)
    assert open_ended == []


def test_every_number_has_a_least_value(schema):
    numbers = [(path, below) for path, below in every(schema) if below.get("type") in ("integer", "number")]
    assert [path for path, below in numbers if "minimum" not in below] == []


def test_names(definition):
    spec = definition["spec"]
    assert (spec["group"], spec["names"]["plural"], spec["names"]["kind"]) == (
        resource.GROUP, resource.PLURAL, resource.KIND,
    )  # fmt: skip
    assert [version["name"] for version in spec["versions"]] == [resource.VERSION]


def test_a_session_without_its_optional_parts_is_read_with_the_definitions_defaults(schema):
    bare = builders.resource()
    bare["spec"] = {"dataset": {"name": "digits"}, "baseModel": {"name": "MobileNet"}}
    read = resource.parse_session(bare)

    def defaults(part: str) -> Json:
        below = schema["spec"]["properties"][part]["properties"]
        return {name: field.get("default") for name, field in below.items()}

    assert defaults("resources") == {
        "gpus": read.resources.gpus,
        "gpuResourceName": read.resources.gpu_resource_name,
        "gpuWhenCached": read.resources.gpu_when_cached,
        "gpuForHead": read.resources.gpu_for_head,
        "workers": read.resources.workers,
        "extractionBatchSize": None,  # of no meaning to the operator
        "cpu": read.resources.cpu,
        "memory": read.resources.memory,
        "ephemeralStorage": read.resources.ephemeral_storage,
        "claims": None,
    }
    assert read.resources.claims == ()
    assert defaults("runPolicy") == {
        "backoffLimit": read.run_policy.backoff_limit,
        "activeDeadlineSeconds": read.run_policy.active_deadline_seconds,
        "pendingDeadlineSeconds": read.run_policy.pending_deadline_seconds,
        "maxDisruptions": read.run_policy.max_disruptions,
        "ttlSecondsAfterFinished": resource.seconds_after_end(bare),
    }
    assert set(defaults("scheduling")) == {
        "nodeSelector", "tolerations", "priorityClassName", "serviceAccountName", "queueName",
        "workloadPriorityClassName",
    }  # fmt: skip
    assert defaults("artifacts") == {
        "deletionPolicy": read.deletion_policy,
        "exports": None,  # the default is the trainer image's own
    }
    top = {name: schema["spec"]["properties"][name].get("default") for name in ("suspend", "reuseResult", "managedBy")}
    assert top == {"suspend": read.suspend, "reuseResult": read.reuse_result, "managedBy": None}
    assert resource.is_ours(bare)
    assert (read.scheduling.node_selector, read.scheduling.tolerations) == ({}, ())


def test_reasons_and_conditions_are_ones_that_the_definition_accepts(schema):
    import re

    condition = schema["status"]["properties"]["conditions"]["items"]["properties"]
    reasons = [value for key, value in vars(status.Reason).items() if key.isupper()]
    assert all(re.fullmatch(condition["reason"]["pattern"], reason) for reason in reasons)
    assert all(re.fullmatch(condition["type"]["pattern"], kind) for kind in status.CONDITIONS)
    assert condition["message"]["maxLength"] == status.MESSAGE_LENGTH
    assert len(reasons) == len(set(reasons))


def test_where_a_session_runs_is_told_in_words_that_the_definition_accepts(schema):
    below = schema["status"]["properties"]["placement"]["properties"]
    policies = {"gpuWhenCached": ("never", "always"), "gpuForHead": ("always", "never")}
    for gpus, cached, head in itertools.product((0, 1), *policies.values()):
        resources = {"gpus": gpus, "gpuWhenCached": cached, "gpuForHead": head, "workers": 2}
        for step in (plan.STORED, plan.EXTRACT, plan.WHOLE, plan.HEAD, plan.AGAIN):
            told = plan.placement(builders.session(resources=resources), step)
            assert set(told) == set(below)
            assert told["device"] in below["device"]["enum"]
            assert told["task"] in below["task"]["enum"]
            assert len(told["reason"]) <= below["reason"]["maxLength"]
    assert tuple(below["task"]["enum"]) == plan.TASKS
    assert schema["spec"]["properties"]["resources"]["properties"]["workers"]["maximum"] == 64, "room in a pod's name"


def test_the_columns_show_fields_that_are_there(definition, schema):
    paths = {path for path, _ in every(schema)} | {"metadata.creationTimestamp"}
    for column in definition["spec"]["versions"][0]["additionalPrinterColumns"]:
        path = column["jsonPath"].removeprefix(".").split("[")[0]
        assert path in paths, column["name"]


def test_jobs_have_only_the_kinds_of_volumes_that_the_charts_policy_lets_through(repo):
    policy = (repo / "charts/trainingsession/templates/operator-admission.yaml").read_text()
    claims = {"uri": "file:///flowers.tar.gz", "claimName": "flowers"}
    pod = jobs.build_job(builders.session(dataset=claims), builders.settings())["spec"]["template"]["spec"]
    for volume in pod["volumes"]:
        (kind,) = set(volume) - {"name"}
        assert kind in policy, f"{kind} is not named in the policy"
    assert trainer_pod.TENANT_SECRET in policy


@pytest.mark.parametrize(
    ("field", "volume_name", "blocks"),
    [
        ("spec.dataset", "dataset-secret", {"dataset": {"uri": "s3://b/flowers.tar", "secretName": "flowers"}}),
        (
            "spec.baseModel.weightsFrom",
            "weights-secret",
            {"baseModel": {"name": "MobileNet", "weightsFrom": {"uri": "s3://b/w.h5", "secretName": "flowers"}}},
        ),
    ],
)
def test_the_secret_of_files_is_mounted_as_the_charts_policy_allows_and_the_trainer_reads(
    repo, field, volume_name, blocks
):
    policy = (repo / "charts/trainingsession/templates/operator-admission.yaml").read_text()
    pod = jobs.build_job(builders.session(**blocks), builders.settings())["spec"]["template"]["spec"]
    (volume,) = (volume for volume in pod["volumes"] if volume.get("secret", {}).get("secretName") == "flowers")
    assert volume["name"] == volume_name
    assert f'"{volume_name}"' in policy
    allowed = policy.split("item.key in", 1)[1].split("]", 1)[0]
    assert [item["key"] for item in volume["secret"]["items"]] == yaml.safe_load(allowed.strip() + "]")
    (mount,) = (m for m in pod["containers"][0]["volumeMounts"] if m["name"] == volume["name"])
    assert mount["readOnly"]
    assert {item["key"] for item in volume["secret"]["items"]} == set(credentials.KEYS)
    assert credentials.FOLDERS[field] == Path(mount["mountPath"])
    assert "flowers" not in str(pod["containers"][0]["env"])


def test_the_charts_policy_lets_a_job_see_the_keys_of_a_users_secrets_that_it_mounts(repo):
    policy = (repo / "charts/trainingsession/templates/operator-admission.yaml").read_text()
    git = {"url": "https://example.org/x", "revision": "a" * 40, "entryPoint": "a:b", "secretName": "git"}
    tracking = {"mlflow": {"uri": "https://example.org", "experiment": "x", "secretName": "mlflow"}}
    made = jobs.build_job(builders.session(module={"git": git}, tracking=tracking), builders.settings())
    secrets = [volume for volume in made["spec"]["template"]["spec"]["volumes"] if "secret" in volume]
    own = [volume for volume in secrets if volume["secret"]["secretName"] != trainer_pod.TENANT_SECRET]
    assert [volume["name"] for volume in own] == ["module-secret", "mlflow-secret"]
    for volume in own:
        assert f'"{volume["name"]}"' in policy
        assert all(f'"{item["key"]}"' in policy for item in volume["secret"]["items"])


def test_the_trainer_reads_a_users_secrets_where_they_are_mounted(repo):
    source = "".join(path.read_text() for path in (repo / "trainer/src/trainingsession_trainer").rglob("*.py"))
    for folder in (trainer_pod.MODULE_SECRET_FOLDER, trainer_pod.MLFLOW_SECRET_FOLDER):
        assert f'Path("{folder}")' in source
    assert all(f'"{key}"' in source for key in trainer_pod.SECRET_KEYS)


def form(schema: Json) -> Any:
    """How `readable.py` writes down what the definition says of a field."""
    match schema:
        case {"enum": names}:
            return tuple(names)
        case {"pattern": pattern, "maxLength": 6}:
            return pattern.strip("^$")
        case {"type": "array", "items": items}:
            return [form(items)]
        case {"additionalProperties": items}:
            return {"*": form(items)}
        case {"type": "object"}:
            return {name: form(below) for name, below in schema["properties"].items()}
        case _:
            return schema.get("format") if schema.get("format") == "date-time" else schema["type"]


def plain(found: Any) -> Any:
    match found:
        case dict():
            return {name: plain(below) for name, below in found.items()}
        case [item] if isinstance(found, list):
            return [plain(item)]
        case _:
            return getattr(found, "pattern", found)


def test_the_operator_reads_every_field_of_a_status_in_the_form_that_the_definition_gives_it(schema):
    assert plain(readable.FORM) == form(schema["status"])


def test_values_of_which_the_operator_knows_a_few_are_those_of_the_definition(schema):
    for path in ("resources.gpuWhenCached", "resources.gpuForHead", "artifacts.deletionPolicy", "reuseResult"):
        found = schema["spec"]
        for name in path.split("."):
            found = found["properties"][name]
        part, _, name = path.rpartition(".")
        for value in found["enum"]:
            builders.session(**({part: {name: value}} if part else {name: value}))
        with pytest.raises(SessionError, match=rf"{name} is 'sometimes', and this operator knows .* and "):
            builders.session(**({part: {name: "sometimes"}} if part else {name: "sometimes"}))
