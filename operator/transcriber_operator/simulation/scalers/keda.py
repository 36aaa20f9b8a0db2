"""KEDA 2.20: its operator scales between zero and the minimum, and leaves the rest to the HPA that it makes."""

from dataclasses import dataclass
from typing import Final

from transcriber_operator.simulation.scalers.hpa import SYNC_SECONDS, Recommendations, Signal, average_value_replicas, behave
from transcriber_operator.simulation.view import View, Wanted

POLLING_SECONDS: Final = 30.0
COOLDOWN_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class Memory:
    """When a poll last found work, and what the HPA recommended."""

    polled_at: float = float("-inf")
    active_at: float = 0.0
    recommendations: Recommendations = ()


@dataclass(frozen=True, slots=True)
class Keda:
    """A ScaledObject with one trigger."""

    signal: Signal
    target: float  # threshold: per replica
    min_replicas: int = 0
    max_replicas: int = 100
    interval_seconds: float = SYNC_SECONDS
    splits_pools: bool = False

    def start(self) -> Memory:
        """Nothing was polled yet."""
        return Memory()

    def decide(self, view: View, state: Memory, now_seconds: float) -> tuple[Wanted, Memory]:
        """One sync of the HPA, with KEDA's own poll at every second one."""
        value, replicas = self.signal.read(view), view.desired
        polled_at, active_at = state.polled_at, state.active_at
        if now_seconds >= polled_at + POLLING_SECONDS:
            polled_at = now_seconds
            if value > 0:
                active_at = now_seconds
                replicas = max(replicas, 1, self.min_replicas)
            elif self.min_replicas == 0 and now_seconds >= active_at + COOLDOWN_SECONDS:
                replicas = 0
        if replicas == 0:  # an HPA leaves a Deployment without replicas alone
            return Wanted(0), Memory(polled_at, active_at)
        called_for = average_value_replicas(value, self.target, replicas)
        bounded = min(max(called_for, self.min_replicas, 1), self.max_replicas)
        replicas, recommendations = behave(bounded, replicas, state.recommendations, now_seconds)
        return Wanted(replicas), Memory(polled_at, active_at, recommendations)
