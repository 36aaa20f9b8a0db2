"""When the next pass of a resource is due, and what may bring it forward; pure."""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, Literal

RESYNC_SPREAD: Final = 0.1  # so that passes of many resources drift apart
BACKOFF_SPREAD: Final = 0.2
LOOK_SPREAD: Final = 0.1


class Outcome(StrEnum):
    """How a pass ended."""

    SETTLED = "Settled"
    CONFLICT = "Conflict"
    TRANSIENT = "Transient"
    TERMINAL = "Terminal"
    LEASE_LOST = "LeaseLost"


@dataclass(frozen=True)
class End:
    """The end of a pass; `after_seconds` is when the decision wants another, or when the server allows one."""

    outcome: Outcome
    after_seconds: float | None = None


@dataclass(frozen=True)
class Timing:
    """Seconds of the loop."""

    resync_seconds: float = 600.0
    debounce_seconds: float = 0.5  # events come in flocks: wait for the rest of one
    pass_seconds: float = 60.0
    first_backoff_seconds: float = 1.0
    longest_backoff_seconds: float = 300.0
    conflicts_at_once: int = 5  # in a row; then conflicts wait like failures
    look_seconds: float = 5.0  # between looks at the load


@dataclass(frozen=True)
class Attempts:
    """Passes in a row that did not settle."""

    failures: int = 0
    conflicts: int = 0


@dataclass(frozen=True)
class Rest:
    """How long to wait for the next pass, and what ends it earlier: any change, or only a new generation of the resource."""

    seconds: float
    until: Literal["AnyChange", "NewGeneration"]


def plan(end: End, attempts: Attempts, timing: Timing, spread: float) -> tuple[Attempts, Rest]:
    """Return what the next pass is to know of earlier ones, and the rest before it; `spread` is random between -1 and 1."""
    resync = timing.resync_seconds * (1 + RESYNC_SPREAD * spread)
    match end.outcome:
        case Outcome.SETTLED:
            wanted = resync if end.after_seconds is None else min(resync, end.after_seconds)
            return Attempts(), Rest(wanted, "AnyChange")
        case Outcome.TERMINAL | Outcome.LEASE_LOST:
            return Attempts(), Rest(resync, "NewGeneration")
        case Outcome.CONFLICT if attempts.conflicts < timing.conflicts_at_once:
            return replace(attempts, conflicts=attempts.conflicts + 1), Rest(timing.debounce_seconds, "AnyChange")
        case _:
            backoff = timing.first_backoff_seconds * 2.0 ** min(attempts.failures, 32)
            seconds = min(backoff, timing.longest_backoff_seconds) * (1 + BACKOFF_SPREAD * spread)
            failed = replace(attempts, failures=attempts.failures + 1)
            return failed, Rest(max(seconds, end.after_seconds or 0.0), "NewGeneration")
