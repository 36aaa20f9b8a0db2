"""Scaling, put together: what was seen of load, replicas, nodes and money, and from it the replicas of every pool."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from transcriber_api.capacity import Pool
from transcriber_api.status import Status
from transcriber_api.v1alpha1 import Spec
from transcriber_operator.decide import budget, coldstart, load, nodes, pools
from transcriber_operator.decide.autoscale import Bounds, Look, Policy, Verdict, autoscale
from transcriber_operator.decide.fleet import PoolFleet, fleets, whole_fleet
from transcriber_operator.decide.live import Live
from transcriber_operator.decide.observed import Observed
from transcriber_operator.decide.replicas import asked_replicas
from transcriber_operator.decide.restored import restored
from transcriber_operator.decide.scaling_memory import Decided, ScalingMemory
from transcriber_operator.decide.schedules import Scheduled, scheduled
from transcriber_operator.decide.sources import NodeEvent
from transcriber_operator.decide.starts import starts as starts_of
from transcriber_operator.render import gpus, names
from transcriber_operator.render.context import Context

LEAD_SECONDS: Final = {"Karpenter": 240.0, "None": 90.0}  # before any start was seen
REMEMBERED_DECISIONS: Final = 20
NO_FLEET: Final = PoolFleet(0)


@dataclass(frozen=True)
class Seen:
    """What there is of replicas, work and refusals, and what was learnt of each pool; all by pool."""

    fleets: Mapping[str, PoolFleet]
    reading: load.Reading
    throughput: Mapping[str, float]
    lead_seconds: Mapping[str, float]
    starts: coldstart.Memory
    new_starts: tuple[coldstart.Start, ...]  # that ended since the last look
    refusals: Mapping[str, tuple[NodeEvent, ...]]  # for want of capacity in the last minutes
    lost: Mapping[str, tuple[str, ...]]  # UIDs of replicas whose node is about to go
    refused: Mapping[str, tuple[str, ...]]  # identities of the refusals
    spot_on_karpenter: tuple[str, ...]  # pools of spot nodes that Karpenter provides


@dataclass(frozen=True)
class Scaling:
    """A scaling decision with all that went into it."""

    replicas: int
    verdict: Verdict
    allotment: pools.Allotment
    seen: Seen
    money: budget.Allowance
    spending_per_hour: float
    affordable: int | None  # replicas that the money pays for
    schedule: Scheduled
    new_losses: Mapping[str, int]  # replicas whose node is about to go, by pool, since the last look
    new_refusals: Mapping[str, int]
    memory: ScalingMemory

    @property
    def allotted(self) -> Mapping[str, int]:
        """Replicas by pool."""
        return self.allotment.replicas

    @property
    def has_spot_nodes(self) -> bool:
        """Whether replicas serve on nodes that Karpenter's events may say something of."""
        return any(self.seen.fleets.get(name, NO_FLEET).ready for name in self.seen.spot_on_karpenter)

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to look at: no replica, none wanted, none on its way out."""
        return not any(self.allotted.values()) and not any(fleet.replicas for fleet in self.seen.fleets.values())


def decide_scaling(context: Context, observed: Observed, live: Live, previous: Status, now: datetime) -> Scaling:
    """Decide the replicas of every pool at `now`. Raises ValueError for a schedule that cannot be read."""
    spec, now_seconds = context.spec, now.timestamp()
    memory = observed.memory or restored(previous)
    seen = _see(context, observed, live, memory, now)
    views = tuple(_view(context, observed, pool, seen) for pool in spec.capacity.pools)
    next_pool = _next_pool(views)
    schedule = scheduled(spec.scaling.schedules, seen.lead_seconds[next_pool], now)
    spending = nodes.spending(context, observed.nodes.claims, {name: len(fleet.occupied) for name, fleet in seen.fleets.items()})
    money = _allowance(spec, spending, memory, now_seconds)
    bounds = Bounds(
        floor=max(schedule.floor, sum(pool.min_replicas for pool in spec.capacity.pools)),
        affordable=pools.affordable(views, money.per_hour),
    )
    spot = [view.name for view in views if view.is_spot]
    fleet = whole_fleet(seen.fleets, seen.lead_seconds, seen.throughput, next_pool, spot, memory.pools.stand_ins)
    verdict = autoscale(policy_of(spec), fleet, _look(seen, now_seconds), memory.autoscale, bounds, now_seconds)
    replicas = _with_successors(spec, seen, verdict) if spec.scaling.mode == "Builtin" else asked_replicas(spec)
    allotment = pools.allot_with_fallback(views, replicas, _rule(spec), money.per_hour, memory.pools, now_seconds)
    return Scaling(
        replicas=replicas,
        verdict=verdict,
        allotment=allotment,
        seen=seen,
        money=money,
        spending_per_hour=spending,
        affordable=bounds.affordable,
        schedule=schedule,
        new_losses=_new(seen.lost, memory.lost),
        new_refusals=_new(seen.refused, memory.refused),
        memory=ScalingMemory(
            autoscale=verdict.memory,
            pools=allotment.memory,
            budget=money.memory,
            load=seen.reading.memory,
            coldstart=seen.starts,
            decisions=_decisions(memory, verdict, allotment, now),
            lost=_all(seen.lost),
            refused=_all(seen.refused),
        ),
    )


def _see(context: Context, observed: Observed, live: Live, memory: ScalingMemory, now: datetime) -> Seen:
    spec, claims = context.spec, observed.nodes.claims
    found = fleets(live, nodes.lost_nodes(claims), nodes.nodes_at_risk(observed.nodes, now), now)
    starts, new_starts = coldstart.learn(starts_of(live.serving_pods, claims, now.timestamp()), memory.coldstart)
    reading = _reading(spec, observed, found, memory, now.timestamp())
    refusals = {
        pool.name: nodes.refusals(observed.nodes.events, names.node_pool_name(context, pool.name), now)
        for pool in spec.capacity.pools
    }
    prior = {pool.name: LEAD_SECONDS[spec.capacity.provisioner] for pool in spec.capacity.pools}
    return Seen(
        fleets=found,
        reading=reading,
        throughput={
            pool.name: load.throughput(pool.name, reading.memory, _prior_throughput(spec, pool)) for pool in spec.capacity.pools
        },
        lead_seconds={pool.name: coldstart.lead_seconds(pool.name, starts, prior) for pool in spec.capacity.pools},
        starts=starts,
        new_starts=new_starts,
        refusals=refusals,
        lost={name: tuple(replica.uid for replica in fleet.lost) for name, fleet in found.items()},
        refused={name: tuple(map(_identity, events)) for name, events in refusals.items()},
        spot_on_karpenter=tuple(
            pool.name for pool in spec.capacity.pools if pool.capacity_type == "Spot" and spec.capacity.provisioner == "Karpenter"
        ),
    )


def _with_successors(spec: Spec, seen: Seen, verdict: Verdict) -> int:
    """Return what was decided on, and one more for each replica that is likely to be lost: it boots while that one still serves."""
    at_risk = sum(fleet.at_risk for fleet in seen.fleets.values())
    return max(verdict.replicas, min(verdict.replicas + at_risk, spec.scaling.max_replicas)) if verdict.replicas else 0


def _look(seen: Seen, now_seconds: float) -> Look | None:
    """What is known of the work; where no replica serves there is nobody to ask, and nowhere for work to wait."""
    serves = any(fleet.ready for fleet in seen.fleets.values())
    return seen.reading.look if serves else seen.reading.look or Look(now_seconds, 0.0, 0.0)


def policy_of(spec: Spec) -> Policy:
    """Return what the spec asks of the scaler."""
    scaling = spec.scaling
    return Policy(
        min_replicas=scaling.min_replicas,
        max_replicas=scaling.max_replicas,
        target_wait_seconds=float(scaling.target_wait_seconds),
        miss_share=(100 - scaling.target_wait_percentile) / 100,
        utilization=scaling.target_utilization_percent / 100,
        headroom_replicas=scaling.headroom_replicas,
        idle_timeout_seconds=float(scaling.idle_timeout_seconds),
        stale_after_seconds=float(scaling.metrics_stale_after_seconds),
        window_seconds=float(spec.decoding.chunk_seconds),
        slots=spec.runtime.slots,
    )


def _reading(
    spec: Spec, observed: Observed, found: Mapping[str, PoolFleet], memory: ScalingMemory, now_seconds: float
) -> load.Reading:
    """What serves is expected to tell; what starts or goes may, and its work counts."""
    every = [replica for fleet in found.values() for replica in fleet.replicas]
    limits = load.Limits(
        # A file is admitted as long as there is any room, and may turn out longer than it said.
        max_queued_audio_seconds=float(spec.runtime.max_queued_audio_seconds + spec.runtime.max_audio_seconds),
        max_in_flight_audio_seconds=float(spec.runtime.max_queued_audio_seconds + spec.runtime.max_audio_seconds),
        stale_after_seconds=float(spec.scaling.metrics_stale_after_seconds),
        slots=spec.runtime.slots,
    )
    return load.read(
        observed.loads,
        [replica.name for replica in every if replica.is_ready],
        {replica.name: replica.pool for replica in every},
        limits,
        memory.load,
        now_seconds,
    )


def _view(context: Context, observed: Observed, pool: Pool, seen: Seen) -> pools.PoolView:
    fleet = seen.fleets.get(pool.name, NO_FLEET)
    return pools.PoolView(
        name=pool.name,
        is_spot=pool.capacity_type == "Spot",
        weight=pool.weight,
        floor=pool.min_replicas,
        max_nodes=pool.max_nodes,
        price_per_hour=nodes.pool_price(context.spec, pool),
        desired=fleet.desired,
        ready=fleet.ready,
        waiting_seconds=fleet.waiting_seconds,
        refusals=sum(event.count for event in seen.refusals[pool.name]),
        arriving=nodes.arriving(observed.nodes.claims, pool.name, fleet.occupied),
    )


def _identity(event: NodeEvent) -> str:
    return f"{event.name} {event.count} {event.at.isoformat()}"


def _new(found: Mapping[str, Sequence[str]], known: Collection[str]) -> dict[str, int]:
    """Count what is not known yet, by pool."""
    return {pool: sum(each not in known for each in identities) for pool, identities in found.items()}


def _all(identities: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    return tuple(each for of_pool in identities.values() for each in of_pool)


def _next_pool(views: Sequence[pools.PoolView]) -> str:
    """Return the pool that one more replica would go to: that of the highest weight with room."""
    by_weight = sorted(views, key=lambda view: -view.weight)
    return next((view.name for view in by_weight if view.desired < view.max_nodes), by_weight[0].name)


def _allowance(spec: Spec, spending: float, memory: ScalingMemory, now_seconds: float) -> budget.Allowance:
    caps = spec.budget
    per_hour = float(caps.per_hour) if caps and caps.per_hour is not None else None
    per_month = float(caps.per_month) if caps and caps.per_month is not None else None
    return budget.allowance(per_hour, per_month, spending, memory.budget, now_seconds)


def _rule(spec: Spec) -> pools.FallbackRule | None:
    fallback = spec.capacity.fallback
    return pools.FallbackRule(float(fallback.after_seconds), float(fallback.return_after_seconds)) if fallback else None


def _prior_throughput(spec: Spec, pool: Pool) -> float:
    return gpus.prior_throughput(pool) if spec.runtime.device == "GPU" else gpus.CPU_THROUGHPUT


def _decisions(memory: ScalingMemory, verdict: Verdict, allotment: pools.Allotment, now: datetime) -> tuple[Decided, ...]:
    """Keep the decisions that changed something, and the last one as it reads now."""
    latest = Decided(at=now, replicas=dict(allotment.replicas), cause=verdict.cause, sentence=verdict.sentence, terms=verdict.terms)
    kept = memory.decisions
    if kept and (kept[-1].replicas, kept[-1].cause) == (latest.replicas, latest.cause):
        latest = latest.model_copy(update={"at": kept[-1].at})
        kept = kept[:-1]
    return (*kept, latest)[-REMEMBERED_DECISIONS:]
