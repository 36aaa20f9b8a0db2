"""Which replicas go first: the idlest where fewer are wanted, and at once those whose spot node is about to be taken."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from math import inf
from typing import Final

from transcriber_operator.decide.decision import Apply, PodDelete
from transcriber_operator.decide.fleet import PoolFleet, Replica
from transcriber_operator.decide.nodes import grace_seconds
from transcriber_operator.decide.sources import LoadSample
from transcriber_operator.render import names
from transcriber_operator.render.context import Context

FIRST_TO_GO: Final = "-1000"  # the ReplicaSet controller removes pods of the lowest cost first; 0 is the default


def deletion_costs(
    context: Context, fleets: Mapping[str, PoolFleet], replicas: Mapping[str, int], loads: Sequence[LoadSample]
) -> tuple[Apply, ...]:
    """Return the marks on pods that a scale-down needs: the idlest of each pool that shrinks are marked, earlier marks are dropped.

    Only where a pool shrinks: annotations of pods are not for figures that change all the time.
    """
    busy = {sample.source: sample.queued_audio_seconds + sample.in_flight_audio_seconds for sample in loads}
    applies: list[Apply] = []
    for pool, fleet in fleets.items():
        surplus = len(fleet.replicas) - replicas.get(pool, 0)
        if replicas.get(pool, 0) >= fleet.desired or surplus <= 0:
            continue
        going = {replica.uid for replica in sorted(fleet.replicas, key=lambda replica: _keep_order(replica, busy))[:surplus]}
        for replica in fleet.replicas:
            wanted = FIRST_TO_GO if replica.uid in going else None
            if replica.cost != wanted:
                applies.append(_marked(context, replica, wanted))
    return tuple(applies)


def pod_deletes_of(context: Context, fleets: Mapping[str, PoolFleet], now: datetime) -> tuple[PodDelete, ...]:
    """Return the deletes of replicas on interrupted spot nodes.

    A delete takes the pod out of its Services and orders its replacement at once, and gives it what is left of the notice; an
    eviction by Karpenter may wait for a disruption budget. On-demand nodes are left to Karpenter, for they are not taken away.
    """
    spot = [pool.name for pool in context.spec.capacity.pools if pool.capacity_type == "Spot"]
    longest = context.spec.runtime.termination_grace_period_seconds
    return tuple(
        PodDelete(name=replica.name, uid=replica.uid, grace_seconds=grace_seconds(replica.lost_since, now, longest))
        for name in spot
        for replica in (fleets[name].lost if name in fleets else ())
        if replica.lost_since is not None
    )


def _keep_order(replica: Replica, busy: Mapping[str, float]) -> tuple[bool, float, float]:
    """Those that serve nobody or not for long first, then the idlest, then the youngest; one that does not tell may be busy."""
    return replica.is_lasting, busy.get(replica.name, inf), replica.age_seconds


def _marked(context: Context, replica: Replica, cost: str | None) -> Apply:
    annotations = {"annotations": {names.DELETION_COST_ANNOTATION: cost}} if cost else {}
    metadata = {"name": replica.name, "namespace": context.namespace, "uid": replica.uid, **annotations}
    return Apply(manifest={"apiVersion": "v1", "kind": "Pod", "metadata": metadata}, manager="transcriber-autoscaler")
