"""What the chart's pods may do: no more than they must, with every values file."""

from typing import Any

import pytest

from tests.chart.rendering import VALUES_FILES, Manifest, one, pod_specs, read_values, rendered

NAMES = {file.name.removesuffix("-values.yaml"): file for file in VALUES_FILES}
OWN_CONTAINERS = {"operator", "cleanup", "trial", "pre-pull"}
NEEDS_TOKEN = {"Deployment", "Job", "Pod"}
HOST = ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace")
OPERATOR_PORTS = {8080}
SERVING_PORTS = {8002, 8003, 8004}

every_values_file = pytest.mark.parametrize("name", NAMES)


def of(name: str, **values: Any) -> list[Manifest]:
    return rendered({**read_values(NAMES[name]), **values})


def pods_with_labels(found: list[Manifest]) -> list[tuple[Manifest, Manifest]]:
    """Labels and spec of every pod."""
    pods = []
    for manifest in found:
        if manifest["kind"] == "Pod":
            pods.append((manifest["metadata"]["labels"], manifest["spec"]))
        elif "template" in manifest.get("spec", {}):
            pods.append((manifest["spec"]["template"]["metadata"]["labels"], manifest["spec"]["template"]["spec"]))
    return pods


def selects(policy: Manifest, labels: Manifest) -> bool:
    return labels.items() >= policy["spec"]["podSelector"]["matchLabels"].items()


def ports(rules: list[Manifest]) -> set[int]:
    return {
        number for rule in rules for port in rule["ports"] for number in range(port["port"], port.get("endPort", port["port"]) + 1)
    }


@every_values_file
def test_every_pod_satisfies_the_restricted_standard(name: str) -> None:
    """As far as fields go that the chart sets; the API server's own judgement is in test_install.py."""
    for place, pod in pod_specs(of(name)).items():
        assert not [field for field in HOST if pod.get(field)], place
        assert pod["securityContext"]["runAsNonRoot"] is True, place
        assert pod["securityContext"]["seccompProfile"]["type"] in ("RuntimeDefault", "Localhost"), place
        assert {kind for volume in pod.get("volumes", ()) for kind in volume if kind != "name"} <= {"emptyDir", "configMap"}, place
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False, place
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, place


@every_values_file
def test_our_containers_cannot_write_to_their_root_and_have_a_bound_on_memory(name: str) -> None:
    for place, pod in pod_specs(of(name)).items():
        for container in pod["containers"]:
            if container["name"] in OWN_CONTAINERS:
                assert container["securityContext"]["readOnlyRootFilesystem"] is True, place
                assert container["resources"]["limits"]["memory"], place
        for volume in pod.get("volumes", ()):
            assert "emptyDir" not in volume or volume["emptyDir"]["sizeLimit"], place


@every_values_file
def test_a_token_is_mounted_where_it_is_needed_and_nowhere_by_default(name: str) -> None:
    found = of(name)
    for place, pod in pod_specs(found).items():
        kind = place.partition("/")[0]
        assert pod["automountServiceAccountToken"] is (kind in NEEDS_TOKEN), place
        assert ("serviceAccountName" in pod) is (kind in NEEDS_TOKEN), place
        assert pod["enableServiceLinks"] is False, place
    accounts = [manifest for manifest in found if manifest["kind"] == "ServiceAccount"]
    mounted = {each["metadata"]["name"] for each in accounts if each["automountServiceAccountToken"]}
    assert mounted == ({"transcriber-operator"} if name == "eks" else set())


def test_every_account_in_use_is_made_or_given() -> None:
    for name in NAMES:
        found = of(name)
        made = {manifest["metadata"]["name"] for manifest in found if manifest["kind"] == "ServiceAccount"}
        used = {pod["serviceAccountName"] for pod in pod_specs(found).values() if "serviceAccountName" in pod}
        assert used <= made | {"speech-operator"}, name


def test_placement_and_sandbox_are_those_of_the_values_for_every_pod_of_the_chart() -> None:
    pods = pod_specs(of("hardened"))
    assert len(pods) == 3
    for pod in pods.values():
        assert pod["hostUsers"] is False
        assert pod["runtimeClassName"] == "gvisor"
        assert pod["nodeSelector"] == {"kubernetes.io/os": "linux", "example.com/pool": "system"}
        assert pod["tolerations"] == [{"key": "example.com/system", "operator": "Equal", "value": "true", "effect": "NoSchedule"}]
        assert pod["dnsPolicy"] == "None"
        assert pod["securityContext"]["runAsUser"] == 10001
        assert "fsGroup" not in pod["securityContext"]


def test_pods_that_pull_ahead_have_a_placement_of_their_own_and_no_priority() -> None:
    found = rendered(
        {"prePull": {"enabled": True, "tolerations": []}, "tolerations": [{"operator": "Exists"}], "priorityClassName": "high"}
    )
    pod = one(found, "DaemonSet")["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert not {"tolerations", "priorityClassName"} & pod.keys()


def test_without_network_policies_there_are_none() -> None:
    assert "NetworkPolicy" not in {manifest["kind"] for manifest in of("default")}


@pytest.mark.parametrize("name", ["network-policy", "names"])
def test_one_policy_closes_every_pod_of_the_chart_in_both_directions(name: str) -> None:
    found = of(name)
    policies = [manifest for manifest in found if manifest["kind"] == "NetworkPolicy"]
    [closing] = [policy for policy in policies if not policy["spec"].keys() & {"ingress", "egress"}]
    assert closing["spec"]["policyTypes"] == ["Ingress", "Egress"]
    pods = pods_with_labels(found)
    assert len(pods) == 4
    assert all(selects(closing, labels) for labels, _ in pods)
    for labels, pod in pods:
        opening = [policy for policy in policies if policy is not closing and selects(policy, labels)]
        assert len(opening) == (0 if pod["containers"][0]["name"] == "pre-pull" else 1)


def test_policies_select_no_serving_pods() -> None:
    serving = {"app.kubernetes.io/name": "transcriber", "app.kubernetes.io/instance": "transcriber-operator"}
    assert not [each for each in of("network-policy") if each["kind"] == "NetworkPolicy" and selects(each, serving)]


def test_the_operator_is_reached_for_metrics_and_reaches_names_the_api_and_its_pods() -> None:
    found = of("network-policy")
    spec = one(found, "NetworkPolicy", "transcriber-operator-operator")["spec"]
    [metrics] = spec["ingress"]
    assert metrics["from"] == read_values(NAMES["network-policy"])["networkPolicy"]["metricsFrom"]
    [named] = [port["containerPort"] for port in operator_ports(found) if port["name"] == metrics["ports"][0]["port"]]
    assert {named} == OPERATOR_PORTS
    dns, api, serving, added = spec["egress"]
    assert (ports([dns]), ports([api]), ports([serving])) == ({53}, {443}, SERVING_PORTS)
    assert api["to"] == [{"ipBlock": {"cidr": "10.100.0.1/32"}}]
    assert serving["to"][0]["namespaceSelector"]["matchExpressions"][0]["values"] == ["speech"]
    assert added["to"] == [{"ipBlock": {"cidr": "192.0.2.0/24"}}]


def operator_ports(found: list[Manifest]) -> list[Manifest]:
    containers: list[Manifest] = one(found, "Deployment")["spec"]["template"]["spec"]["containers"]
    return containers[0]["ports"]


def test_hooks_are_reached_by_nobody_and_the_trial_alone_speaks_grpc() -> None:
    found = of("network-policy")
    for name, reached in (("cleanup", {53, 443}), ("trial", {53, 443, 8001})):
        spec = one(found, "NetworkPolicy", f"transcriber-operator-{name}")["spec"]
        assert "ingress" not in spec
        assert ports(spec["egress"]) == reached


def test_metrics_may_be_closed_to_all() -> None:
    found = of("default", networkPolicy={"enabled": True, "metricsFrom": []})
    assert "ingress" not in one(found, "NetworkPolicy", "transcriber-operator-operator")["spec"]


@pytest.mark.parametrize(
    ("name", "expected"), [("high-availability", {"maxUnavailable": "50%"}), ("names", {"minAvailable": "50%"})]
)
def test_the_disruption_budget_is_of_the_operator_and_has_one_bound(name: str, expected: Manifest) -> None:
    found = of(name)
    spec = one(found, "PodDisruptionBudget")["spec"]
    assert {bound: spec[bound] for bound in ("minAvailable", "maxUnavailable") if bound in spec} == expected
    assert spec["selector"] == one(found, "Deployment")["spec"]["selector"]


def test_a_budget_of_none_left_is_no_budget_of_one_evicted() -> None:
    spec = one(of("default", pdb={"enabled": True, "minAvailable": 0}), "PodDisruptionBudget")["spec"]
    assert (spec["minAvailable"], "maxUnavailable" in spec) == (0, False)
