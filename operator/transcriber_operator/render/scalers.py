"""Autoscalers of others that follow the operator's figure: a HorizontalPodAutoscaler, or a ScaledObject of KEDA.

Both write `spec.scaling.replicas` through the scale subresource, as anyone may in mode External. The figure is decided as in mode
Builtin, and has its own keep-warm window, so that neither waits on top of it. Both round by the HPA's tolerance of 10 %: from ten
replicas on, a step of one is not followed (`behavior.scaleUp.tolerance` needs the gate HPAConfigurableTolerance and is not set).
"""

from typing import Final

from transcriber_api.v1alpha1 import API_VERSION, KIND
from transcriber_operator.render import names
from transcriber_operator.render.context import Context, Manifest

DESIRED_REPLICAS_METRIC: Final = "transcriber_desired_replicas"
DESIRED_REPLICAS_FIELD: Final = "desiredReplicas"  # of what the operator answers at `scaling_path`
PERIOD_SECONDS: Final = 15  # in which the HPA may take every step at once
POLLING_SECONDS: Final = 5
FAILURES: Final = 3  # of the operator to answer, before KEDA falls back


def scalers(context: Context) -> tuple[Manifest, ...]:
    """Return the autoscaler of the spec's mode, if that asks for one and the operator's answers can be reached."""
    match context.spec.scaling.mode:
        case "Hpa":
            return (horizontal_pod_autoscaler(context),)
        case "Keda" if context.scaling_url:
            return (scaled_object(context, context.scaling_url),)
        case _:
            return ()


def scaling_path(namespace: str, name: str) -> str:
    """Return the path below the operator's URL that answers with the replicas of a resource."""
    return f"/scaling/{namespace}/{name}"


def horizontal_pod_autoscaler(context: Context) -> Manifest:
    """Return the HorizontalPodAutoscaler. It keeps one replica: zero needs the gate HPAScaleToZero, which is off by default."""
    selector = {"matchLabels": {"namespace": context.namespace, "name": context.name}}
    metric = {"name": DESIRED_REPLICAS_METRIC, "selector": selector}
    return names.child(
        context,
        "autoscaling/v2",
        "HorizontalPodAutoscaler",
        context.name,
        names.SERVING,
        spec={
            "scaleTargetRef": _target(context),
            "minReplicas": max(_floor(context), 1),
            "maxReplicas": context.spec.scaling.max_replicas,
            "metrics": [
                {"type": "External", "external": {"metric": metric, "target": {"type": "AverageValue", "averageValue": "1"}}}
            ],
            "behavior": _behavior(context),
        },
    )


def scaled_object(context: Context, url: str) -> Manifest:
    """Return the ScaledObject, which asks the operator at `url`; when that is silent, replicas only rise to the floor."""
    floor = _floor(context)
    metadata = {
        "url": url.rstrip("/") + scaling_path(context.namespace, context.name),
        "valueLocation": DESIRED_REPLICAS_FIELD,
        "targetValue": "1",
        "activationTargetValue": "0",
    }
    return names.child(
        context,
        "keda.sh/v1alpha1",
        "ScaledObject",
        context.name,
        names.SERVING,
        spec={
            "scaleTargetRef": _target(context),
            "pollingInterval": POLLING_SECONDS,
            "cooldownPeriod": 0,
            "minReplicaCount": floor,
            "maxReplicaCount": context.spec.scaling.max_replicas,
            "fallback": {"failureThreshold": FAILURES, "replicas": max(floor, 1), "behavior": "currentReplicasIfHigher"},
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _behavior(context)}},
            "triggers": [{"type": "metrics-api", "metricType": "AverageValue", "metadata": metadata}],
        },
    )


def _target(context: Context) -> Manifest:
    return {"apiVersion": API_VERSION, "kind": KIND, "name": context.name}


def _floor(context: Context) -> int:
    spec = context.spec
    return max(spec.scaling.min_replicas, sum(pool.min_replicas for pool in spec.capacity.pools))


def _behavior(context: Context) -> Manifest:
    """Every step at once, up and down."""
    policy = {"type": "Pods", "value": context.spec.scaling.max_replicas, "periodSeconds": PERIOD_SECONDS}
    return {part: {"stabilizationWindowSeconds": 0, "policies": [policy]} for part in ("scaleUp", "scaleDown")}
