"""What is told of scaling: the condition, the figures of the status, and those of the operator's metrics.

Figures change all the time; the status is written when they have changed enough to matter, and not with every look.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isclose
from typing import Any, Final

from pydantic import BaseModel

from transcriber_api.conditions import ConditionType, Observation, Reason
from transcriber_api.status import ColdStart, ColdStartStage, CostStatus, PoolStatus, ScalingStatus, SpeculationStatus, Status
from transcriber_api.v1alpha1 import Spec
from transcriber_operator.decide import decision, nodes
from transcriber_operator.decide.autoscale import Cause
from transcriber_operator.decide.rollout import PoolState, Serving
from transcriber_operator.decide.scaling import Scaling
from transcriber_operator.render.context import Context

SECONDS_BETWEEN_FIGURES: Final = 15.0  # writes of the status for the sake of figures alone
CHANGE: Final = 0.2  # of a figure, below which it is the same one
LEAST_RATE: Final = 0.05  # audio seconds per second, below which nothing arrives
REMEMBERED_STARTS: Final = 8
MOST_REPLICAS: Final = 1000  # that the API can tell of


@dataclass(frozen=True)
class Wanted:
    """A number of replicas, the sentence that explains it, and what the condition ScalingActive says."""

    replicas: int
    sentence: str
    scaling: Observation


def wanted_of(spec: Spec, scaling: Scaling) -> Wanted:
    """Return what is wanted over all pools."""
    type_ = ConditionType.SCALING_ACTIVE
    if spec.scaling.mode != "Builtin":
        origin = "is absent" if spec.scaling.replicas is None else f"asks for {spec.scaling.replicas}"
        sentence = f"spec.scaling.replicas {origin}; {scaling.replicas} are kept."
        return Wanted(scaling.replicas, sentence, Observation(type_, "True", Reason.EXTERNALLY_SCALED, sentence))
    return Wanted(scaling.replicas, scaling.verdict.sentence, _active(spec, scaling))


def _active(spec: Spec, scaling: Scaling) -> Observation:
    type_ = ConditionType.SCALING_ACTIVE
    if scaling.verdict.cause is Cause.STALE:
        return Observation(type_, "False", Reason.METRICS_STALE, f"{_silence(scaling)} Replicas are held, and never lowered.")
    if scaling.allotment.is_over_budget or scaling.verdict.cause is Cause.BUDGET:
        message = "The budget pays for fewer replicas than the work calls for; raise budget or scaling.targetWaitSeconds."
        return Observation(type_, "True", Reason.BUDGET_LIMITED, message)
    if scaling.verdict.cause is Cause.LIMIT:
        message = f"The work calls for more than scaling.maxReplicas: {spec.scaling.max_replicas}; raise it, or audio waits longer."
        return Observation(type_, "True", Reason.REPLICA_LIMIT_REACHED, message)
    return Observation(type_, "True", Reason.AS_EXPECTED, "Replicas follow the seconds of audio that wait and arrive.")


def _silence(scaling: Scaling) -> str:
    if scaling.seen.reading.refused:
        return scaling.seen.reading.refused[0]
    return "Not every replica tells how much audio it holds; see the log of its exporter and the NetworkPolicy."


def scaling_status(scaling: Scaling, replicas: int, sentence: str, previous: ScalingStatus | None) -> ScalingStatus:
    """Return the figures of a decision, or the previous ones where they say the same."""
    terms, look = scaling.verdict.terms, scaling.seen.reading.look
    found = ScalingStatus(
        queued_audio_seconds=_whole(terms.queued_audio_seconds),
        in_flight_audio_seconds=_whole(terms.in_flight_audio_seconds),
        arrival_rate=decimal(terms.arrival_rate if terms.arrival_rate >= LEAST_RATE else 0.0),
        replica_throughput=decimal(terms.throughput),
        lead_time_seconds=round(terms.lead_seconds),
        offered_load=decimal(terms.offered_load),
        steady_replicas=min(terms.steady_replicas, MOST_REPLICAS),
        ordered_replicas=terms.ordered_replicas,
        called_for=scaling.verdict.called_for,
        affordable_replicas=scaling.affordable,
        cause=scaling.verdict.cause.value,
        desired=replicas,
        reason=sentence,
        observed_at=datetime.fromtimestamp(int(look.at_seconds), UTC) if look else None,
    )
    if previous is None or (found.desired, found.cause) != (previous.desired, previous.cause):
        return found
    if found.observed_at and previous.observed_at:
        age = (found.observed_at - previous.observed_at).total_seconds()
        if 0 <= age < SECONDS_BETWEEN_FIGURES:
            return previous
    # Sentence and time go with the figures.
    return previous if is_much_the_same(found, previous, ignored=("reason", "observed_at")) else found


def pool_statuses(scaling: Scaling, serving: Serving, context: Context, previous: Status) -> tuple[PoolStatus, ...]:
    """Return every pool as it is, with what was learnt of it."""
    before = {pool.name: pool for pool in previous.pools}
    prices = {pool.name: nodes.pool_price(context.spec, pool) for pool in context.spec.capacity.pools}
    return tuple(_pool_status(scaling, state, prices.get(state.name), before.get(state.name)) for state in serving.pools)


def _pool_status(scaling: Scaling, state: PoolState, price: float | None, previous: PoolStatus | None) -> PoolStatus:
    learnt: Mapping[str, Any] = {
        "lead_time_seconds": round(scaling.seen.lead_seconds[state.name]),
        "replica_throughput": decimal(scaling.seen.throughput[state.name]),
    }
    found = PoolStatus(
        name=state.name,
        desired=state.wanted,
        ready=state.ready,
        nodes=state.nodes,
        reason=state.reason,
        price_per_hour=None if price is None else dollars(price),
        fallen_back_replicas=scaling.allotment.stand_ins.get(state.name) or None,
        **learnt,
    )
    if previous is None:
        return found
    steady = {field: getattr(previous, field) for field in learnt if _is_close(getattr(found, field), getattr(previous, field))}
    return found.model_copy(update=steady)


def cost_status(scaling: Scaling, previous: CostStatus | None) -> CostStatus:
    """Return what the nodes cost, and what may be spent."""
    rate, allowed, level = scaling.verdict.terms.arrival_rate, scaling.money.per_hour, scaling.money.memory.level
    found = CostStatus(
        per_hour=dollars(scaling.spending_per_hour),
        per_audio_hour=dollars(scaling.spending_per_hour / rate) if rate >= LEAST_RATE else None,
        allowed_per_hour=None if allowed is None else dollars(allowed),
        bucket_dollars=None if level is None else dollars(level),
    )
    return previous if previous and is_much_the_same(found, previous, exact=("per_hour",)) else found


def speculation_status(scaling: Scaling, previous: SpeculationStatus | None) -> SpeculationStatus | None:
    """Return how well the draft guesses, as long as anything was decoded."""
    reading = scaling.seen.reading
    if reading.acceptance_percent is None and reading.tokens_per_cycle is None:
        return previous
    tokens = None if reading.tokens_per_cycle is None else decimal(reading.tokens_per_cycle)
    found = SpeculationStatus(acceptance_percent=reading.acceptance_percent, tokens_per_cycle=tokens)
    return previous if previous and is_much_the_same(found, previous) else found


def cold_starts(scaling: Scaling, previous: tuple[ColdStart, ...]) -> tuple[ColdStart, ...]:
    """Return the last starts, those that ended since the last look added."""
    new = tuple(
        ColdStart(
            pool=start.pool,
            pod=start.pod,
            seconds=round(start.seconds),
            stages=tuple(ColdStartStage(name=stage.value, seconds=round(seconds)) for stage, seconds in start.stages),
        )
        for start in scaling.seen.new_starts
    )
    known = {start.pod for start in new}
    return (*(start for start in previous if start.pod not in known), *new)[-REMEMBERED_STARTS:]


def figures(scaling: Scaling, serving: Serving) -> decision.Figures:
    """Return the figures of the operator's metrics; `desired` is what the operator would decide, also where others do."""
    terms, reading = scaling.verdict.terms, scaling.seen.reading
    return decision.Figures(
        desired=scaling.verdict.replicas,
        ready=serving.ready,
        queued_audio_seconds=terms.queued_audio_seconds,
        in_flight_audio_seconds=terms.in_flight_audio_seconds,
        arrival_rate=terms.arrival_rate,
        replica_throughput=terms.throughput,
        metrics_age_seconds=reading.age_seconds,
        cost_per_hour=scaling.spending_per_hour,
        allowed_per_hour=scaling.money.per_hour,
        processed_audio_seconds=reading.processed_audio_seconds,
        pools=tuple(
            decision.PoolFigures(
                name=pool.name,
                desired=pool.wanted,
                ready=pool.ready,
                nodes=pool.nodes,
                lead_time_seconds=scaling.seen.lead_seconds[pool.name],
                interruptions=scaling.new_losses.get(pool.name, 0),
                insufficient_capacity=scaling.new_refusals.get(pool.name, 0),
            )
            for pool in serving.pools
        ),
        cold_starts=tuple(
            decision.ColdStart(pool=start.pool, stage=stage.value, seconds=seconds)
            for start in scaling.seen.new_starts
            for stage, seconds in start.stages
        ),
    )


def is_much_the_same(found: BaseModel, previous: BaseModel, ignored: tuple[str, ...] = (), exact: tuple[str, ...] = ()) -> bool:
    """Whether two sets of figures differ by less than is worth a write."""
    fields = [field for field in type(found).model_fields if field not in ignored]
    return all(
        getattr(found, field) == getattr(previous, field)
        if field in exact
        else _is_close(getattr(found, field), getattr(previous, field))
        for field in fields
    )


def _is_close(one: Any, other: Any) -> bool:
    """Figures, decimals as text among them, by a share of the larger; anything else, and coming from or to 0, by equality."""
    try:
        first, second = float(one), float(other)
    except (TypeError, ValueError):
        return bool(one == other)
    return isclose(first, second, rel_tol=CHANGE) if first and second else first == second


def decimal(number: float) -> str:
    """Return a figure with as many decimals as the API keeps."""
    return f"{number:.4f}".rstrip("0").rstrip(".") if number < 100 else f"{number:.1f}".removesuffix(".0")


def dollars(amount: float) -> str:
    """Return US dollars with as many decimals as the API keeps."""
    return f"{amount:.4f}".rstrip("0").rstrip(".")


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds)
