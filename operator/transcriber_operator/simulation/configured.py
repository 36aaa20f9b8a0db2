"""From a TranscriberDeployment to what enters a comparison."""

from typing import Final

from transcriber_api.capacity import Fallback, Pool
from transcriber_api.v1alpha1 import TranscriberDeployment
from transcriber_operator.decide.autoscale import Policy
from transcriber_operator.decide.pools import FallbackRule
from transcriber_operator.simulation.contest import Entrant
from transcriber_operator.simulation.scalers.own import Own
from transcriber_operator.simulation.world import ON_DEMAND, SPOT, Offer, Service

HOURS_PER_MONTH: Final = 730


def entrant_of(deployment: TranscriberDeployment, origin: str, service: Service) -> Entrant:
    """Return its scaling, as in mode Builtin, and its pools; `origin` names it. Schedules are left out: a trace has no calendar.

    Pools without `pricePerHour` cost what an L4 does; a month's budget counts as so much per hour, without its burst.
    """
    spec = deployment.spec
    scaling, budget = spec.scaling, spec.budget
    caps = []
    if budget is not None and budget.per_hour is not None:
        caps.append(float(budget.per_hour))
    if budget is not None and budget.per_month is not None:
        caps.append(float(budget.per_month) / HOURS_PER_MONTH)
    policy = Policy(
        min_replicas=scaling.min_replicas,
        max_replicas=scaling.max_replicas,
        target_wait_seconds=scaling.target_wait_seconds,
        miss_share=1 - scaling.target_wait_percentile / 100,
        utilization=scaling.target_utilization_percent / 100,
        headroom_replicas=scaling.headroom_replicas,
        idle_timeout_seconds=scaling.idle_timeout_seconds,
        slots=service.slots,
    )
    scaler = Own(policy, _rule(spec.capacity.fallback), min(caps, default=None))
    return Entrant(origin, "as given", scaler, tuple(_offer(pool) for pool in spec.capacity.pools))


def _rule(fallback: Fallback | None) -> FallbackRule | None:
    if fallback is None:
        return None
    return FallbackRule(after_seconds=fallback.after_seconds, return_after_seconds=fallback.return_after_seconds)


def _offer(pool: Pool) -> Offer:
    is_spot = pool.capacity_type == "Spot"
    usual = SPOT if is_spot else ON_DEMAND
    price = usual.price_per_hour if pool.price_per_hour is None else float(pool.price_per_hour)
    return Offer(pool.name, is_spot, price, pool.weight, pool.max_nodes, pool.min_replicas)
