"""Replicas on their way from an order to a node, to serving and away."""

from collections import deque
from dataclasses import dataclass, field

from transcriber_operator.simulation.work import Batch
from transcriber_operator.simulation.world import Offer


@dataclass(slots=True, eq=False)
class Supply:
    """A pool as the provisioner sees it."""

    offer: Offer
    nodes: int = 0
    refused_at: float = float("-inf")
    refusals: deque[float] = field(default_factory=deque)  # times

    def recent_refusals(self, now: float, within_seconds: float) -> int:
        """Count the refusals of the last `within_seconds`."""
        while self.refusals and self.refusals[0] <= now - within_seconds:
            self.refusals.popleft()
        return len(self.refusals)


@dataclass(slots=True, eq=False)
class Replica:
    """One replica."""

    deployment: "Deployment"
    ordered_at: float
    supply: Supply | None = None  # None: without a node
    node_at: float = 0.0
    ready_at: float | None = None
    batch: Batch | None = None
    batch_at: float = 0.0
    is_leaving: bool = False  # takes no more work
    is_gone: bool = False


@dataclass(slots=True, eq=False)
class Deployment:
    """Replicas that one number is asked for; `supplies` in the order in which the provisioner tries them."""

    name: str
    supplies: tuple[Supply, ...]
    spares_busy: bool  # the idlest go first (pod-deletion-cost); otherwise the newest
    desired: int = 0
    replicas: list[Replica] = field(default_factory=list)

    def victims(self, count: int) -> list[Replica]:
        """Return the replicas that go first: without node, then starting, then ready; each the newest first."""
        return sorted(self.replicas, key=self._rank)[:count]

    def _rank(self, replica: Replica) -> tuple[int, bool, float]:
        if replica.supply is None:
            return 0, False, -replica.ordered_at
        if replica.ready_at is None:
            return 1, False, -replica.ordered_at
        return 2, self.spares_busy and replica.batch is not None, -replica.ready_at
