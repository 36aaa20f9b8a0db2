"""How many replicas someone else asks for, where the operator does not decide."""

from transcriber_api.v1alpha1 import Spec


def asked_replicas(spec: Spec) -> int:
    """Return what `spec.scaling.replicas` asks for, between the floor and maxReplicas; the floor where it is absent.

    The floor is minReplicas, or the floors of the pools together.
    """
    scaling = spec.scaling
    floor = max(scaling.min_replicas, sum(pool.min_replicas for pool in spec.capacity.pools))
    asked = floor if scaling.replicas is None else scaling.replicas
    return min(max(asked, floor), scaling.max_replicas)
