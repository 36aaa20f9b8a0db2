"""What reads figures: autoscalers of others, Prometheus with its selectors, and the gateway that is not there yet."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from transcriber_cli.cluster import Unread, Why
from transcriber_cli.doctor.asked import named_by
from transcriber_cli.doctor.findings import Area, Finding, not_checked, note, ok, problem, warning
from transcriber_cli.doctor.rights import KEDA
from transcriber_cli.doctor.seen import EXTERNAL_METRICS, PROMETHEUS, Many, Seen, chart_upgrade, setting
from transcriber_operator.decide.observed import Manifest
from transcriber_operator.render.names import COMPONENT_LABEL, DEPLOYMENT_LABEL, MANAGED_BY, POOL_LABEL, SERVING
from transcriber_operator.render.scalers import DESIRED_REPLICAS_METRIC

ALERT_PREFIX: Final = "Transcriber"
NAMESPACE_NAME_LABEL: Final = "kubernetes.io/metadata.name"


def keda(seen: Seen) -> Iterator[Finding]:
    """Mode Keda has KEDA, which is told where it reaches the operator."""
    users = tuple(each for each in seen.asked if each.scaling_mode == "Keda")
    if not users:
        return
    if not seen.serves(KEDA):
        fix = "install KEDA (https://keda.sh/docs/latest/deploy/), or set scaling.mode: Builtin"
        yield problem(Area.SCALING, "keda-missing", "KEDA", f"is not installed; {named_by(users)} has scaling.mode: Keda", fix)
        return
    yield ok(Area.SCALING, "keda", "KEDA", f"serves {', '.join(seen.server.groups[KEDA])}")
    if seen.operator is not None and not setting(seen.operator, "metrics_url"):
        said = f"the operator has no TRANSCRIBER_METRICS_URL, so that it refuses scaling.mode: Keda of {named_by(users)}"
        fix = chart_upgrade(seen, "config.metricsUrl=http://SERVICE.NAMESPACE.svc:8080")
        yield problem(Area.SCALING, "metrics-url-missing", "Address for KEDA", said, fix)


def external_metrics(seen: Seen) -> Iterator[Finding]:
    """Mode Hpa has an adapter that serves the operator's figure."""
    users = tuple(each for each in seen.asked if each.scaling_mode == "Hpa")
    if not users:
        return
    found = seen.external_metrics
    if not isinstance(found, Unread):
        yield ok(Area.SCALING, "external-metrics", EXTERNAL_METRICS, f"is served; {DESIRED_REPLICAS_METRIC} is to come from it")
    elif found.why is Why.FORBIDDEN:
        yield not_checked(Area.SCALING, EXTERNAL_METRICS, found, f"get --raw /apis/{EXTERNAL_METRICS}/v1beta1")
    else:
        said = f"is not served ({found.message}); {named_by(users)} has scaling.mode: Hpa"
        fix = (
            f"install an adapter such as prometheus-adapter that serves {DESIRED_REPLICAS_METRIC} by namespace and name, "
            "or set scaling.mode: Builtin"
        )
        yield problem(Area.SCALING, "external-metrics-missing", EXTERNAL_METRICS, said, fix)


def scraping(seen: Seen) -> Iterator[Finding]:
    """Where a Prometheus operator is, a PodMonitor covers the serving pods and a Prometheus selects it."""
    if seen.operator is None and not seen.asked:
        return
    if not seen.serves(PROMETHEUS):
        fix = "scrape ports 8002 and 8003 of the serving pods and 8080 of the operator: docs/metrics.md"
        yield note(
            Area.MONITORING, "prometheus-operator-absent", "Prometheus operator", "is not installed: nothing scrapes by itself", fix
        )
        return
    if isinstance(seen.pod_monitors, Unread):
        yield not_checked(Area.MONITORING, "PodMonitors", seen.pod_monitors, "list podmonitors -A")
        return
    ours = tuple(each for each in seen.pod_monitors if matches(each["spec"].get("selector"), serving_labels()))
    if not ours:
        fix = chart_upgrade(seen, "metrics.podMonitor.enabled=true")
        yield warning(
            Area.MONITORING, "pod-monitor-missing", "PodMonitor", "none selects the serving pods: they are not scraped", fix
        )
        return
    uncovered = tuple(each for each in seen.asked if not any(_covers(monitor, each.namespace) for monitor in ours))
    if uncovered:
        fix = "give it namespaceSelector: {any: true}, or these namespaces in matchNames"
        name = f"PodMonitor {_name(ours[0])}"
        yield warning(Area.MONITORING, "pod-monitor-narrow", name, f"leaves out the namespaces of {named_by(uncovered)}", fix)
    yield from _selected(seen, ours, "podMonitor", "metrics.podMonitor.labels")


def alerts(seen: Seen) -> Iterator[Finding]:
    """Where a Prometheus operator is, our alerts are there and a Prometheus selects them."""
    if (seen.operator is None and not seen.asked) or not seen.serves(PROMETHEUS):
        return
    if isinstance(seen.prometheus_rules, Unread):
        yield not_checked(Area.MONITORING, "PrometheusRules", seen.prometheus_rules, "list prometheusrules -A")
        return
    ours = tuple(each for each in seen.prometheus_rules if _has_our_alerts(each))
    if not ours:
        fix = chart_upgrade(seen, "prometheusRule.enabled=true")
        yield warning(Area.MONITORING, "alerts-missing", "PrometheusRule", "none has the alerts of the operator", fix)
        return
    yield from _selected(seen, ours, "rule", "prometheusRule.labels")


def gateway(seen: Seen) -> Iterator[Finding]:
    """There is no gateway in this version: clients reach each resource at its own Service."""
    if seen.asked:
        said = "none is part of this version; clients speak gRPC to Service NAME, port 8001, of each resource"
        yield note(Area.GATEWAY, "gateway-absent", "Gateway", said)


def serving_labels() -> dict[str, str]:
    """Return the labels of any serving pod."""
    return {
        "app.kubernetes.io/name": "transcriber",
        "app.kubernetes.io/instance": "any",
        "app.kubernetes.io/part-of": MANAGED_BY,
        "app.kubernetes.io/managed-by": MANAGED_BY,
        COMPONENT_LABEL: SERVING,
        DEPLOYMENT_LABEL: "any",
        POOL_LABEL: "any",
    }


def matches(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Whether a label selector chooses labels; an empty one chooses all, none at all chooses nothing."""
    if selector is None:
        return False
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(_holds(expression, labels) for expression in selector.get("matchExpressions") or ())


def _holds(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value, values = labels.get(expression["key"]), expression.get("values") or ()
    match expression["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case _:
            return value is None


def _selected(seen: Seen, objects: tuple[Manifest, ...], what: str, key: str) -> Iterator[Finding]:
    """What is there but no Prometheus selects is never read; `key` is the chart's value for labels."""
    if isinstance(seen.prometheuses, Unread):
        yield not_checked(
            Area.MONITORING, f"which {objects[0]['kind']} a Prometheus selects", seen.prometheuses, "list prometheuses -A"
        )
        return
    for each in objects:
        subject = f"{each['kind']} {_name(each)}"
        choosing = [prometheus for prometheus in seen.prometheuses if _selects(prometheus, what, each, seen.namespaces)]
        if choosing:
            yield ok(Area.MONITORING, "selected", subject, f"selected by Prometheus {_name(choosing[0])}")
        elif not seen.prometheuses:
            yield note(
                Area.MONITORING, "prometheus-unknown", subject, "there is no Prometheus object; something else has to read it"
            )
        else:
            yield _unselected(seen, subject, seen.prometheuses[0], what, key)


def _unselected(seen: Seen, subject: str, prometheus: Manifest, what: str, key: str) -> Finding:
    wanted = (prometheus["spec"].get(f"{what}Selector") or {}).get("matchLabels") or {}
    said = f"no Prometheus selects it; {_name(prometheus)} selects {prometheus['spec'].get(f'{what}Selector')}"
    values = ",".join(f"{key}.{name.replace('.', chr(92) + '.')}={value}" for name, value in wanted.items())
    fix = (
        chart_upgrade(seen, f"'{values}'")
        if values
        else f"widen {what}Selector and {what}NamespaceSelector of Prometheus {_name(prometheus)}"
    )
    return warning(Area.MONITORING, "not-selected", subject, said, fix)


def _selects(prometheus: Manifest, what: str, manifest: Manifest, namespaces: Many) -> bool:
    spec, metadata = prometheus["spec"], manifest["metadata"]
    if not matches(spec.get(f"{what}Selector"), metadata.get("labels") or {}):
        return False
    within = spec.get(f"{what}NamespaceSelector")
    if within is None:
        return bool(metadata["namespace"] == prometheus["metadata"]["namespace"])
    known = () if isinstance(namespaces, Unread) else namespaces
    labels = {each["metadata"]["name"]: each["metadata"].get("labels") or {} for each in known}
    return matches(within, labels.get(metadata["namespace"], {NAMESPACE_NAME_LABEL: metadata["namespace"]}))


def _covers(monitor: Manifest, namespace: str) -> bool:
    selector = monitor["spec"].get("namespaceSelector") or {}
    names = selector.get("matchNames") or [monitor["metadata"]["namespace"]]
    return bool(selector.get("any")) or namespace in names


def _has_our_alerts(rule: Manifest) -> bool:
    groups = rule["spec"].get("groups") or ()
    return any(str(entry.get("alert", "")).startswith(ALERT_PREFIX) for group in groups for entry in group.get("rules") or ())


def _name(manifest: Manifest) -> str:
    return f"{manifest['metadata']['namespace']}/{manifest['metadata']['name']}"
