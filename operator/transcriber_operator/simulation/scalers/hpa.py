"""The Horizontal Pod Autoscaler, autoscaling/v2: formulas of its controller, with its defaults."""

from dataclasses import dataclass
from enum import StrEnum
from math import ceil
from typing import Final

from transcriber_operator.simulation.view import View, Wanted

SYNC_SECONDS: Final = 15.0
TOLERANCE: Final = 0.1
STABILIZATION_SECONDS: Final = 300.0  # before it scales down
UP_FACTOR: Final = 2  # per 15 s, or UP_PODS more if that is more
UP_PODS: Final = 4

Recommendations = tuple[tuple[float, int], ...]  # time and replicas, those of the stabilization window


class Signal(StrEnum):
    """What is counted; the sum over all replicas and the queue before them."""

    REQUESTS = "requests"  # files that wait or are in flight
    WINDOWS = "windows"  # windows that wait or are in flight
    QUEUED_WINDOWS = "queued"  # windows that wait

    def read(self, view: View) -> int:
        """Return its value."""
        match self:
            case Signal.REQUESTS:
                return view.active_requests
            case Signal.WINDOWS:
                return view.queued_windows + view.in_flight_windows
            case Signal.QUEUED_WINDOWS:
                return view.queued_windows


def average_value_replicas(value: float, target: float, replicas: int) -> int:
    """Return ceil(value / target), or `replicas` as they are within the tolerance, for an External metric's AverageValue."""
    if replicas and abs(1 - value / (target * replicas)) <= TOLERANCE:
        return replicas
    return ceil(value / target)


def utilization_replicas(busy_share: float, target: float, ready: int, starting: int, replicas: int) -> int:
    """Return ceil(ratio * ready) for a Pods metric; replicas that start count as idle where the ratio is above 1.

    `busy_share` is the mean over ready replicas, 0 to 1, as `target`.
    """
    if not ready:
        return replicas
    ratio = busy_share / target
    if ratio > 1 and starting:
        pods = ready + starting
        diluted = ratio * ready / pods
        if diluted <= 1 + TOLERANCE:
            return replicas
        return max(ceil(diluted * pods), replicas)
    return replicas if abs(1 - ratio) <= TOLERANCE else ceil(ratio * ready)


def behave(recommended: int, replicas: int, past: Recommendations, now: float) -> tuple[int, Recommendations]:
    """Apply the default behavior: up at once but at most to the double or 4 more, down to the most recommended in 300 s.

    The fleet that it finds counts as the first recommendation.
    """
    past = past or ((now, replicas),)
    kept = (*(entry for entry in past if entry[0] > now - STABILIZATION_SECONDS), (now, recommended))
    if recommended > replicas:
        return min(recommended, max(UP_FACTOR * replicas, replicas + UP_PODS)), kept
    return min(replicas, max(count for _, count in kept)), kept


@dataclass(frozen=True, slots=True)
class AverageValue:
    """External metric with an AverageValue target."""

    signal: Signal
    target: float  # per replica
    min_replicas: int = 1  # 0 needs a feature gate
    max_replicas: int = 100
    interval_seconds: float = SYNC_SECONDS
    splits_pools: bool = False

    def start(self) -> Recommendations:
        """Nothing was recommended yet."""
        return ()

    def decide(self, view: View, state: Recommendations, now_seconds: float) -> tuple[Wanted, Recommendations]:
        """One sync of the controller."""
        called_for = average_value_replicas(self.signal.read(view), self.target, view.desired)
        bounded = min(max(called_for, self.min_replicas), self.max_replicas)
        replicas, state = behave(bounded, view.desired, state, now_seconds)
        return Wanted(replicas), state


@dataclass(frozen=True, slots=True)
class UtilizationMemory:
    """Sums at the sync before, and what was recommended."""

    busy_seconds: float = 0.0
    ready_seconds: float = 0.0
    recommendations: Recommendations = ()


@dataclass(frozen=True, slots=True)
class Utilization:
    """GPU utilization as a Pods metric: the share of time in which replicas decode, since the sync before."""

    target: float  # 0 to 1
    min_replicas: int = 1
    max_replicas: int = 100
    interval_seconds: float = SYNC_SECONDS
    splits_pools: bool = False

    def start(self) -> UtilizationMemory:
        """Nothing was seen yet."""
        return UtilizationMemory()

    def decide(self, view: View, state: UtilizationMemory, now_seconds: float) -> tuple[Wanted, UtilizationMemory]:
        """One sync of the controller."""
        called_for = view.desired
        if ready_seconds := view.ready_seconds - state.ready_seconds:
            busy_share = (view.busy_seconds - state.busy_seconds) / ready_seconds
            called_for = utilization_replicas(busy_share, self.target, view.ready, view.replicas - view.ready, view.desired)
        bounded = min(max(called_for, self.min_replicas), self.max_replicas)
        replicas, recommendations = behave(bounded, view.desired, state.recommendations, now_seconds)
        return Wanted(replicas), UtilizationMemory(view.busy_seconds, view.ready_seconds, recommendations)
