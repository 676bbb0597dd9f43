"""From a session to its Job: whole objects against golden files, and names that are always legal."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from builders import session, settings
from trainingsession_operator import plan
from trainingsession_operator.errors import SessionError
from trainingsession_operator.jobs import (
    ATTEMPTS_ANNOTATION,
    GPU_SECONDS_ANNOTATION,
    SESSION_BYTES,
    build_job,
    check,
    image_of,
    session_json,
    session_label,
)
from trainingsession_operator.plan import NAME_LENGTH, job_name
from trainingsession_operator.resource import Session, parse_session

GOLDEN = Path(__file__).parent / "golden"
SETTINGS = {
    "default": settings(),
    "digits": settings(),
    "complete": settings(TRAINER_IMAGE_PULL_SECRETS="registry", TRAINER_IMAGE_PULL_POLICY="Always"),
}
STEPS = {"stored": plan.STORED, "workers": plan.EXTRACT}

LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
PART = r"[a-z0-9]([a-z0-9-]{0,80}[a-z0-9])?"
NAMES = st.from_regex(rf"{PART}(\.{PART}){{0,6}}", fullmatch=True).filter(lambda name: len(name) <= 253)


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    return found


def test_the_trainer_hears_which_exports_to_make_and_not_what_may_change_meanwhile():
    def heard(artifacts: dict[str, Any]) -> dict[str, Any]:
        return dict(json.loads(session_json(session(artifacts=artifacts)))["spec"])

    assert heard({"deletionPolicy": "Delete", "exports": ["onnx"]})["artifacts"] == {"exports": ["onnx"]}
    assert heard({"deletionPolicy": "Delete", "exports": []})["artifacts"] == {"exports": []}
    # A trainer that is older than the field is not shown it.
    assert "artifacts" not in heard({"deletionPolicy": "Delete"})


@pytest.mark.parametrize("name", [path.stem for path in sorted((GOLDEN / "sessions").iterdir())])
def test_the_job_is_the_golden_one(name):
    given = parse_session(read(GOLDEN / f"sessions/{name}.yaml"))
    made = build_job(given, SETTINGS.get(name, settings()), STEPS.get(name, plan.WHOLE))
    assert made == read(GOLDEN / f"jobs/{name}.yaml")


@pytest.mark.parametrize(
    ("step", "gpus", "workers", "arguments", "holds", "pods"),
    [
        (plan.WHOLE, 2, 1, None, True, 1),
        (plan.WHOLE, 0, 3, None, False, 3),
        (plan.WHOLE, 2, 3, None, True, 3),
        (plan.STORED, 2, 3, ["--task", "train"], False, 1),
        (plan.EXTRACT, 2, 3, ["--task", "extract"], True, 3),
        (plan.HEAD, 2, 3, ["--task", "train"], False, 1),
        (plan.AGAIN, 2, 3, None, True, 3),
    ],
)
def test_what_a_step_makes_of_the_job(step, gpus, workers, arguments, holds, pods):
    given = session(resources={"gpus": gpus, "workers": workers})
    made = build_job(given, settings(), step)
    (container,) = made["spec"]["template"]["spec"]["containers"]
    environment = {item["name"]: item["value"] for item in container["env"]}
    assert container.get("args") == arguments
    for amounts in container["resources"].values():
        assert amounts.get("nvidia.com/gpu") == ("2" if holds else None)
    hidden = {"CUDA_VISIBLE_DEVICES": "", "NVIDIA_VISIBLE_DEVICES": "void"}
    assert (hidden.items() <= environment.items()) == (not holds)
    assert holds == (not hidden.keys() & environment.keys())
    assert (made["spec"]["completions"], made["spec"]["parallelism"]) == (pods, pods)
    assert (made["spec"].get("completionMode") == "Indexed") == (pods > 1)
    assert ("backoffLimitPerIndex" in made["spec"], "backoffLimit" in made["spec"]) == (pods > 1, pods == 1)
    assert made["metadata"]["name"] == plan.step_name(given, step)
    assert plan.step_of(given, made) == step, "the Job itself says which step it is"


CLAIMED = {"gpus": 0, "claims": [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}]}


@pytest.mark.parametrize(
    ("step", "claims"),
    [(plan.WHOLE, True), (plan.EXTRACT, True), (plan.AGAIN, True), (plan.STORED, False), (plan.HEAD, False)],
)
def test_devices_are_claimed_only_by_pods_that_compute_with_gpus(step, claims):
    pod = build_job(session(resources=CLAIMED), settings(), step)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    environment = {item["name"] for item in container["env"]}
    assert pod.get("resourceClaims") == ([{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}] if claims else None)
    assert container["resources"].get("claims") == ([{"name": "gpu"}] if claims else None)
    assert "nvidia.com/gpu" not in container["resources"]["limits"]
    assert ("CUDA_VISIBLE_DEVICES" in environment) == (not claims)
    assert ("tolerations" in pod) == claims


def test_a_session_with_claims_is_placed_like_one_with_gpus():
    given = session(resources=CLAIMED | {"gpuForHead": "never"})
    assert plan.first(given, stored=True) == plan.STORED
    assert plan.first(given, stored=False) == plan.EXTRACT
    assert plan.placement(given, plan.EXTRACT)["device"] == "GPU"
    assert len(plan.names(given)) == 3


def test_a_session_that_claims_nothing_has_the_digest_that_it_had_before_claims_were_known():
    assert plan.run_digest(session()) == "9acb37c320c1adb7"
    assert plan.run_digest(session(resources=CLAIMED)) != plan.run_digest(session(resources={"gpus": 0}))


def _keys(made: dict[str, Any]) -> list[str]:
    return [item["key"] for item in made["spec"]["template"]["spec"].get("tolerations", [])]


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("nvidia.com/gpu", ["nvidia.com/gpu"]),
        ("nvidia.com/mig-1g.5gb", ["nvidia.com/mig-1g.5gb", "nvidia.com/gpu"]),
        ("amd.com/gpu", ["amd.com/gpu"]),
    ],
)
def test_the_taints_that_keep_others_from_gpus_are_tolerated(name, keys):
    assert _keys(build_job(session(resources={"gpuResourceName": name}), settings())) == keys
    assert _keys(build_job(session(resources={"gpuResourceName": name, "gpus": 0}), settings())) == []
    given = {"key": keys[0], "operator": "Exists", "effect": "NoSchedule"}
    made = build_job(session(resources={"gpuResourceName": name}, scheduling={"tolerations": [given]}), settings())
    assert _keys(made) == keys, "what the session says itself is not said twice"


def test_a_job_that_follows_another_goes_on_counting():
    first = build_job(session(), settings())["metadata"]["annotations"]
    assert first == {plan.RUN_ANNOTATION: plan.run_digest(session())}
    made = build_job(session({"attempts": 3, "gpuSeconds": 7}), settings(), plan.AGAIN)
    assert made["metadata"]["annotations"] == first | {ATTEMPTS_ANNOTATION: "3", GPU_SECONDS_ANNOTATION: "7"}


def test_a_session_that_has_begun_goes_on_with_the_image_it_began_with():
    made = build_job(session({"trainer": {"image": "example.org/trainer:0"}}), settings())
    assert image_of(made) == "example.org/trainer:0"
    assert image_of(build_job(session(), settings())) == "example.org/trainer:1"


DIGEST = "@sha256:" + "a" * 64


def brings(name: str, status: dict[str, Any] | None = None) -> Session:
    return session(status, module={"image": {"name": name + DIGEST, "entryPoint": "heads:build"}})


def test_an_image_that_a_session_brings_along_is_the_jobs_whatever_a_record_says():
    made = build_job(brings("example.org/team/heads", {"trainer": {"image": "example.org/evil:1"}}), settings())
    assert image_of(made) == "example.org/team/heads" + DIGEST


@pytest.mark.parametrize(
    ("prefix", "name", "allowed"),
    [
        ("", "example.org/team/heads", False),
        ("example.org/team/", "example.org/team/heads", True),
        ("example.org/team", "example.org/team/heads", True),
        ("example.org/team", "example.org/teammate/heads", False),
        ("example.org/team/heads", "example.org/team/heads", True),
        ("other.org,example.org/team/heads@", "example.org/team/heads", True),
        ("example.org", "example.org.evil.net/heads", False),
        ("example.org", "mirror/example.org/heads", False),
    ],
)
def test_only_images_below_an_allowed_name_are_brought_along(prefix, name, allowed):
    configured = settings(MODULE_IMAGES=prefix)
    if allowed:
        check(brings(name), configured)
        return
    with pytest.raises(SessionError, match=r"sessions may bring along images of: .*trainer\.moduleImages") as caught:
        check(brings(name), configured)
    assert caught.value.reason == "ImageNotAllowed"


def test_a_module_on_images_keeps_its_gpus_though_features_are_stored():
    own = {"git": {"url": "https://example.org/heads", "revision": "a" * 40, "entryPoint": "heads:build"}}
    assert plan.first(session(module=own), stored=True) == plan.STORED
    on_images = session(module={**own, "input": "images"})
    assert plan.first(on_images, stored=True) == plan.WHOLE
    assert plan.placement(on_images, plan.WHOLE)["reason"] == "The module works on images, not on features."


def test_only_a_job_in_a_queue_is_made_suspended():
    assert "suspend" not in build_job(session(), settings())["spec"]
    made = build_job(session(scheduling={"queueName": "team-a"}), settings())
    assert made["spec"]["suspend"] is True
    assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert "kueue.x-k8s.io/queue-name" not in made["spec"]["template"]["metadata"]["labels"], (
        "the Job waits, not the pod"
    )


def test_the_same_session_always_gives_the_same_job():
    assert build_job(session(), settings()) == build_job(session(), settings())


@given(NAMES, st.uuids().map(str))
def test_every_name_gives_a_legal_job_name_and_label(name, uid):
    made = job_name(name, uid)
    assert len(made) <= NAME_LENGTH
    assert DNS_LABEL.fullmatch(made)
    # The longest suffix, the index of a worker as in its pod's host name, and the pod's own suffix.
    assert len(f"{made}-g-63-abcde") <= 63
    label = session_label(name)
    assert LABEL.fullmatch(label), label
    assert job_name(name, uid) == made


@pytest.mark.parametrize("name", ["a" * 253, ("a" * 42 + ".") * 5 + "b", "a." * 126 + "b", "a" + "-" * 100 + "b", "x"])
def test_long_and_dotted_names_are_cut(name):
    made = job_name(name, "0f6a2f6e-6bd4")
    assert DNS_LABEL.fullmatch(made)
    assert len(made) <= NAME_LENGTH
    assert made.endswith("-0f6a2f6e")
    assert LABEL.fullmatch(session_label(name))


@given(NAMES, st.uuids().map(str), st.uuids().map(str))
def test_sessions_of_one_name_and_different_uids_have_different_jobs(name, one, other):
    assert (job_name(name, one) == job_name(name, other)) == (one[:8] == other[:8])


def test_a_name_that_is_a_legal_label_is_the_label():
    assert session_label("flowers.v2") == "flowers.v2"


def test_a_spec_too_large_for_an_annotation_is_refused_with_a_sentence():
    spec = {"arguments": {"note": "x" * SESSION_BYTES}}
    with pytest.raises(SessionError, match=r"The spec has 100 KiB, and at most 100 KiB reach the trainer; shorten"):
        build_job(session(baseModel=spec), settings())


@pytest.mark.parametrize(
    "spec",
    [
        {"resources": {"gpus": "many"}},
        {"runPolicy": {"backoffLimit": None}},
        {"scheduling": {"tolerations": 3}},
        {"resources": {"workers": "several"}},
        {"dataset": {"subset": "half"}},
    ],
)
def test_a_spec_that_another_definition_let_through_is_refused_with_a_sentence(spec):
    with pytest.raises(SessionError, match=r"The spec cannot be read .*check that the definition in the cluster"):
        session(**spec)
