"""What the operator knew of a resource's scaling before it was restarted, as far as the status has it.

What is not there begins anew: above all how long replicas have been idle, so that none goes sooner for a restart.
"""

from transcriber_api.status import PoolStatus, ScalingStatus, Status
from transcriber_operator.decide import autoscale, budget, coldstart, load, pools
from transcriber_operator.decide.arrivals import Arrivals
from transcriber_operator.decide.scaling_memory import ScalingMemory


def restored(previous: Status) -> ScalingMemory:
    """Return the memory that the status holds."""
    cost = previous.cost
    level = float(cost.bucket_dollars) if cost and cost.bucket_dollars is not None else None
    return ScalingMemory(
        autoscale=autoscale.Memory(arrivals=_arrivals(previous.scaling)) if previous.scaling else autoscale.Memory(),
        pools=_stand_ins(previous.pools),
        budget=budget.Memory(level=level),
        load=load.Memory(learnt=tuple(_learnt(pool) for pool in previous.pools if pool.replica_throughput)),
        coldstart=coldstart.Memory(pools=tuple(_starts(pool) for pool in previous.pools if pool.lead_time_seconds)),
    )


def _arrivals(scaling: ScalingStatus) -> Arrivals:
    """The rate as one request a second of so much audio: the mean length is learnt anew from the first request on."""
    rate = float(scaling.arrival_rate or 0)
    return Arrivals(fast_rate=1.0, rate=1.0, mean_audio_seconds=rate) if rate else Arrivals()


def _stand_ins(status: tuple[PoolStatus, ...]) -> pools.Memory:
    """A return that was under way begins again once spot is seen whole."""
    return pools.Memory(stand_ins=sum(pool.fallen_back_replicas or 0 for pool in status))


def _learnt(pool: PoolStatus) -> load.Learnt:
    """As much as is trusted whole, and soon outweighed by what is measured."""
    throughput = float(pool.replica_throughput or 0)
    return load.Learnt(pool.name, throughput * load.LEARNING_SECONDS, load.LEARNING_SECONDS)


def _starts(pool: PoolStatus) -> coldstart.PoolStarts:
    return coldstart.PoolStarts(pool.name, with_any_node=(float(pool.lead_time_seconds or 0),))
