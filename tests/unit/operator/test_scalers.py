"""The autoscalers of others: what they follow, and that they leave the deciding to the operator."""

from typing import Any

import kubernetes_validate
import pytest

from tests.unit.operator.specs import Manifest, claim_spec, context
from transcriber_operator.render.children import foundations
from transcriber_operator.render.scalers import scalers

URL = "http://operator.operator-system.svc:8080"
POOLS = {"provisioner": "None", "pools": [{"name": "a", "minReplicas": 1}, {"name": "b", "minReplicas": 1}]}


def made(mode: str, url: str | None = URL, **parts: Any) -> Manifest:
    scaling = {"mode": mode, "maxReplicas": 30, **parts.pop("scaling", {})}
    [manifest] = scalers(context(claim_spec(scaling=scaling, **parts), scaling_url=url))
    return manifest


@pytest.mark.parametrize("mode", ["Builtin", "External"])
def test_who_scales_without_one_gets_none(mode: str):
    assert scalers(context(claim_spec(scaling={"mode": mode}), scaling_url=URL)) == ()


def test_keda_has_nothing_to_ask_where_the_operator_cannot_be_reached():
    assert scalers(context(claim_spec(scaling={"mode": "Keda"}))) == ()


@pytest.mark.parametrize(("mode", "kind"), [("Hpa", "HorizontalPodAutoscaler"), ("Keda", "ScaledObject")])
def test_it_is_a_child_like_the_others_and_scales_the_resource_itself(mode: str, kind: str):
    of = context(claim_spec(scaling={"mode": mode}), scaling_url=URL)
    [manifest] = [each for each in foundations(of) if each["kind"] == kind]
    assert manifest["metadata"]["namespace"] == "speech"
    assert [owner["uid"] for owner in manifest["metadata"]["ownerReferences"]] == ["5b1f"]
    assert manifest["spec"]["scaleTargetRef"] == {
        "apiVersion": "serving.transcriber.dev/v1alpha1",
        "kind": "TranscriberDeployment",
        "name": "whisper",
    }


@pytest.mark.parametrize("version", ["1.33", "1.36"])
def test_the_hpa_is_valid_for_kubernetes(version: str):
    kubernetes_validate.validate(made("Hpa"), version, strict=True)


def test_the_hpa_follows_the_figure_of_this_resource_one_replica_for_each():
    [metric] = made("Hpa")["spec"]["metrics"]
    assert metric["external"] == {
        "metric": {
            "name": "transcriber_desired_replicas",
            "selector": {"matchLabels": {"namespace": "speech", "name": "whisper"}},
        },
        "target": {"type": "AverageValue", "averageValue": "1"},
    }


@pytest.mark.parametrize(
    ("scaling", "capacity", "hpa", "keda"),
    [
        ({"minReplicas": 0}, None, 1, 0),
        ({"minReplicas": 4}, None, 4, 4),
        ({"minReplicas": 1}, POOLS, 2, 2),
    ],
    ids=["zero", "floor", "floors of pools"],
)
def test_the_floor_is_kept_and_an_hpa_keeps_one(scaling: Manifest, capacity: Manifest | None, hpa: int, keda: int):
    given = {"provisioner": "None", "pools": [{"name": "a"}]} if capacity is None else capacity
    assert made("Hpa", scaling=scaling, capacity=given)["spec"]["minReplicas"] == hpa
    scaled = made("Keda", scaling=scaling, capacity=given)["spec"]
    assert (scaled["minReplicaCount"], scaled["maxReplicaCount"]) == (keda, 30)


def test_neither_waits_on_top_of_the_operators_own_window():
    for behavior in (
        made("Hpa")["spec"]["behavior"],
        made("Keda")["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"],
    ):
        assert {part: rule["stabilizationWindowSeconds"] for part, rule in behavior.items()} == {"scaleUp": 0, "scaleDown": 0}
        assert all(policy["value"] == 30 for rule in behavior.values() for policy in rule["policies"])
    assert made("Keda")["spec"]["cooldownPeriod"] == 0


@pytest.mark.parametrize("url", [URL, f"{URL}/"])
def test_keda_asks_the_operator_itself(url: str):
    [trigger] = made("Keda", url)["spec"]["triggers"]
    assert trigger["type"] == "metrics-api"
    assert trigger["metadata"] == {
        "url": f"{URL}/scaling/speech/whisper",
        "valueLocation": "desiredReplicas",
        "targetValue": "1",
        "activationTargetValue": "0",
    }


def test_when_the_operator_is_silent_keda_never_lowers_replicas():
    assert made("Keda", scaling={"minReplicas": 2})["spec"]["fallback"] == {
        "failureThreshold": 3,
        "replicas": 2,
        "behavior": "currentReplicasIfHigher",
    }
