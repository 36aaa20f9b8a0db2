"""The replicas of each pool as the scaler counts them: serving, on their way, or about to be lost with their node."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from transcriber_operator.decide import pods
from transcriber_operator.decide.autoscale import SOONEST_SECONDS, Fleet
from transcriber_operator.decide.live import Live, condition, is_ending, label, timestamp
from transcriber_operator.decide.sources import Manifest
from transcriber_operator.render import names


@dataclass(frozen=True)
class Replica:
    """A serving pod that is not on its way out."""

    name: str
    uid: str
    pool: str
    is_ready: bool
    age_seconds: float
    node: str | None
    unscheduled_seconds: float | None  # for how long it has waited for a node; None: it has one
    lost_since: datetime | None = None  # since when its node is known to go
    is_at_risk: bool = False  # its node is likely to be taken back
    cost: str | None = None  # its pod-deletion-cost

    @property
    def is_lasting(self) -> bool:
        """Whether it serves, and nothing says that it will not go on to."""
        return self.is_ready and self.lost_since is None and not self.is_at_risk


@dataclass(frozen=True)
class PoolFleet:
    """The replicas of one pool."""

    desired: int  # that its Deployment is asked for
    replicas: tuple[Replica, ...] = ()

    @property
    def ready(self) -> int:
        """Replicas that serve, and will go on to; in a rollout there may be more than are asked for."""
        return min(sum(replica.is_lasting for replica in self.replicas), self.desired)

    @property
    def at_risk(self) -> int:
        """Replicas that serve on nodes that are likely to be taken back."""
        serving = sum(replica.is_ready and replica.lost_since is None for replica in self.replicas)
        return max(min(serving, self.desired) - self.ready, 0)

    @property
    def lost(self) -> tuple[Replica, ...]:
        """Replicas whose node is about to go."""
        return tuple(replica for replica in self.replicas if replica.lost_since is not None)

    @property
    def occupied(self) -> tuple[str, ...]:
        """The nodes that replicas are on."""
        return tuple(replica.node for replica in self.replicas if replica.node is not None)

    @property
    def waiting_seconds(self) -> tuple[float, ...]:
        """For how long each replica without a node has waited for one."""
        return tuple(replica.unscheduled_seconds for replica in self.replicas if replica.unscheduled_seconds is not None)

    def pending_lead_seconds(self, lead_seconds: float, stood_in_for: int) -> tuple[float, ...]:
        """Return for each replica that is ordered and does not serve how long it should still take.

        Those that others stand in for are not expected: they wait for a node that does not come.
        """
        starting = [replica for replica in self.replicas if not replica.is_ready and replica.lost_since is None]
        coming = sorted(starting, key=lambda replica: (replica.node is None, -replica.age_seconds))
        leads = [max(lead_seconds - replica.age_seconds, SOONEST_SECONDS) for replica in coming]
        expected = max(self.desired - self.ready - self.at_risk - stood_in_for, 0)
        unmade = max(expected - len(leads), 0)
        return (*leads[:expected], *(lead_seconds for _ in range(unmade)))


def fleets(live: Live, lost: Mapping[str, datetime], at_risk: Collection[str], now: datetime) -> dict[str, PoolFleet]:
    """Return the replicas of every pool whose Deployment stays.

    `lost` are the nodes that are about to go, and `at_risk` those that are likely to.
    """
    staying = (child for child in live.of_kind("Deployment") if not is_ending(child))
    desired = {pool: child["spec"].get("replicas", 0) for child in staying if (pool := _pool(child))}
    found: dict[str, list[Replica]] = {pool: [] for pool in desired}
    for pod in live.serving_pods:
        pool = _pool(pod)
        if pool in found and not is_ending(pod) and not pods.is_over(pod):
            found[pool].append(_replica(pod, pool, lost, at_risk, now))
    return {pool: PoolFleet(desired[pool], tuple(replicas)) for pool, replicas in found.items()}


def whole_fleet(
    pools: Mapping[str, PoolFleet],
    lead_seconds: Mapping[str, float],
    throughput: Mapping[str, float],
    next_pool: str,
    spot: Collection[str],
    stand_ins: int,
) -> Fleet:
    """Return all pools as one fleet of equal replicas: as many as were asked for, without those for others' sake.

    Those are `stand_ins`, and one for each replica at risk, which is not counted either.

    `next_pool` is where one more replica would go, and `spot` are the pools that are stood in for.

    Their throughput is the mean of those that serve.
    """
    pending: list[float] = []
    for name, pool in pools.items():
        absent = min(stand_ins, len(pool.waiting_seconds), max(pool.desired - pool.ready, 0)) if name in spot else 0
        pending += pool.pending_lead_seconds(lead_seconds.get(name, 0.0), absent)
        stand_ins -= absent
    ready = sum(pool.ready for pool in pools.values())
    done = sum(pool.ready * throughput[name] for name, pool in pools.items() if name in throughput)
    return Fleet(
        ready=max(ready - stand_ins, 0),
        pending_lead_seconds=tuple(sorted(pending)),
        throughput=done / ready if ready and done else throughput[next_pool],
        lead_seconds=lead_seconds[next_pool],
    )


def _pool(manifest: Manifest) -> str | None:
    return label(manifest, names.POOL_LABEL)


def _replica(pod: Manifest, pool: str, lost: Mapping[str, datetime], at_risk: Collection[str], now: datetime) -> Replica:
    created = timestamp(pod["metadata"].get("creationTimestamp")) or now
    node = pod["spec"].get("nodeName")
    waits_since = timestamp((condition(pod, "PodScheduled") or {}).get("lastTransitionTime")) or created
    return Replica(
        name=pod["metadata"]["name"],
        uid=pod["metadata"]["uid"],
        pool=pool,
        is_ready=pods.is_ready(pod),
        age_seconds=max((now - created).total_seconds(), 0.0),
        node=node,
        unscheduled_seconds=None if node else max((now - waits_since).total_seconds(), 0.0),
        lost_since=lost.get(node) if node else None,
        is_at_risk=node in at_risk,
        cost=(pod["metadata"].get("annotations") or {}).get(names.DELETION_COST_ANNOTATION),
    )
