"""How many replicas the work calls for: seconds of audio that wait, arrive and are decoded, against what is there and ordered.

Pure: the state that earlier looks leave behind is passed in and handed back.

Three sizes are compared, and the largest is kept for as long as a boot takes:
- steady: what the rate of arrivals needs in the long run (queueing.py);
- deadline: what is there and ordered, and the replicas that an order of now must add so that the backlog, and what arrives
  until they serve, is decoded within the target wait after that. What is ordered already counts from the time it will serve, so
  a backlog that grows during a boot is not bought for again;
- one replica while there is work, plus `headroom_replicas`.
"""

import math
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from transcriber_operator.decide.arrivals import Arrivals, learn
from transcriber_operator.decide.queueing import MOST_REPLICAS, steady_replicas

YIELD: Final = 0.95  # of a replica's throughput that a backlog is decoded with: the last batches are not full
SOONEST_SECONDS: Final = 5.0  # until an ordered replica serves, however overdue it is
BUY_SHARE: Final = 0.5
DRAINED_SHARE: Final = 0.5  # of the target wait that the queue may take when replicas are given up
PATIENCE_LEADS: Final = 2.0  # lead times for which replicas that are ordered hold the fleet
EARNING_LEADS: Final = 0.2  # lead times of work that a replica must find, to be ordered for a backlog
STEPS: Final = 16  # at most, of the staircase of what was called for
NOTHING_SECONDS: Final = 0.001  # audio; less is the rounding of sums
MOST: Final = 1e12  # a figure beyond it is not computed with

Steps = tuple[tuple[float, int], ...]  # (time, replicas called for), replicas strictly falling


@dataclass(frozen=True, slots=True)
class Policy:
    """What the spec asks of the scaler."""

    min_replicas: int = 0
    max_replicas: int = 20
    target_wait_seconds: float = 60.0
    miss_share: float = 0.05  # of audio that may wait longer
    utilization: float = 0.8  # of a replica's throughput to plan with
    headroom_replicas: int = 0
    idle_timeout_seconds: float = 600.0
    stale_after_seconds: float = 30.0
    window_seconds: float = 30.0  # audio that is decoded as one
    slots: int = 32  # windows that a replica decodes at once


@dataclass(frozen=True, slots=True)
class Look:
    """All sources of work together, as they were at one time."""

    at_seconds: float
    queued_audio_seconds: float
    in_flight_audio_seconds: float
    arrived_audio_seconds: float = 0.0  # since the look before
    arrived_requests: float = 0.0
    is_complete: bool = True  # False: a source did not tell, so the sums are lower bounds


@dataclass(frozen=True, slots=True)
class Fleet:
    """What serves and what is ordered; a replica that is about to be lost is in neither."""

    ready: int
    pending_lead_seconds: tuple[float, ...]  # of each ordered replica, how long until it serves
    throughput: float  # audio seconds per second of one replica, as learnt
    lead_seconds: float  # from order to serving, of a replica that is ordered now

    @property
    def size(self) -> int:
        """Replicas there and ordered."""
        return self.ready + len(self.pending_lead_seconds)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What holds whatever the work is: floors of pools and schedules, and what the budget pays for."""

    floor: int = 0
    affordable: int | None = None  # None: no budget


@dataclass(frozen=True, slots=True)
class Memory:
    """What earlier looks leave behind; the initial one knows nothing."""

    replicas: int | None = None  # decided last; None: nothing was decided yet
    worked_at_seconds: float = 0.0  # when there was work, or might have been
    whole_at_seconds: float = 0.0  # when nothing was on order
    kept: Steps = ()
    arrivals: Arrivals = field(default_factory=Arrivals)


class Cause(StrEnum):
    """What decided."""

    STEADY = "Steady"
    BACKLOG = "Backlog"
    KEPT_WARM = "KeptWarm"
    IDLE = "Idle"
    FLOOR = "Floor"
    LIMIT = "Limit"
    BUDGET = "Budget"
    STALE = "Stale"


@dataclass(frozen=True, slots=True)
class Terms:
    """Every term of a decision, for `status.scaling` and `transcriber explain`."""

    queued_audio_seconds: float | None  # None: not known
    in_flight_audio_seconds: float | None
    arrival_rate: float  # audio seconds per second
    throughput: float
    lead_seconds: float
    mean_request_audio_seconds: float = 0.0
    offered_load: float = 0.0  # arrival_rate / throughput, in replicas
    steady_replicas: int = 0
    supply_audio_seconds: float = 0.0  # that the fleet and what is ordered decode until lead and target wait are over
    gap_audio_seconds: float = 0.0  # work until then that they do not
    extra_replicas: int = 0  # that the gap calls for
    ready_replicas: int = 0
    ordered_replicas: int = 0
    headroom_replicas: int = 0
    kept_replicas: int = 0  # highest that was called for within a lead time


@dataclass(frozen=True, slots=True)
class Verdict:
    """The replicas decided on and why."""

    replicas: int
    called_for: int  # what the work calls for, before maxReplicas and budget
    cause: Cause
    sentence: str
    terms: Terms
    memory: Memory


@dataclass(frozen=True, slots=True)
class _Call:
    """A number of replicas that is called for, before bounds, and the clause that says why."""

    replicas: int
    cause: Cause
    why: str


def autoscale(policy: Policy, fleet: Fleet, look: Look | None, memory: Memory, bounds: Bounds, now_seconds: float) -> Verdict:
    """Decide the replicas at `now_seconds`; `look` None: nothing was heard."""
    before = _begun(memory, fleet, now_seconds)
    if look is None or not now_seconds - look.at_seconds <= policy.stale_after_seconds or not _can_be_computed(fleet, look):
        terms = Terms(None, None, before.arrivals.audio_rate, fleet.throughput, fleet.lead_seconds)
        call, after = _unseen(fleet, before, now_seconds)
    else:
        arrivals = learn(
            before.arrivals,
            look.at_seconds,
            look.arrived_requests,
            look.arrived_audio_seconds,
            is_lower_bound=not look.is_complete,
        )
        terms = _terms(policy, fleet, look, arrivals)
        call, after = _seen(policy, fleet, look, terms, replace(before, arrivals=arrivals), now_seconds)
    replicas, cause, sentence = _bounded(policy, bounds, call)
    return Verdict(
        replicas=replicas,
        called_for=call.replicas,
        cause=cause,
        sentence=sentence,
        terms=replace(terms, kept_replicas=after.kept[0][1] if after.kept else 0),
        memory=replace(after, replicas=replicas),
    )


def _begun(memory: Memory, fleet: Fleet, now_seconds: float) -> Memory:
    """Nothing known (a restart): the fleet counts as called for just now. Times that lie ahead (a clock set back) are now."""
    if memory.replicas is None:
        return Memory(fleet.size, now_seconds, now_seconds, ((now_seconds, fleet.size),))
    is_whole = not fleet.pending_lead_seconds
    return replace(
        memory,
        worked_at_seconds=min(memory.worked_at_seconds, now_seconds),
        whole_at_seconds=now_seconds if is_whole else min(memory.whole_at_seconds, now_seconds),
    )


def _can_be_computed(fleet: Fleet, look: Look) -> bool:
    work = (look.queued_audio_seconds, look.in_flight_audio_seconds, look.arrived_audio_seconds, look.arrived_requests)
    return all(0.0 <= figure <= MOST for figure in (*work, fleet.lead_seconds)) and 0.0 < fleet.throughput <= MOST


def _unseen(fleet: Fleet, memory: Memory, now_seconds: float) -> tuple[_Call, Memory]:
    """What is not seen may be work: the fleet stays, and neither the idle time nor the keep-warm time passes."""
    held = max(fleet.size, memory.replicas or 0)
    call = _Call(held, Cause.STALE, "what waits is not known")
    kept = _kept(memory.kept, held, fleet.lead_seconds, now_seconds)
    return call, replace(memory, kept=kept, worked_at_seconds=now_seconds)


def _seen(policy: Policy, fleet: Fleet, look: Look, terms: Terms, memory: Memory, now_seconds: float) -> tuple[_Call, Memory]:
    has_work = look.queued_audio_seconds + look.in_flight_audio_seconds + look.arrived_audio_seconds > NOTHING_SECONDS
    if has_work or not look.is_complete:
        memory = replace(memory, worked_at_seconds=now_seconds)
    idle_seconds = now_seconds - memory.worked_at_seconds
    if idle_seconds >= max(fleet.lead_seconds, policy.idle_timeout_seconds):
        return _Call(0, Cause.IDLE, f"no work for {idle_seconds:,.0f} s"), replace(memory, kept=())
    call = _called_for(policy, terms, is_active=has_work or fleet.size > 0)
    kept = _kept(memory.kept, call.replicas, fleet.lead_seconds, now_seconds)
    return _held(policy, fleet, look, call, kept[0][1], memory, now_seconds), replace(memory, kept=kept)


def _terms(policy: Policy, fleet: Fleet, look: Look, arrivals: Arrivals) -> Terms:
    rate, ordered = arrivals.audio_rate, len(fleet.pending_lead_seconds)
    batch_audio_seconds = policy.slots * policy.window_seconds
    load = rate / fleet.throughput
    steady = steady_replicas(
        load,
        policy.utilization,
        policy.target_wait_seconds,
        policy.miss_share,
        arrivals.dispersion(batch_audio_seconds),
        batch_audio_seconds / fleet.throughput,
    )
    demand = look.queued_audio_seconds + look.in_flight_audio_seconds + arrivals.sure_audio_rate * fleet.lead_seconds
    within_seconds = max(policy.target_wait_seconds, EARNING_LEADS * fleet.lead_seconds)
    supply = _supply(fleet, fleet.lead_seconds + within_seconds)
    gap = max(demand - supply, 0.0) if look.queued_audio_seconds > max(NOTHING_SECONDS, BUY_SHARE * policy.target_wait_seconds * fleet.ready * fleet.throughput) else 0.0
    extra = math.ceil(min(gap / (YIELD * fleet.throughput * within_seconds), MOST_REPLICAS))
    return Terms(
        queued_audio_seconds=look.queued_audio_seconds,
        in_flight_audio_seconds=look.in_flight_audio_seconds,
        arrival_rate=rate,
        throughput=fleet.throughput,
        lead_seconds=fleet.lead_seconds,
        mean_request_audio_seconds=arrivals.mean_audio_seconds,
        offered_load=load,
        steady_replicas=steady,
        supply_audio_seconds=supply,
        gap_audio_seconds=gap,
        extra_replicas=extra,
        ready_replicas=fleet.ready,
        ordered_replicas=ordered,
    )


def _supply(fleet: Fleet, horizon_seconds: float) -> float:
    """Return the seconds of audio that what is there and what is ordered decode within the horizon."""
    ordered = sum(max(0.0, horizon_seconds - max(SOONEST_SECONDS, lead)) for lead in fleet.pending_lead_seconds)
    return YIELD * fleet.throughput * (fleet.ready * horizon_seconds + ordered)


def _called_for(policy: Policy, terms: Terms, *, is_active: bool) -> _Call:
    work = (
        f"{terms.queued_audio_seconds:,.0f} s of audio wait and {terms.arrival_rate:,.1f} s arrive per second; "
        f"{terms.ready_replicas} ready replicas of {terms.throughput:,.0f} s/s"
    )
    if terms.ordered_replicas:
        work += f" and {terms.ordered_replicas} ordered"
    steady = max(terms.steady_replicas, int(is_active)) + policy.headroom_replicas * is_active
    deadline = terms.ready_replicas + terms.ordered_replicas + terms.extra_replicas
    if terms.extra_replicas and deadline > steady:
        return _Call(deadline, Cause.BACKLOG, f"{work} leave {terms.gap_audio_seconds:,.0f} s of audio too late")
    return _Call(steady, Cause.STEADY, f"{work} finish in time")


def _kept(steps: Steps, replicas: int, lead_seconds: float, now_seconds: float) -> Steps:
    """Add what is called for now to what was called for within a lead time (at most 1/14 of it longer).

    A replica that may be needed again is kept for as long as it would take to boot another. The first step is the highest.
    """
    width = lead_seconds / (STEPS - 2)
    higher = [(min(at, now_seconds), n) for at, n in steps if n > replicas and now_seconds - at <= lead_seconds + width]
    if not higher or now_seconds - higher[-1][0] >= width:
        higher.append((now_seconds, replicas))
    return tuple(higher)


def _held(policy: Policy, fleet: Fleet, look: Look, call: _Call, kept_replicas: int, memory: Memory, now_seconds: float) -> _Call:
    """Return the call, or more where replicas must not be given up yet."""
    if kept_replicas > call.replicas:
        call = _Call(kept_replicas, Cause.KEPT_WARM, f"{call.why}, but more was needed within {fleet.lead_seconds:,.0f} s")
    if not look.is_complete:
        held = max(fleet.size, memory.replicas or 0)
        return call if call.replicas >= held else _Call(held, Cause.STALE, f"{call.why}, but not all that waits is known")
    if call.replicas >= fleet.size:
        return call
    if fleet.pending_lead_seconds and now_seconds - memory.whole_at_seconds <= PATIENCE_LEADS * fleet.lead_seconds:
        return _Call(fleet.size, Cause.KEPT_WARM, f"{call.why}, but what is ordered comes first")
    drained = DRAINED_SHARE * policy.target_wait_seconds * fleet.ready * fleet.throughput
    if look.queued_audio_seconds > drained:
        return _Call(fleet.size, Cause.BACKLOG, f"{call.why}, but the queue is not drained")
    return call


def _bounded(policy: Policy, bounds: Bounds, call: _Call) -> tuple[int, Cause, str]:
    """Cut a call to what is allowed: floors win over maxReplicas and the budget."""
    floor = max(policy.min_replicas, bounds.floor)
    is_short_of_money = bounds.affordable is not None and bounds.affordable < policy.max_replicas
    ceiling = bounds.affordable if is_short_of_money and bounds.affordable is not None else policy.max_replicas
    replicas = max(floor, min(call.replicas, ceiling))
    sentence = f"{call.why[0].upper()}{call.why[1:]}: {call.replicas} wanted"
    if replicas > call.replicas:
        return replicas, Cause.FLOOR, f"{sentence}, {replicas} is the floor."
    if replicas < call.replicas and is_short_of_money:
        return replicas, Cause.BUDGET, f"{sentence}, the budget pays for {replicas}."
    if replicas < call.replicas:
        return replicas, Cause.LIMIT, f"{sentence}, {replicas} allowed."
    return replicas, call.cause, f"{sentence}."
