"""KubeAI: active requests, averaged over a long window, by a target; a single request is enough to wake it."""

from dataclasses import dataclass
from math import ceil
from typing import Final

from transcriber_operator.simulation.view import View, Wanted

INTERVAL_SECONDS: Final = 10.0
SCALE_DOWN_DELAY_SECONDS: Final = 30.0  # as consecutive decisions for fewer


@dataclass(frozen=True, slots=True)
class Memory:
    """Counts of the window, and decisions for fewer in a row."""

    counts: tuple[int, ...] = ()
    downs: int = 0


@dataclass(frozen=True, slots=True)
class KubeAi:
    """A Model."""

    target_requests: float
    window_seconds: float = 600.0
    min_replicas: int = 0
    max_replicas: int = 100
    interval_seconds: float = INTERVAL_SECONDS
    splits_pools: bool = False

    def start(self) -> Memory:
        """Nothing was counted yet."""
        return Memory()

    def decide(self, view: View, state: Memory, now_seconds: float) -> tuple[Wanted, Memory]:
        """One round of the autoscaler."""
        length = round(self.window_seconds / INTERVAL_SECONDS)
        counts = (*state.counts, view.active_requests)[-length:]
        called_for = ceil(sum(counts) / len(counts) / self.target_requests)
        bounded = min(max(called_for, self.min_replicas), self.max_replicas)
        if bounded >= view.desired:
            return Wanted(bounded), Memory(counts)
        downs = state.downs + 1
        if downs * INTERVAL_SECONDS < SCALE_DOWN_DELAY_SECONDS:
            return Wanted(view.desired), Memory(counts, downs)
        return Wanted(bounded), Memory(counts)
