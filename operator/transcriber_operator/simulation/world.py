"""What a simulation takes as given: how fast a replica serves, how long it takes to start, what nodes cost and when they fail."""

from dataclasses import dataclass
from math import log, sqrt
from random import Random

WINDOW_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Service:
    """A replica serves batches of up to `slots` windows; one of b windows takes `fixed + per_window * b` seconds."""

    fixed_seconds: float = 0.6
    per_window_seconds: float = 0.35
    slots: int = 16

    def batch_seconds(self, windows: int) -> float:
        """Return how long a batch takes."""
        return self.fixed_seconds + self.per_window_seconds * windows

    @property
    def windows_per_second(self) -> float:
        """Most windows that a replica serves per second: full batches, one after the other."""
        return self.slots / self.batch_seconds(self.slots)


@dataclass(frozen=True, slots=True)
class LeadTime:
    """From a node's launch to a replica that serves: lognormal, by mean and coefficient of variation."""

    mean_seconds: float = 230.0
    variation: float = 0.2

    def draw(self, random: Random) -> float:
        """Return the lead time of one replica."""
        variance = log(1 + self.variation**2)
        return random.lognormvariate(log(self.mean_seconds) - variance / 2, sqrt(variance))


@dataclass(frozen=True, slots=True)
class Market:
    """When spot nodes are taken back, and when there are none to be had."""

    hazard_per_hour: float = 0.0  # interruptions per hour of a spot node
    notice_seconds: float = 120.0
    unannounced_share: float = 0.0  # of interruptions: nodes that are gone without a notice
    shortages: tuple[tuple[float, float], ...] = ()  # seconds from, to
    hidden_seconds: float = 180.0  # how long Karpenter leaves an offering alone that it could not get

    def is_short(self, now_seconds: float) -> bool:
        """Say whether no spot node is to be had now."""
        return any(start <= now_seconds < end for start, end in self.shortages)

    def draw_life(self, random: Random) -> float:
        """Return how long a spot node runs until it is taken back."""
        return random.expovariate(self.hazard_per_hour / 3600) if self.hazard_per_hour else float("inf")


@dataclass(frozen=True, slots=True)
class Offer:
    """A pool of nodes."""

    name: str
    is_spot: bool
    price_per_hour: float  # US dollars of a node
    weight: int
    max_nodes: int = 1000
    floor: int = 0


SPOT = Offer("spot", is_spot=True, price_per_hour=0.43, weight=100)  # g6.xlarge: an L4 each, us-east-1, July 2026
ON_DEMAND = Offer("on-demand", is_spot=False, price_per_hour=0.8048, weight=10)


@dataclass(frozen=True, slots=True)
class World:
    """Everything but the work and the scaler."""

    service: Service = Service()
    lead: LeadTime = LeadTime()
    offers: tuple[Offer, ...] = (SPOT, ON_DEMAND)
    target_wait_seconds: float = 60.0
    patience_seconds: float = 6 * 3600.0  # after the last arrival, until what still waits is given up as missed
