"""Monitors, rules and dashboards: all of the files arrive, and each alert can be silenced, changed and read up on."""

import json
from typing import Any

import pytest
import yaml

from tests.chart.rendering import CHART, MONITORING, NAMESPACE, VALUES_FILES, HelmError, Manifest, one, read_values, rendered
from tests.monitoring.queries import DASHBOARDS, RULE_FILES, alerts
from tests.unit.operator.specs import DIGEST, claim_spec, context
from transcriber_operator.render.serving import deployment

ROOT = CHART.parents[1]
BASE_URL = "https://git.example.com/speech/transcriber-operator/blob/main"
[MONITORING_FILE] = [file for file in VALUES_FILES if file.name == "monitoring-values.yaml"]
MODES = [("metrics.podMonitor", "PodMonitor"), ("metrics.serviceMonitor", "ServiceMonitor"), ("prometheusRule", "PrometheusRule")]


def rule_groups(**values: Any) -> list[Manifest]:
    found = rendered({"prometheusRule": {"enabled": True, **values}}, apis=MONITORING, only="prometheusrule.yaml")
    groups: list[Manifest] = one(found, "PrometheusRule")["spec"]["groups"]
    return groups


def rendered_alerts(**values: Any) -> dict[str, Manifest]:
    return {rule["alert"]: rule for group in rule_groups(**values) for rule in group["rules"] if "alert" in rule}


def nested(path: str, value: Any) -> Any:
    for part in reversed(path.split(".")):
        value = {part: value}
    return value


def test_all_rules_of_all_files_arrive_unchanged() -> None:
    files = [group for file in RULE_FILES for group in yaml.safe_load(file.read_text())["groups"]]
    assert rule_groups() == files


@pytest.mark.parametrize("alert", alerts())
def test_every_alert_has_a_runbook_that_exists_under_the_base_url(alert: str) -> None:
    for base in (BASE_URL, f"{BASE_URL}/"):
        link = rendered_alerts(runbookBaseUrl=base)[alert]["annotations"]["runbook_url"]
        assert link.startswith(f"{BASE_URL}/docs/")
        assert (ROOT / link.removeprefix(f"{BASE_URL}/")).is_file()


def test_every_alert_can_be_left_out() -> None:
    some = sorted(alerts())[::2]
    assert rendered_alerts(disabled=dict.fromkeys(some, True)).keys() == alerts().keys() - set(some)
    assert rendered_alerts(disabled=dict.fromkeys(some, False)).keys() == alerts().keys()


def test_a_group_without_rules_is_left_out_and_recording_rules_stay() -> None:
    groups = rule_groups(disabled=dict.fromkeys(alerts(), True))
    assert [group["name"] for group in groups] == ["transcriber.recording"]


def test_every_alert_can_be_changed_and_the_others_are_not() -> None:
    plain = rendered_alerts()
    changed = rendered_alerts(overrides={alert: {"for": "3h", "severity": "page"} for alert in alerts()})
    for alert, rule in changed.items():
        assert (rule["for"], rule["labels"]["severity"], rule["expr"]) == ("3h", "page", plain[alert]["expr"])
    one_changed = rendered_alerts(overrides={"TranscriberQueueSaturated": {"severity": "critical"}})
    assert {alert for alert in plain if plain[alert] != one_changed[alert]} == {"TranscriberQueueSaturated"}
    assert one_changed["TranscriberQueueSaturated"]["for"] == plain["TranscriberQueueSaturated"]["for"]


def test_labels_for_the_routing_of_alerts_are_on_all_and_replace_no_severity() -> None:
    plain = rendered_alerts()
    for alert, rule in rendered_alerts(alertLabels={"team": "speech", "severity": "none"}).items():
        assert rule["labels"] == {**plain[alert]["labels"], "team": "speech"}


@pytest.mark.parametrize("key", ["disabled", "overrides"])
def test_an_alert_that_does_not_exist_is_named_with_those_that_do(key: str) -> None:
    value: Any = True if key == "disabled" else {"for": "1h"}
    with pytest.raises(
        HelmError,
        match=f"prometheusRule.{key}: there is no alert TranscriberQueueSatturated; there are .*TranscriberQueueSaturated",
    ):
        rule_groups(**{key: {"TranscriberQueueSatturated": value}})


@pytest.mark.parametrize(("key", "kind"), MODES)
def test_where_the_kind_is_missing_the_mode_decides(key: str, kind: str) -> None:
    def kinds(mode: str, apis: tuple[str, ...] = ()) -> set[str]:
        values = {"crds": {"enabled": False}, **nested(key, {"enabled": True, "renderMode": mode})}
        return {manifest["kind"] for manifest in rendered(values, apis=apis)}

    assert kind not in kinds("skipIfMissing")
    assert kind in kinds("skipIfMissing", MONITORING)
    assert kind in kinds("alwaysRender")
    assert kind in kinds("failIfMissing", MONITORING)
    with pytest.raises(
        HelmError, match=f"{key}: the cluster has no {kind} of monitoring.coreos.com/v1; install the Prometheus operator"
    ):
        kinds("failIfMissing")


def test_what_is_off_is_not_missed() -> None:
    values = {key: {"renderMode": "failIfMissing"} for key in ("podMonitor", "serviceMonitor")}
    kinds = {each["kind"] for each in rendered({"metrics": values, "prometheusRule": {"renderMode": "failIfMissing"}})}
    assert not kinds & {kind for _, kind in MODES}


def test_the_pod_monitor_finds_the_ports_of_serving_pods_and_names_their_resource() -> None:
    found = one(rendered(read_values(MONITORING_FILE)), "PodMonitor")
    of = context(claim_spec())
    template = deployment(of, of.spec.capacity.pools[0], DIGEST, 1)["spec"]["template"]
    labels = template["metadata"]["labels"]
    selector = found["spec"]["selector"]
    assert labels.items() >= selector["matchLabels"].items()
    assert {term["key"] for term in selector["matchExpressions"]} <= labels.keys()
    containers = [*template["spec"]["initContainers"], *template["spec"]["containers"]]
    numbers = {port["name"]: port["containerPort"] for each in containers for port in each.get("ports", ())}
    endpoints = found["spec"]["podMetricsEndpoints"]
    assert {numbers[endpoint["port"]] for endpoint in endpoints} == {8002, 8003}
    for endpoint in endpoints:
        name, own = endpoint["relabelings"]
        [source] = name["sourceLabels"]
        assert source.removeprefix("__meta_kubernetes_pod_label_") == "serving_transcriber_dev_deployment"
        assert "serving.transcriber.dev/deployment" in labels
        assert name["targetLabel"] == "name"
        assert own == {"targetLabel": "cluster", "replacement": "production"}


@pytest.mark.parametrize(("namespaces", "expected"), [([], {"any": True}), (["a", "b"], {"matchNames": ["a", "b"]})])
def test_the_pod_monitor_looks_where_resources_are_served(namespaces: list[str], expected: Manifest) -> None:
    values = {"watchNamespaces": namespaces, "metrics": {"podMonitor": {"enabled": True}}}
    assert one(rendered(values, apis=MONITORING, only="podmonitor.yaml"), "PodMonitor")["spec"]["namespaceSelector"] == expected


def test_the_service_monitor_keeps_the_namespaces_of_resources_unless_told_otherwise() -> None:
    values = {"metrics": {"serviceMonitor": {"enabled": True}}}
    [endpoint] = one(rendered(values, apis=MONITORING, only="servicemonitor.yaml"), "ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["honorLabels"] is True


def test_the_service_monitor_finds_the_service() -> None:
    found = rendered(read_values(MONITORING_FILE))
    monitor, service = one(found, "ServiceMonitor"), one(found, "Service")
    assert service["metadata"]["labels"].items() >= monitor["spec"]["selector"]["matchLabels"].items()
    assert monitor["spec"]["namespaceSelector"] == {"matchNames": [service["metadata"]["namespace"]]} == {"matchNames": [NAMESPACE]}
    [endpoint] = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert (endpoint["interval"], endpoint["scrapeTimeout"]) == ("15s", "10s")


def test_a_service_monitor_without_a_service_is_refused() -> None:
    values = {"service": {"enabled": False}, "metrics": {"serviceMonitor": {"enabled": True}}}
    with pytest.raises(HelmError, match=r"there is no Service to scrape; set service\.enabled"):
        rendered(values, apis=MONITORING)


def test_monitors_rules_and_dashboards_go_where_prometheus_and_grafana_look() -> None:
    found = [
        each
        for each in rendered(read_values(MONITORING_FILE))
        if each["metadata"]["labels"].get("app.kubernetes.io/component") == "monitoring"
    ]
    assert {each["metadata"]["namespace"] for each in found} == {"monitoring"}
    labels = {each["kind"]: each["metadata"]["labels"] for each in found}
    assert [labels[kind].get("release") for _, kind in MODES] == ["kube-prometheus-stack"] * 3
    assert labels["ConfigMap"]["grafana_dashboard"] == "1"


def test_every_dashboard_arrives_whole() -> None:
    found = rendered({"grafanaDashboards": {"enabled": True}}, only="dashboards.yaml")
    assert len({each["metadata"]["name"] for each in found}) == len(DASHBOARDS)
    texts = {name: text for each in found for name, text in each["data"].items()}
    assert texts == {file.name: file.read_text(encoding="utf-8") for file in DASHBOARDS}
    assert all(json.loads(text)["title"] for text in texts.values())
