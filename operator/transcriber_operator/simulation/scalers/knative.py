"""Knative's pod autoscaler (KPA) on concurrency, serving 1.23: a stable and a panic window."""

from dataclasses import dataclass
from math import ceil, floor
from typing import Final

from transcriber_operator.simulation.view import View, Wanted

TICK_SECONDS: Final = 2.0
STABLE_SECONDS: Final = 60.0
SAMPLES: Final = round(STABLE_SECONDS / TICK_SECONDS)
PANIC_SECONDS: Final = 6.0
PANIC_THRESHOLD: Final = 2.0  # panic once the panic window calls for so many times the ready replicas
TARGET_UTILIZATION: Final = 0.7
MAX_UP_RATE: Final = 1000.0
MAX_DOWN_RATE: Final = 2.0
GRACE_SECONDS: Final = 30.0  # before the last replica goes

Decisions = tuple[tuple[float, int], ...]  # time, replicas: descending
Samples = tuple[tuple[float, float], ...]  # time, request-seconds until then; the newest last


@dataclass(frozen=True, slots=True)
class Memory:
    """Samples of the stable window, decisions within the scale-down delay, and the panic."""

    samples: Samples = ()
    decisions: Decisions = ()
    panicking_since: float | None = None  # when the threshold was last passed
    panic_replicas: int = 0
    zero_since: float | None = None


def mean_concurrency(samples: Samples, window_seconds: float) -> float:
    """Return the mean number of requests at hand over the last window; samples are TICK_SECONDS apart."""
    newest_at, newest = samples[-1]
    oldest_at, oldest = samples[-min(len(samples), round(window_seconds / TICK_SECONDS) + 1)]
    return (newest - oldest) / (newest_at - oldest_at) if newest_at > oldest_at else 0.0


def within_delay(decisions: Decisions, replicas: int, delay_seconds: float, now: float) -> Decisions:
    """Add a decision to those within the scale-down delay; the first one is the highest, lower ones before this are moot."""
    return (*(entry for entry in decisions if entry[1] > replicas and entry[0] > now - delay_seconds), (now, replicas))


@dataclass(frozen=True, slots=True)
class Knative:
    """A revision."""

    concurrency: float  # containerConcurrency
    scale_down_delay_seconds: float = 0.0
    min_replicas: int = 0
    max_replicas: int = 100
    interval_seconds: float = TICK_SECONDS
    splits_pools: bool = False

    def start(self) -> Memory:
        """Nothing was measured yet."""
        return Memory()

    def decide(self, view: View, state: Memory, now_seconds: float) -> tuple[Wanted, Memory]:
        """One tick of the autoscaler."""
        samples = (*state.samples[-SAMPLES:], (now_seconds, view.active_request_seconds))
        ready, target = max(view.ready, 1), TARGET_UTILIZATION * self.concurrency
        least, most = (floor(ready / MAX_DOWN_RATE) if view.ready else 0), ceil(MAX_UP_RATE * ready)
        stable = min(max(ceil(mean_concurrency(samples, STABLE_SECONDS) / target), least), most)
        panic = ceil(mean_concurrency(samples, PANIC_SECONDS) / target)
        since, panic_replicas = state.panicking_since, state.panic_replicas
        if panic / ready >= PANIC_THRESHOLD:
            since = now_seconds
        elif since is not None and now_seconds > since + STABLE_SECONDS:
            since, panic_replicas = None, 0
        panic = min(max(panic, least), most)
        if since is not None:  # never fewer while it panics
            panic_replicas = max(panic_replicas, panic, view.ready)
        called_for = panic_replicas if since is not None else stable
        decisions = within_delay(state.decisions, called_for, self.scale_down_delay_seconds, now_seconds)
        delayed = decisions[0][1]
        zero_since = (state.zero_since if state.zero_since is not None else now_seconds) if delayed == 0 else None
        if zero_since is not None and now_seconds < zero_since + GRACE_SECONDS:
            delayed = min(view.desired, 1)
        replicas = min(max(delayed, self.min_replicas), self.max_replicas)
        return Wanted(replicas), Memory(samples, decisions, since, panic_replicas, zero_since)
