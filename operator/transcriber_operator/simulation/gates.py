"""What the comparison must show, and by how much it does."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from transcriber_operator.simulation.contest import OWN, Entrant, Results
from transcriber_operator.simulation.outcome import Outcome
from transcriber_operator.simulation.scalers.own import Own

PROMISED_MISSES_PERCENT: Final = 5.0  # what targetWaitPercentile 95 allows
MORE_MISSES_POINTS: Final = 3.0
SLACK_POINTS: Final = 1.0  # by which a tuning may miss more on other draws than on those that it was chosen on
SINGLE_RATIO: Final = 0.80
TUNED_RATIO: Final = 1.10
GATED_LOAD: Final = 10  # of the single configuration: at single load every fleet is one or two replicas

Outcomes = Mapping[Entrant, Outcome]


@dataclass(frozen=True, slots=True)
class Gate:
    """One bound and the figure that is held against it."""

    name: str
    figure: float
    bound: float
    explanation: str

    @property
    def holds(self) -> bool:
        """Say whether the figure is within the bound."""
        return self.figure <= self.bound


def level(outcomes: Outcomes) -> float:
    """Return the misses in percent at which tunings are compared: what is promised or, where ours cannot hold it, what it can."""
    least = min(outcome.missed_percent for outcome in of_system(outcomes, OWN).values())
    return max(PROMISED_MISSES_PERCENT, least + SLACK_POINTS)


def cheapest(outcomes: Outcomes, most_missed_percent: float, count: int = 1) -> list[Entrant]:
    """Return the entrants of fewest GPU-hours among those that miss no more; if none does, the one that misses least."""
    within = [entrant for entrant, outcome in outcomes.items() if outcome.missed_percent <= most_missed_percent]
    if not within:
        return [min(outcomes, key=lambda entrant: outcomes[entrant].missed_percent)] if outcomes else []
    return sorted(within, key=lambda entrant: outcomes[entrant].gpu_hours)[:count]


def front(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Return the Pareto front of GPU-hours and misses, by GPU-hours."""
    kept: list[Outcome] = []
    for outcome in sorted(outcomes, key=lambda outcome: (outcome.gpu_hours, outcome.missed_percent)):
        if not kept or outcome.missed_percent < kept[-1].missed_percent:
            kept.append(outcome)
    return kept


def of_system(outcomes: Outcomes, system: str) -> Outcomes:
    """Return the outcomes of one system."""
    return {entrant: outcome for entrant, outcome in outcomes.items() if entrant.system == system}


def others(outcomes: Outcomes) -> Outcomes:
    """Return the outcomes of every system but ours, whatever its configuration is called."""
    return {entrant: outcome for entrant, outcome in outcomes.items() if not isinstance(entrant.scaler, Own)}


@dataclass(frozen=True, slots=True)
class Single:
    """One configuration on all courses, next to ours."""

    entrant: Entrant
    gpu_hours_ratio: float  # mean over courses of ours / theirs
    most_more_misses_points: float  # theirs - ours where that is most
    most_fewer_misses_points: float  # ours - theirs where that is most


def singles(own: Entrant, courses: Sequence[Outcomes]) -> list[Single]:
    """Compare one configuration of ours with every one that ran on all courses; the one to be held against is the first.

    That is the cheapest of those that wait about as little as ours everywhere, within 3 points; where there is none, the one that
    comes closest to it.
    """
    compared = [_single(own, entrant, courses) for entrant in others(_everywhere(courses))]
    return sorted(compared, key=lambda single: (max(single.most_more_misses_points, MORE_MISSES_POINTS), -single.gpu_hours_ratio))


def our_single(courses: Sequence[Outcomes]) -> Entrant:
    """Return the configuration of ours that is furthest within both bounds when it is kept on all courses."""

    def standing(entrant: Entrant) -> float:
        against = singles(entrant, courses)[0]
        return max(against.most_fewer_misses_points / MORE_MISSES_POINTS, against.gpu_hours_ratio / SINGLE_RATIO)

    return min(of_system(_everywhere(courses), OWN), key=standing)


def _everywhere(courses: Sequence[Outcomes]) -> Outcomes:
    first = courses[0]
    return {entrant: first[entrant] for entrant in first if all(entrant in outcomes for outcomes in courses)}


def _single(own: Entrant, entrant: Entrant, courses: Sequence[Outcomes]) -> Single:
    more = [outcomes[entrant].missed_percent - outcomes[own].missed_percent for outcomes in courses]
    ratio = fmean(outcomes[own].gpu_hours / outcomes[entrant].gpu_hours for outcomes in courses)
    return Single(entrant, ratio, max(more), -min(more))


def gates(own: Entrant, single: Entrant | None, results: Results) -> list[Gate]:
    """Hold the results against the bounds: `own` is ours with its defaults, `single` the one that is kept on all traces."""
    return [*(_single_gates(single, results) if single else ()), *_tuned_gates(own, results), _lost_gate(results)]


def _single_gates(own: Entrant, results: Results) -> list[Gate]:
    courses = [outcomes for (_, load), outcomes in results.items() if load == GATED_LOAD]
    against = singles(own, courses)[0]
    misses = against.most_fewer_misses_points
    pair = f"{own.tuning} against {against.entrant.name}, which misses up to {against.most_more_misses_points:.1f} points more"
    return [
        Gate("one configuration, GPU-hours", against.gpu_hours_ratio, SINGLE_RATIO, f"mean ratio, {pair}"),
        Gate("one configuration, misses", misses, MORE_MISSES_POINTS, "points more than it, where that is most"),
    ]


def _tuned_gates(own: Entrant, results: Results) -> list[Gate]:
    found = []
    for (name, load), outcomes in results.items():
        most = level(outcomes)
        [ours], [theirs] = cheapest(of_system(outcomes, OWN), most), cheapest(others(outcomes), most + SLACK_POINTS)
        if outcomes[theirs].missed_percent > most + SLACK_POINTS:
            continue  # no other system waits as little in any tuning
        hours, default = outcomes[theirs].gpu_hours, outcomes[own]
        explanation = (
            f"ratio, {ours.tuning} ({outcomes[ours].missed_percent:.1f} % missed) against {theirs.name} "
            f"({outcomes[theirs].missed_percent:.1f} %); defaults: {default.gpu_hours / hours:.2f} ({default.missed_percent:.1f} %)"
        )
        found.append(Gate(f"tuned for {name} at {load}x, GPU-hours", outcomes[ours].gpu_hours / hours, TUNED_RATIO, explanation))
    return found


def _lost_gate(results: Results) -> Gate:
    lost = max((outcome.lost_windows for outcomes in results.values() for outcome in outcomes.values()), default=0.0)
    repeated = sum(outcome.repeated_windows for outcomes in results.values() for outcome in outcomes.values())
    return Gate("lost windows", lost, 0.0, f"windows; {repeated:,.0f} were decoded again, for their node was gone")
