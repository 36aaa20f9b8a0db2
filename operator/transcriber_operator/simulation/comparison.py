"""The whole comparison: tunings are chosen on some seeds and judged on others."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from transcriber_operator.simulation.contest import Course, Entrant, Results, contest, entrants, stream
from transcriber_operator.simulation.gates import GATED_LOAD, Gate, Outcomes, cheapest, gates, level, of_system, our_single, singles
from transcriber_operator.simulation.outcome import Outcome
from transcriber_operator.simulation.trace import TRACES, Trace, draw_trace, multiplied
from transcriber_operator.simulation.world import World

TUNING_SEEDS: Final = (1,)
FIRST_FRESH_SEED: Final = 301
FINALISTS: Final = 2  # of each system and trace, and configurations to keep on all traces

Report = Callable[[str], None]  # told before each run


@dataclass(frozen=True, slots=True)
class Plan:
    """What is compared."""

    traces: tuple[str, ...] = tuple(TRACES)
    loads: tuple[int, ...] = (1,)
    hours: float = 24.0
    fresh_seeds: int = 5
    recorded: Trace | None = None  # in place of `traces`
    more: tuple[Entrant, ...] = ()  # beside the systems that are always compared


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came out: `tuned` on the seeds that tunings are chosen on, `fresh` for the chosen ones on others."""

    own: Entrant
    tuned: Results
    fresh: Results
    gates: tuple[Gate, ...]


def compare(world: World, plan: Plan, report: Report) -> Comparison:
    """Run every tuning once, the best of them on fresh seeds, and judge those."""
    tuned = {
        (course.name, course.load): _run(world, course, (*entrants(course.load, world.service.slots), *plan.more), report)
        for course in _courses(world, plan, TUNING_SEEDS)
    }
    own = next(iter(next(iter(tuned.values()))))
    singles_of_ours = {load: our_single(_at_load(load, tuned)) for load in plan.loads}
    chosen = _finalists(own, singles_of_ours, tuned, plan.more)
    seeds = range(FIRST_FRESH_SEED, FIRST_FRESH_SEED + plan.fresh_seeds)
    fresh = {
        (course.name, course.load): _run(world, course, chosen[course.name, course.load], report)
        for course in _courses(world, plan, seeds)
    }
    return Comparison(own, tuned, fresh, tuple(gates(own, singles_of_ours.get(GATED_LOAD), fresh)))


def _courses(world: World, plan: Plan, seeds: Sequence[int]) -> Iterable[Course]:
    for load in plan.loads:
        if plan.recorded is not None:
            trace = multiplied(plan.recorded, load)
            yield Course(trace.name, load, tuple((seed, trace) for seed in seeds))
            continue
        for name in plan.traces:
            draws = tuple((seed, draw_trace(name, load, plan.hours, world.service, stream(seed))) for seed in seeds)
            yield Course(name, load, draws)


def _run(world: World, course: Course, field: Sequence[Entrant], report: Report) -> dict[Entrant, Outcome]:
    outcomes: dict[Entrant, Outcome] = {}
    for entrant in field:
        report(f"{course.name} at {course.load}x: {entrant.name}")
        outcomes.update(contest(world, course, (entrant,)))
    return outcomes


def _at_load(load: int, results: Results) -> list[Outcomes]:
    return [outcomes for (_, its_load), outcomes in results.items() if its_load == load]


def _finalists(
    own: Entrant, singles_of_ours: Mapping[int, Entrant], tuned: Results, more: Sequence[Entrant]
) -> dict[tuple[str, int], list[Entrant]]:
    """Return for each course: ours, the best tunings of every system, and the best configurations to keep on all traces."""
    kept = {
        load: (single, *(other.entrant for other in singles(single, _at_load(load, tuned))[:FINALISTS]))
        for load, single in singles_of_ours.items()
    }
    chosen = {}
    for (name, load), outcomes in tuned.items():
        most = level(outcomes)
        systems = dict.fromkeys(entrant.system for entrant in outcomes)
        best = [entrant for system in systems for entrant in cheapest(of_system(outcomes, system), most, FINALISTS)]
        chosen[name, load] = list(dict.fromkeys((own, *more, *best, *kept[load])))
    return chosen
