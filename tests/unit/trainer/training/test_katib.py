"""Katib's StdOut collector reads the trainer's log as it is, and the sample asks for figures that are in it."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from trainingsession_trainer.config import parse_session
from trainingsession_trainer.reporting import Reporter
from trainingsession_trainer.yaml12 import load_all

# DefaultFilter of pkg/metricscollector/v1beta1/common/const.go: until Katib 0.12, and since.
FILTERS = (r"([\w|-]+)\s*=\s*((-?\d+)(\.\d+)?)", r"([\w|-]+)\s*=\s*([+-]?\d*(\.\d+)?([Ee][+-]?\d+)?)")

# From experiment_types.go and common_types.go of the same version of Katib's API, v1beta1.
EXPERIMENT = {"parameters", "objective", "algorithm", "earlyStopping", "trialTemplate", "parallelTrialCount",
              "maxTrialCount", "maxFailedTrialCount", "metricsCollectorSpec", "nasConfig", "resumePolicy"}  # fmt: skip
TRIAL_TEMPLATE = {"retain", "trialSpec", "configMap", "trialParameters", "primaryPodLabels", "primaryContainerName",
                  "successCondition", "failureCondition"}  # fmt: skip


def collected(log: str, metrics: list[str], filter_: str) -> list[tuple[str, str, str]]:
    """What the collector makes of a log: time, name and value, in the steps of its parseLogsInTextFormat."""
    found = []
    for line in log.split("\n"):
        if not any(metric in line for metric in metrics):
            continue
        time = line.split(" ", 1)[0]
        datetime.fromisoformat(time)
        matches = re.finditer(filter_, line, re.ASCII)
        found += [(time, match[1], match[2]) for match in matches if match[1] in metrics]
    return found


@pytest.fixture(scope="module")
def log() -> str:
    """A log with everything that a session says, and a user's text that looks like a figure."""
    out = io.StringIO()
    reporter = Reporter(out, now=lambda: datetime(2030, 1, 2, 12, tzinfo=UTC))
    reporter.info("Session team-a/digits: 100 % of digits, epochs=3")
    reporter.extraction("train", 100, 100, rate=25.0)
    reporter.epoch(1, 2, {"loss": 0.5, "accuracy": 0.75, "val_loss": 0.6, "val_accuracy": 0.7}, 4.0, 1200)
    reporter.epoch(2, 2, {"loss": 2e-7, "accuracy": 1.0, "val_loss": 12345.6, "val_accuracy": 0.8}, 4.0, 1200)
    reporter.info("Accuracy 0.9000 on 360 test images (95 % interval 0.8600 to 0.9300)")
    reporter.result({"test_accuracy": 0.9, "test_loss": 0.25, "validation_accuracy": 0.8})
    return out.getvalue()


@pytest.mark.parametrize("filter_", FILTERS)
def test_the_collector_finds_every_figure_once_with_its_time(log: str, filter_: str) -> None:
    metrics = ["validation_accuracy", "test_accuracy", "test_loss", "loss", "accuracy", "val_loss", "val_accuracy"]
    found = collected(log, metrics, filter_)
    assert {time for time, _, _ in found} == {"2030-01-02T12:00:00Z"}
    assert [(name, value) for _, name, value in found] == [
        ("loss", "0.5000"), ("accuracy", "0.7500"), ("val_loss", "0.6000"), ("val_accuracy", "0.7000"),
        ("loss", "0.0000"), ("accuracy", "1.0000"), ("val_loss", "12345.6000"), ("val_accuracy", "0.8000"),
        ("test_accuracy", "0.9000"), ("test_loss", "0.2500"), ("validation_accuracy", "0.8000"),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def sample(repo: Path) -> tuple[dict, dict]:
    config_map, experiment = yaml.safe_load_all((repo / "manifests/samples/katib/experiment.yaml").read_text())
    return config_map, experiment


def test_the_sample_has_only_fields_that_katib_documents(sample) -> None:
    config_map, experiment = sample
    spec = experiment["spec"]
    assert (experiment["apiVersion"], experiment["kind"]) == ("kubeflow.org/v1beta1", "Experiment")
    assert set(spec) <= EXPERIMENT
    template = spec["trialTemplate"]
    assert set(template) <= TRIAL_TEMPLATE
    assert template["configMap"]["configMapName"] == config_map["metadata"]["name"]
    assert template["configMap"]["templatePath"] in config_map["data"]
    assert config_map["metadata"]["labels"] == {"katib.kubeflow.org/component": "trial-templates"}
    assert {p["reference"] for p in template["trialParameters"]} == {p["name"] for p in spec["parameters"]}


def test_the_pods_of_a_session_are_those_that_the_sample_watches(sample) -> None:
    import builders
    from trainingsession_operator import jobs

    template = sample[1]["spec"]["trialTemplate"]
    pod = jobs.build_job(builders.session(), builders.settings())["spec"]["template"]
    assert template["primaryPodLabels"].items() <= pod["metadata"]["labels"].items()
    assert template["primaryContainerName"] == pod["spec"]["containers"][0]["name"]


def test_a_trial_is_a_session_that_the_trainer_accepts(sample) -> None:
    text = sample[0]["data"]["trial.yaml"]
    for name, value in {"learningRate": "0.00123", "optimizer": "adam"}.items():
        assert f"${{trialParameters.{name}}}" in text
        text = text.replace(f"${{trialParameters.{name}}}", value)
    (trial,) = load_all(text)
    trial["metadata"] = {"namespace": "team-a", "name": "trial-1", "uid": "1"}
    optimizer = parse_session(trial).spec.training.optimizer
    assert (optimizer.name, optimizer.config) == ("adam", {"learning_rate": 0.00123})


def test_the_objective_is_a_figure_that_a_log_ends_with(sample, log: str) -> None:
    objective = sample[1]["spec"]["objective"]
    names = [objective["objectiveMetricName"], *objective["additionalMetricNames"]]
    assert {name for _, name, _ in collected(log, names, FILTERS[-1])} == set(names)
    assert [strategy["name"] for strategy in objective["metricStrategies"]] == names
