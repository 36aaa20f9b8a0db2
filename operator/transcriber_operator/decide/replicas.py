"""How many replicas are wanted over all pools."""

from dataclasses import dataclass

from transcriber_api.conditions import ConditionType, Observation, Reason
from transcriber_api.v1alpha1 import Spec


@dataclass(frozen=True)
class Wanted:
    """A number of replicas, the sentence that explains it, and what the condition ScalingActive says."""

    replicas: int
    sentence: str
    scaling: Observation


def wanted_replicas(spec: Spec) -> Wanted:
    """Decide the replicas: in mode Builtin the floor, as long as no figures of the queue are there; else what someone wrote.

    The result lies between the floor (minReplicas, or the floors of the pools together) and maxReplicas.
    """
    scaling = spec.scaling
    floor = max(scaling.min_replicas, sum(pool.min_replicas for pool in spec.capacity.pools))
    if scaling.mode == "Builtin":
        sentence = f"No figures of the queue are there; the floor of {floor} is held."
        return Wanted(floor, sentence, Observation(ConditionType.SCALING_ACTIVE, "False", Reason.METRICS_STALE, sentence))
    asked = floor if scaling.replicas is None else scaling.replicas
    replicas = min(max(asked, floor), scaling.max_replicas)
    origin = "spec.scaling.replicas is absent" if scaling.replicas is None else f"spec.scaling.replicas asks for {asked}"
    sentence = f"{origin}; {replicas} are kept, between {floor} and {scaling.max_replicas}."
    return Wanted(replicas, sentence, Observation(ConditionType.SCALING_ACTIVE, "True", Reason.EXTERNALLY_SCALED, sentence))
