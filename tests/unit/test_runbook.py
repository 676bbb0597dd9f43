"""Whoever is called by an alert finds its heading in the runbook, and what the runbook names is there."""

import re
import subprocess
import sys

import pytest
import yaml


def rules(repo):
    return (repo / "charts/trainingsession/templates/operator-alerts.yaml").read_text()


def test_every_alert_has_its_heading_in_the_runbook_and_every_heading_its_alert(repo):
    alerts = re.findall(r"- alert: (\w+)", rules(repo))
    page = (repo / "docs/runbook.md").read_text()
    section = page.partition("\n## Alerts\n")[2]
    assert alerts
    assert re.findall(r"^### (\w+)$", section, re.MULTILINE) == alerts


def test_links_of_the_runbook_lead_somewhere(repo):
    for target in re.findall(r"\]\(([^)]+)\)", (repo / "docs/runbook.md").read_text()):
        path, _, anchor = target.partition("#")
        page = (repo / "docs" / (path or "runbook.md")).read_text()
        anchors = {heading.lower().replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", page, re.MULTILINE)}
        assert not anchor or anchor in anchors, target


def test_values_that_the_runbook_names_are_the_chart_s(repo):
    values = yaml.safe_load((repo / "charts/trainingsession/values.yaml").read_text())
    page = (repo / "docs/runbook.md").read_text()
    named = set(re.findall(r"`((?:backup|operator|mongodb|features|monitoring|storage)\.[A-Za-z0-9.]+)", page))
    assert named
    for path in named:
        found = values
        for key in path.split("."):
            assert key in found, path
            found = found[key]


def test_metrics_that_the_runbook_names_are_told(repo):
    from trainingsession_operator.metrics import Metrics
    from trainingsession_operator.queue import WorkQueue

    metrics = Metrics()
    WorkQueue(lambda key: None, 0, metrics)
    metrics.follow_sessions(dict)
    metrics.follow_waiting(dict)
    told = set(re.findall(r"^# TYPE (\w+) ", metrics.expose().decode(), re.MULTILINE))
    page = (repo / "docs/runbook.md").read_text()
    prefixes = "trainingsession|workqueue|rest_client|controller_runtime|mongodb|process"
    named = set(re.findall(rf"`((?:{prefixes})_[a-z_]+)[`\[]", page))
    assert len(named) > 20
    assert named <= told


@pytest.mark.parametrize("reason", ["", "MongoDB cannot be used: no primary"])
def test_the_command_that_asks_why_the_operator_is_not_ready_prints_its_sentence(repo, reason):
    from trainingsession_operator.health import serve
    from trainingsession_operator.metrics import Metrics

    page = (repo / "docs/runbook.md").read_text()
    (program,) = re.findall(r'Why is it not ready\?.* -- python -c "([^"]+)"', page)
    server = serve(0, lambda: reason, Metrics())
    try:
        program = program.replace("8081", str(server.server_address[1]))
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    finally:
        server.shutdown()
        server.server_close()
    assert done.stdout.strip() == (reason or "ready")
