"""The operator's own decisions, as they are: `autoscale`, then `allot_with_fallback`."""

from dataclasses import dataclass, field
from typing import Final

from transcriber_operator.decide.autoscale import SOONEST_SECONDS, Bounds, Fleet, Look, Policy, autoscale
from transcriber_operator.decide.autoscale import Memory as AutoscaleMemory
from transcriber_operator.decide.pools import FallbackRule, affordable, allot_with_fallback
from transcriber_operator.decide.pools import Memory as PoolsMemory
from transcriber_operator.simulation.view import View, Wanted

LOOK_SECONDS: Final = 5.0
FALLBACK: Final = FallbackRule(after_seconds=60, return_after_seconds=600)  # defaults of the API


@dataclass(frozen=True, slots=True)
class Memory:
    """Memories of the two functions, and the sums at the look before."""

    autoscale: AutoscaleMemory = field(default_factory=AutoscaleMemory)
    pools: PoolsMemory = field(default_factory=PoolsMemory)
    fallen_back: int = 0
    arrived_audio_seconds: float = 0.0
    arrived_requests: int = 0


@dataclass(frozen=True, slots=True)
class Own:
    """A TranscriberDeployment in mode Builtin."""

    policy: Policy
    fallback: FallbackRule | None = FALLBACK
    dollars_per_hour: float | None = None
    interval_seconds: float = LOOK_SECONDS
    splits_pools: bool = True

    def start(self) -> Memory:
        """Nothing was seen yet."""
        return Memory()

    def decide(self, view: View, state: Memory, now_seconds: float) -> tuple[Wanted, Memory]:
        """One look."""
        look = Look(
            at_seconds=now_seconds,
            queued_audio_seconds=view.queued_audio_seconds,
            in_flight_audio_seconds=view.in_flight_audio_seconds,
            arrived_audio_seconds=view.arrived_audio_seconds - state.arrived_audio_seconds,
            arrived_requests=view.arrived_requests - state.arrived_requests,
        )
        bounds = Bounds(sum(pool.floor for pool in view.pools), affordable(view.pools, self.dollars_per_hour))
        verdict = autoscale(self.policy, self._fleet(view, state), look, state.autoscale, bounds, now_seconds)
        allotment = allot_with_fallback(
            view.pools, verdict.replicas, self.fallback, self.dollars_per_hour, state.pools, now_seconds
        )
        memory = Memory(
            autoscale=verdict.memory,
            pools=allotment.memory,
            fallen_back=allotment.fallen_back,
            arrived_audio_seconds=view.arrived_audio_seconds,
            arrived_requests=view.arrived_requests,
        )
        return Wanted(verdict.replicas, allotment.replicas), memory

    def _fleet(self, view: View, state: Memory) -> Fleet:
        """Replicas without a node count as just ordered, unless on-demand ones stand in for them."""
        started = tuple(max(view.lead_seconds - age, SOONEST_SECONDS) for age in view.starting_seconds)
        without_node = max(view.waiting - state.fallen_back, 0)
        return Fleet(
            ready=view.ready,
            pending_lead_seconds=started + (view.lead_seconds,) * without_node,
            throughput=view.throughput,
            lead_seconds=view.lead_seconds,
        )
