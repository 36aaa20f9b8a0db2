"""Which scalers are compared, each in several tunings, and the runs that compare them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from random import Random
from typing import Any, Final

from transcriber_operator.decide.autoscale import Policy
from transcriber_operator.simulation.engine import simulate
from transcriber_operator.simulation.outcome import Outcome, mean
from transcriber_operator.simulation.scalers.hpa import AverageValue, Signal, Utilization
from transcriber_operator.simulation.scalers.keda import Keda
from transcriber_operator.simulation.scalers.knative import Knative
from transcriber_operator.simulation.scalers.kubeai import KubeAi
from transcriber_operator.simulation.scalers.own import Own
from transcriber_operator.simulation.trace import Trace
from transcriber_operator.simulation.view import Scaler
from transcriber_operator.simulation.world import Offer, World

OWN: Final = "transcriber"
MAX_REPLICAS: Final = 100
# targetUtilizationPercent, targetWaitPercentile, headroomReplicas
OWN_TUNINGS: Final = ((0.9, 80, 0), (0.9, 95, 0), (0.8, 95, 0), (0.7, 95, 0), (0.8, 99, 0), (0.8, 95, 1))


@dataclass(frozen=True, slots=True)
class Entrant:
    """A scaler in one tuning."""

    system: str
    tuning: str
    scaler: Scaler[Any]
    offers: tuple[Offer, ...] | None = None  # pools of its own; None: those of the world

    @property
    def name(self) -> str:
        """System and tuning."""
        return f"{self.system} {self.tuning}"


@dataclass(frozen=True, slots=True)
class Course:
    """A trace at one load, drawn once for each seed."""

    name: str
    load: int
    draws: tuple[tuple[int, Trace], ...]  # seed, trace


Results = Mapping[tuple[str, int], Mapping[Entrant, Outcome]]  # by name and load of the course


def stream(seed: int) -> Random:
    """Return random numbers that are the same for the same seed."""
    return Random(seed)  # noqa: S311 (a simulation, no secret)


def own_default(slots: int) -> Entrant:
    """Return the operator's own scaler with the defaults of the API."""
    return Entrant(OWN, "defaults", Own(_default_policy(slots)))


def _default_policy(slots: int) -> Policy:
    return Policy(max_replicas=MAX_REPLICAS, slots=slots)


def entrants(load: int, slots: int) -> tuple[Entrant, ...]:
    """Return every system in every tuning; `load` sets the size of the minimum fleets that are tried."""
    least = sorted({0, max(round(0.5 * load), 1)})
    return (
        own_default(slots),
        *_own(least, slots),
        *_hpa(sorted({max(minimum, 1) for minimum in least})),
        *_keda(least),
        *_knative(least),
        *_kubeai(least),
    )


def _own(least: Sequence[int], slots: int) -> Iterator[Entrant]:
    default = _default_policy(slots)
    for (utilization, percentile, headroom), minimum in product(OWN_TUNINGS, least):
        tuned = replace(
            default,
            utilization=utilization,
            miss_share=(100 - percentile) / 100,
            headroom_replicas=headroom,
            min_replicas=minimum,
        )
        if tuned != default:
            yield Entrant(OWN, f"util {utilization:.0%} p{percentile} headroom {headroom} min {minimum}", Own(tuned))


def _hpa(least: Sequence[int]) -> Iterator[Entrant]:
    for target, minimum in product((0.7, 0.8, 0.9, 0.95), least):
        yield Entrant("HPA GPU", f"util {target:.0%} min {minimum}", Utilization(target, minimum, MAX_REPLICAS))
    for target, minimum in product((48, 96), least):
        scaler = AverageValue(Signal.WINDOWS, target, minimum, MAX_REPLICAS)
        yield Entrant("HPA", f"windows {target} min {minimum}", scaler)


def _keda(least: Sequence[int]) -> Iterator[Entrant]:
    targets = ((Signal.REQUESTS, (2, 4, 8)), (Signal.WINDOWS, (32, 64, 128)), (Signal.QUEUED_WINDOWS, (5,)))
    for signal, values in targets:
        for target, minimum in product(values, least):
            yield Entrant("KEDA", f"{signal} {target} min {minimum}", Keda(signal, target, minimum, MAX_REPLICAS))


def _knative(least: Sequence[int]) -> Iterator[Entrant]:
    for concurrency, delay, minimum in product((4, 8, 16), (0, 300), least):
        scaler = Knative(concurrency, delay, minimum, MAX_REPLICAS)
        yield Entrant("Knative", f"concurrency {concurrency} delay {delay} min {minimum}", scaler)


def _kubeai(least: Sequence[int]) -> Iterator[Entrant]:
    for target, window, minimum in product((3, 6), (60, 600), least):
        scaler = KubeAi(target, window, minimum, MAX_REPLICAS)
        yield Entrant("KubeAI", f"requests {target} window {window} min {minimum}", scaler)


def contest(world: World, course: Course, field: Sequence[Entrant]) -> Iterator[tuple[Entrant, Outcome]]:
    """Run every entrant over every draw of a course; yields its means. All meet the same files and the same seeds."""
    for entrant in field:
        its_world = world if entrant.offers is None else replace(world, offers=entrant.offers)
        outcomes = [simulate(its_world, trace, entrant.scaler, stream(seed)) for seed, trace in course.draws]
        yield entrant, mean(outcomes)
