"""The alerts in Prometheus' own rule engine: each fires when it should, not before, and not otherwise."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

OPERATOR = "trainingsession-operator"
JOB = f'job="{OPERATOR}-metrics"'
ALERTS = {
    "monitoring": {"prometheusRule": {"enabled": True, "runbookUrl": "https://example.com/r"}},
    "backup": {"enabled": True, "alertAfterHours": 1},
}
Promtool = Callable[..., "subprocess.CompletedProcess[str]"]


@dataclass(frozen=True)
class Case:
    """What is measured once a minute, and which alert must be firing when."""

    alert: str
    series: dict[str, str]
    """Name and labels without the job → values in promtool's notation."""
    quiet_at: str
    """When it must not fire yet; measured values may be bad already."""
    fires_at: str
    about: dict[str, str]
    """Namespace and reason by which whoever is called is told what it is about."""


def up(series: dict[str, str]) -> dict[str, str]:
    return {"up{}": "1x180", **series}


CASES = [
    Case("TrainingSessionOperatorDown", {"up{}": "1x9 0x60"}, "14m", "20m", {}),
    Case("TrainingSessionOperatorDown", {}, "4m", "6m", {}),
    Case("TrainingSessionMongoDBDown", up({"mongodb_up{}": "1x9 0x60"}), "14m", "16m", {}),
    Case("TrainingSessionMongoDBNotPrimary",
         up({'mongodb_members{state="primary"}': "1x9 0x60", 'mongodb_members{state="secondary"}': "2x60"}),
         "11m", "13m", {}),
    Case("TrainingSessionMongoDBMemberDown",
         up({'mongodb_members{state="primary"}': "1x60", 'mongodb_members{state="secondary"}': "2x9 1x60",
             'mongodb_members{state="unreachable"}': "0x9 1x60"}), "24m", "26m", {}),
    Case("TrainingSessionStorageFilling",
         up({"mongodb_disk_used_bytes{}": "70x9 81x60", "mongodb_disk_size_bytes{}": "100x70"}), "15m", "21m", {}),
    Case("TrainingSessionWatchSilent", up({"trainingsession_watch_silence_seconds{}": "90x9 91x9"}), "9m", "11m", {}),
    Case("TrainingSessionWatchLostEvents",
         up({'trainingsession_audit_findings_total{finding="missed"}': "0x9 2x60",
             'trainingsession_audit_findings_total{finding="ghost"}': "0x5 9x60"}), "9m", "11m", {}),
    Case("TrainingSessionAuditStale",
         up({"trainingsession_audit_last_success_timestamp_seconds{}": "600x90",
             "process_start_time_seconds{}": "0x90"}), "49m", "57m", {}),
    Case("TrainingSessionAuditStale",
         up({"trainingsession_audit_last_success_timestamp_seconds{}": "0x90",
             "process_start_time_seconds{}": "0x90"}), "39m", "47m", {}),
    Case("TrainingSessionLooksFail", up({'workqueue_longest_backoff_seconds{name="trainingsession"}': "0+60x60"}),
         "20m", "22m", {}),
    Case("TrainingSessionUnexpectedErrors",
         up({'controller_runtime_reconcile_total{controller="trainingsession",result="error"}': "0x9 1x60",
             'controller_runtime_reconcile_total{controller="trainingsession",result="unavailable"}': "0+9x60"}),
         "9m", "11m", {}),
    Case("TrainingSessionQueueSlow",
         up({'workqueue_queue_duration_seconds_bucket{name="trainingsession",le="30.0"}': "0+90x60",
             'workqueue_queue_duration_seconds_bucket{name="trainingsession",le="60.0"}': "0+100x60",
             'workqueue_queue_duration_seconds_bucket{name="trainingsession",le="+Inf"}': "0+100x60"}),
         "9m", "12m", {}),
    Case("TrainingSessionRequestsThrottled",
         up({"rest_client_rate_limiter_duration_seconds_sum{}": "0+90x60",
             "rest_client_rate_limiter_duration_seconds_count{}": "0+60x60"}), "14m", "17m", {}),
    Case("TrainingSessionRequestsFail",
         up({'rest_client_requests_total{verb="get",resource="jobs",code="200"}': "0+80x60",
             'rest_client_requests_total{verb="get",resource="jobs",code="503"}': "0+10x60",
             'rest_client_requests_total{verb="get",resource="jobs",code="<error>"}': "0+10x60"}), "9m", "12m", {}),
    Case("TrainingSessionSweepHalted", up({'trainingsession_sweep_halted{namespace="a"}': "0x9 1x9"}), "9m", "11m",
         {"namespace": "a"}),
    Case("TrainingSessionPendingLong",
         up({'trainingsession_longest_pending_seconds{namespace="a"}': "0+60x60",
             'trainingsession_longest_pending_seconds{namespace="b"}': "0x60"}), "34m", "36m", {"namespace": "a"}),
    # The operator tells of a namespace's failures from its first session on, with zeros (see test_intake.py).
    Case("TrainingSessionFailForOneReason",
         up({'trainingsession_failed_total{namespace="a",reason="JobLost"}': "0x5 2x60",
             'trainingsession_failed_total{namespace="b",reason="JobLost"}': "0x9 2x60",
             'trainingsession_failed_total{namespace="a",reason="BadData"}': "0x5 9x60"}), "8m", "12m",
         {"reason": "JobLost"}),
    Case("TrainingSessionManyFail",
         up({'trainingsession_finished_total{namespace="a",phase="Failed"}': "0x9 6x60",
             'trainingsession_finished_total{namespace="a",phase="Succeeded"}': "0x9 4x60",
             'trainingsession_finished_total{namespace="b",phase="Failed"}': "0x9 6x60",
             'trainingsession_finished_total{namespace="b",phase="Succeeded"}': "0x9 6x60"}), "9m", "12m",
         {"namespace": "a"}),
    Case("TrainingSessionBackupOld",
         up({'kube_cronjob_status_last_successful_time{namespace="ml-system",cronjob="trainingsession-backup"}': "0x90",
             'kube_cronjob_status_last_successful_time{namespace="x",cronjob="trainingsession-backup"}': "0+60x180",
             'kube_cronjob_created{namespace="ml-system",cronjob="trainingsession-backup"}': "0x180"}),
         "64m", "67m", {}),
    Case("TrainingSessionBackupOld",
         up({'kube_cronjob_created{namespace="ml-system",cronjob="trainingsession-backup"}': "0x180"}),
         "64m", "67m", {}),
]  # fmt: skip

QUIET = up(
    {
        "mongodb_up{}": "1x180",
        'mongodb_members{state="primary"}': "1x180",
        'mongodb_members{state="unreachable"}': "0x180",
        # A server that does not tell of its disk.
        "mongodb_disk_used_bytes{}": "0x180",
        "mongodb_disk_size_bytes{}": "0x180",
        "trainingsession_watch_silence_seconds{}": "0x180",
        'kube_cronjob_status_last_successful_time{namespace="ml-system",cronjob="trainingsession-backup"}': "0+60x180",
        'kube_cronjob_created{namespace="ml-system",cronjob="trainingsession-backup"}': "0x180",
        "trainingsession_audit_last_success_timestamp_seconds{}": "0+60x180",
        'trainingsession_longest_pending_seconds{namespace="a"}': "0+60x29 0x150",
        'trainingsession_failed_total{namespace="a",reason="BadData"}': "0+1x180",
        'trainingsession_finished_total{namespace="a",phase="Failed"}': "0+1x180",
        'trainingsession_finished_total{namespace="a",phase="Succeeded"}': "0+2x180",
        'rest_client_requests_total{verb="get",resource="jobs",code="200"}': "0+60x180",
        'rest_client_requests_total{verb="get",resource="jobs",code="409"}': "0+30x180",
    }
)


def named(series: dict[str, str]) -> list[dict[str, str]]:
    """Every series with the job of this operator."""
    return [
        {"series": re.sub(r"\{(.*)\}", lambda m: f"{{{JOB}{',' if m[1] else ''}{m[1]}}}", name), "values": values}
        for name, values in series.items()
    ]


@pytest.fixture(scope="session")
def promtool() -> Promtool:
    """Runs promtool; the binary is TS_PROMTOOL, the cached one, or the one on PATH."""
    cache = Path(os.environ.get("TS_CACHE", Path.home() / ".cache" / "trainingsession"))
    built = sorted(cache.glob("checkers-*/promtool"), key=lambda path: path.stat().st_mtime)
    binary = os.environ.get("TS_PROMTOOL") or (str(built[-1]) if built else shutil.which("promtool"))
    if binary is None:
        missing = "there is no promtool; run tests/checkers/build, put it on PATH or set TS_PROMTOOL to it"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([binary, *arguments], capture_output=True, text=True, check=False, timeout=120)

    return run


@pytest.fixture
def rules(render, tmp_path) -> dict[str, Any]:
    """The spec of the chart's PrometheusRule, also as the file rules.yaml in the test's folder."""
    spec: dict[str, Any] = render(ALERTS).one("PrometheusRule", OPERATOR)["spec"]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(spec))
    return spec


def judge(promtool: Promtool, folder: Path, tests: list[dict[str, Any]]) -> None:
    (folder / "tests.yaml").write_text(
        yaml.safe_dump({"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests})
    )
    done = promtool("test", "rules", str(folder / "tests.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_the_rules(promtool, rules, tmp_path):
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", str(tmp_path / "rules.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case(rules):
    assert {case.alert for case in CASES} == {rule["alert"] for rule in rules["groups"][0]["rules"]}


def test_every_alert_fires_when_it_should_and_not_before(promtool, rules, tmp_path):
    tests = []
    for case in CASES:
        firing = f'count by (namespace, reason) (ALERTS{{alertname="{case.alert}", alertstate="firing"}})'
        labels = ", ".join(f'{key}="{value}"' for key, value in case.about.items())
        fires = [{"labels": f"{{{labels}}}", "value": 1}]
        tests.append(
            {
                "interval": "1m",
                "name": case.alert,
                "input_series": named(case.series),
                "promql_expr_test": [
                    {"expr": firing, "eval_time": case.quiet_at, "exp_samples": []},
                    {"expr": firing, "eval_time": case.fires_at, "exp_samples": fires},
                ],
            }
        )
    judge(promtool, tmp_path, tests)


def test_nothing_fires_while_all_is_well(promtool, rules, tmp_path):
    well = {"expr": "count(ALERTS) or vector(0)", "exp_samples": [{"labels": "{}", "value": 0}]}
    times = [{**well, "eval_time": time} for time in ("10m", "61m", "120m", "180m")]
    judge(promtool, tmp_path, [{"interval": "1m", "input_series": named(QUIET), "promql_expr_test": times}])


def test_prometheus_takes_every_question_of_the_dashboard(promtool, chart, tmp_path):
    dashboard = json.loads((chart / "dashboards/trainingsession.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    assert len(asked) > 20
    records = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, expression in enumerate(asked)
    ]
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": records}]}))
    done = promtool("check", "rules", str(tmp_path / "panels.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
