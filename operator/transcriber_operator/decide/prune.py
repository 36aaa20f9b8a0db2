"""Which children go: ours, not asked for any more, and nothing that still serves or may be gone back to."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from transcriber_operator.decide.decision import Key, Prune
from transcriber_operator.decide.jobs import revision_of
from transcriber_operator.decide.live import Live, annotation, is_ending, key_of, label
from transcriber_operator.decide.observed import Manifest
from transcriber_operator.render import names

# The kinds that render makes; whatever else bears our labels and owner is left alone.
KINDS: Final = (
    "HorizontalPodAutoscaler",
    "ScaledObject",
    "Deployment",
    "PodDisruptionBudget",
    "Job",
    "Service",
    "NetworkPolicy",
    "ConfigMap",
    "NodePool",
)


def decide_prunes(live: Live, asked: Iterable[Manifest], retained_keys: frozenset[str], pools: frozenset[str]) -> tuple[Prune, ...]:
    """Return the children to delete.

    `asked` are the manifests of this spec, whether written in this pass or not; `retained_keys` the revisions whose Jobs stay;
    `pools` those whose Deployments stay: the pools of the spec, also before there is anything to serve, and those that serve on.
    """
    keys = {key_of(manifest) for manifest in asked}
    mounted = _mounted_configs((*live.of_kind("Deployment"), *live.serving_pods))

    def is_needed(key: Key, child: Manifest) -> bool:
        match key.kind:
            case "Job":
                return revision_of(child) in retained_keys
            case "ConfigMap":
                return key.name in mounted or annotation(child, names.REVISION_ANNOTATION) in retained_keys
            case "Deployment":
                return label(child, names.POOL_LABEL) in pools
            case _:
                return False

    return tuple(
        Prune(key=key_of(child), uid=child["metadata"]["uid"])
        for kind in KINDS
        for child in live.of_kind(kind)
        if key_of(child) not in keys and not is_ending(child) and not is_needed(key_of(child), child)
    )


def _mounted_configs(workloads: Iterable[Manifest]) -> frozenset[str]:
    """The ConfigMaps that Deployments' templates and pods mount."""
    specs: list[Mapping[str, Any]] = [_pod_spec(workload) for workload in workloads]
    volumes = (volume for spec in specs for volume in spec.get("volumes") or ())
    return frozenset(volume["configMap"]["name"] for volume in volumes if "configMap" in volume)


def _pod_spec(workload: Manifest) -> Mapping[str, Any]:
    spec: Mapping[str, Any] = workload.get("spec") or {}
    return spec["template"]["spec"] if "template" in spec else spec
