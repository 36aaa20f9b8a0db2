"""How a run went, in figures, and the mean over runs."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from statistics import fmean


@dataclass(frozen=True, slots=True)
class Outcome:
    """Figures of one run, or means over several."""

    audio_seconds: float
    missed_percent: float  # of audio: it waited longer than the target
    wait_mean_seconds: float
    wait_p50_seconds: float
    wait_p95_seconds: float
    wait_p99_seconds: float
    gpu_hours: float
    dollars: float
    scale_ups: float  # replicas ordered because more were wanted
    interruptions: float
    repeated_windows: float  # decoded twice, for their replica was taken away
    lost_windows: float  # arrived, and neither done nor waiting nor being decoded: 0, or the simulation is wrong
    unserved_windows: float  # still waited when the run was given up
    longest_backlog_seconds: float  # longest time in which the queue was never empty: the time to drain
    utilization_percent: float  # of the time of paid GPUs


def mean(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the mean of each figure."""
    return Outcome(*(fmean(getattr(outcome, field.name) for outcome in outcomes) for field in fields(Outcome)))
