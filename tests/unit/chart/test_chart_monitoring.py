"""What Prometheus is given: the Service, the ServiceMonitor and the alerts."""

from __future__ import annotations

import itertools
import json
import re

OPERATOR = "trainingsession-operator"
ALL = {
    "monitoring": {
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}, "runbookUrl": "https://example.com/r"},
    }
}


def test_the_metrics_service_leads_to_the_operator_ready_or_not(render):
    rendered = render()
    service = rendered.one("Service", f"{OPERATOR}-metrics")["spec"]
    assert service["publishNotReadyAddresses"] is True
    pod = rendered.pods()[OPERATOR]
    assert service["selector"].items() <= pod["metadata"]["labels"].items()
    ports = {port["name"]: port["containerPort"] for port in pod["spec"]["containers"][0]["ports"]}
    (port,) = service["ports"]
    assert (ports[port["targetPort"]], port["port"]) == (8081, 8081)


def test_without_the_prometheus_operator_nothing_of_it_is_needed(render):
    kinds = {name.partition("/")[0] for name in render().names()}
    assert not kinds & {"ServiceMonitor", "PrometheusRule"}
    assert not render({"monitoring": {"enabled": False}, "mongodb": {"external": {"uriSecret": "u"}}}).kind("Service")


def test_the_service_monitor_finds_the_service_and_keeps_our_labels(render):
    rendered = render(ALL)
    monitor = rendered.one("ServiceMonitor", OPERATOR)
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    found = [s for s in rendered.kind("Service") if wanted <= s["metadata"]["labels"].items()]
    assert [service["metadata"]["name"] for service in found] == [f"{OPERATOR}-metrics"]
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in found[0]["spec"]["ports"]}
    assert endpoint["honorLabels"] is True


def test_a_service_monitor_without_a_service_is_refused(template):
    done = template({"monitoring": {"enabled": False, "serviceMonitor": {"enabled": True}}})
    assert done.returncode != 0
    assert "set monitoring.enabled to true" in done.stderr


def test_every_alert_says_what_how_bad_and_where_to_read_on(render):
    rule = render(ALL).one("PrometheusRule", OPERATOR)
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    (group,) = rule["spec"]["groups"]
    for alert in group["rules"]:
        name = alert["alert"]
        assert alert["labels"]["severity"] in {"critical", "warning"}, name
        assert alert["annotations"]["runbook_url"] == f"https://example.com/r#{name.lower()}"
        assert alert["annotations"]["summary"], name
        assert alert["annotations"]["description"].endswith("."), name


def test_alerts_ask_for_the_metrics_of_this_operator_only(render):
    for release in ("trainingsession", "blue"):
        rendered = render(ALL, release=release)
        (rule,) = rendered.kind("PrometheusRule")
        (service,) = [s for s in rendered.kind("Service") if s["metadata"]["name"].endswith("-metrics")]
        for alert in rule["spec"]["groups"][0]["rules"]:
            asked = re.findall(r"[a-z_]+\{([^}]*)\}", alert["expr"])
            assert asked, alert["alert"]
            assert all(f'job="{service["metadata"]["name"]}"' in selector for selector in asked), alert["alert"]


def test_the_dashboard_is_a_config_map_that_the_sidecar_of_grafana_finds(render, chart):
    assert not render().kind("ConfigMap")
    given = {"enabled": True, "annotations": {"grafana_folder": "ML"}}
    (found,) = render({"monitoring": {"dashboard": given}}).kind("ConfigMap")
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert found["metadata"]["annotations"] == {"grafana_folder": "ML"}
    source = (chart / "dashboards/trainingsession.json").read_text()
    assert json.loads(found["data"]["trainingsession.json"]) == json.loads(source)


def test_panels_of_the_dashboard_have_places_and_questions_of_their_own(chart):
    dashboard = json.loads((chart / "dashboards/trainingsession.json").read_text())
    panels = dashboard["panels"]
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert variables == {"datasource", "job", "namespace"}
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels if panel["type"] != "row"}) >= 20
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == panel["datasource"]["uid"] == "${datasource}"
            selectors = re.findall(r"[a-z_]+\{([^}]*)\}", target["expr"])
            assert selectors, target["expr"]
            assert all('job="$job"' in selector for selector in selectors), target["expr"]
            assert set(re.findall(r"\$(\w+)", target["expr"])) <= variables | {"__rate_interval"}
    for one, other in itertools.combinations((panel["gridPos"] for panel in panels), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)
