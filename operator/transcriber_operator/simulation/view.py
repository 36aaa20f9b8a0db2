"""What a scaler sees and says: the same view for all of them, exact and without delay."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from transcriber_operator.decide.pools import PoolView

State = TypeVar("State")


@dataclass(frozen=True, slots=True)
class View:
    """Work and fleet now; sums since the start let a scaler form its own averages."""

    queued_windows: int
    in_flight_windows: int
    queued_audio_seconds: float
    in_flight_audio_seconds: float
    queued_requests: int  # files of which windows wait
    active_requests: int  # files without a whole result
    arrived_audio_seconds: float  # sums since the start, as the next ones
    arrived_requests: int
    active_request_seconds: float  # integral of active_requests
    busy_seconds: float  # of replicas that decode
    ready_seconds: float  # of replicas that are ready
    desired: int
    ready: int  # those that are about to be lost are not counted
    starting_seconds: tuple[float, ...]  # since each replica that starts got its node
    waiting: int  # replicas without a node
    throughput: float  # audio seconds per second of a replica with full batches, as learnt
    lead_seconds: float  # from node to ready, as learnt
    pools: tuple[PoolView, ...]

    @property
    def replicas(self) -> int:
        """Replicas that exist: ready or not."""
        return self.ready + len(self.starting_seconds) + self.waiting


@dataclass(frozen=True, slots=True)
class Wanted:
    """Replicas asked for; without `by_pool` they are one Deployment over all pools, and the provisioner chooses."""

    replicas: int
    by_pool: Mapping[str, int] | None = None


class Scaler(Protocol[State]):
    """A scaler: a pure function of what it sees, what it remembers and the time."""

    @property
    def interval_seconds(self) -> float:
        """How often it decides."""

    @property
    def splits_pools(self) -> bool:
        """Whether it asks for replicas of each pool (`Wanted.by_pool`)."""

    def start(self) -> State:
        """Return what it remembers at first."""

    def decide(self, view: View, state: State, now_seconds: float) -> tuple[Wanted, State]:
        """Return the replicas wanted at `now_seconds`, and what to remember."""
