"""How many replicas the work calls for: seconds of audio that wait, arrive and are decoded, against what is there and ordered.

Pure: the state that earlier looks leave behind is passed in and handed back. The largest of three sizes is called for:
- steady: what the rate of arrivals needs in the long run (arrivals.py, queueing.py), and `headroom_replicas` more;
- deadline: once the queue is long, what is there and ordered, and as many more as it takes so that all work that is due by then is
  decoded soon after an order of now serves. What is ordered already counts from the time it will serve, so a backlog that grows
  during a boot is not bought for twice;
- one, while there is work.
It is kept for as long as a boot takes: a replica that may be needed again costs no more than to boot another.
"""

import math
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from transcriber_operator.decide.arrivals import Arrivals, learn
from transcriber_operator.decide.queueing import MOST_REPLICAS, steady_replicas

YIELD: Final = 0.95  # of a replica's throughput that a backlog is decoded with: the last batches are not full
SOONEST_SECONDS: Final = 5.0  # until an ordered replica serves, however overdue it is
CALM_SHARE: Final = 0.5  # of the target wait, within which the ready replicas decode a queue that is not long
EARNING_LEADS: Final = 0.2  # lead times of work, at least, that a replica is ordered for
PATIENCE_LEADS: Final = 2.0  # lead times for which replicas that are ordered hold the fleet
STEPS: Final = 16  # at most, of the staircase of what was called for
NOTHING_SECONDS: Final = 0.001  # audio; less is the rounding of sums
MOST: Final = 1e12  # a figure beyond it is not computed with

Steps = tuple[tuple[float, int], ...]  # (time, replicas called for): times rise, replicas fall


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
    ready_replicas: int
    ordered_replicas: int
    mean_request_audio_seconds: float = 0.0
    offered_load: float = 0.0  # arrival_rate / throughput, in replicas
    steady_replicas: int = 0  # without headroom
    headroom_replicas: int = 0
    horizon_seconds: float = 0.0  # that a backlog is looked at: the target wait, but long enough for an order of now to help
    demand_audio_seconds: float = 0.0  # that is due by then: the backlog, and what arrives a target wait before
    supply_audio_seconds: float = 0.0  # that what is there and ordered decodes by then
    gap_audio_seconds: float = 0.0  # demand beyond supply, while the queue is long
    extra_replicas: int = 0  # that the gap calls for
    kept_replicas: int = 0  # the most that was called for within a lead time


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
    """Decide the replicas at `now_seconds`; `look` None: nothing was heard.

    Of a look that is stale or incomplete, and of figures that cannot be computed with, the fleet never gets smaller. Floors win
    over maxReplicas and over the budget.
    """
    before = _begun(memory, fleet, now_seconds)
    if look is None or not now_seconds - look.at_seconds <= policy.stale_after_seconds or not _can_be_computed(fleet, look):
        call, terms, after = _unseen(fleet, before, now_seconds)
    else:
        call, terms, after = _seen(policy, fleet, look, before, now_seconds)
    replicas, cause, sentence = _bounded(policy, bounds, call)
    terms = replace(terms, kept_replicas=after.kept[0][1] if after.kept else 0)
    return Verdict(replicas, call.replicas, cause, sentence, terms, replace(after, replicas=replicas))


def _begun(memory: Memory, fleet: Fleet, now_seconds: float) -> Memory:
    """Nothing known (a restart): the fleet counts as called for just now. Times that lie ahead (a clock set back) are now."""
    if memory.replicas is None:
        return replace(
            memory,
            replicas=fleet.size,
            worked_at_seconds=now_seconds,
            whole_at_seconds=now_seconds,
            kept=((now_seconds, fleet.size),),
        )
    is_whole = not fleet.pending_lead_seconds
    return replace(
        memory,
        worked_at_seconds=min(memory.worked_at_seconds, now_seconds),
        whole_at_seconds=now_seconds if is_whole else min(memory.whole_at_seconds, now_seconds),
    )


def _can_be_computed(fleet: Fleet, look: Look) -> bool:
    work = (look.queued_audio_seconds, look.in_flight_audio_seconds, look.arrived_audio_seconds, look.arrived_requests)
    return all(0.0 <= figure <= MOST for figure in (*work, fleet.lead_seconds)) and 0.0 < fleet.throughput <= MOST


def _unseen(fleet: Fleet, memory: Memory, now_seconds: float) -> tuple[_Call, Terms, Memory]:
    """What is not seen may be work: the fleet stays, and neither the idle time nor the keep-warm time passes."""
    held = max(fleet.size, memory.replicas or 0)
    kept = _kept(memory.kept, held, fleet.lead_seconds, now_seconds)
    call = _Call(held, Cause.STALE, "what waits is not known, so that no replica goes")
    terms = Terms(
        queued_audio_seconds=None,
        in_flight_audio_seconds=None,
        arrival_rate=memory.arrivals.audio_rate,
        throughput=fleet.throughput,
        lead_seconds=fleet.lead_seconds,
        ready_replicas=fleet.ready,
        ordered_replicas=len(fleet.pending_lead_seconds),
    )
    return call, terms, replace(memory, kept=kept, worked_at_seconds=now_seconds)


def _seen(policy: Policy, fleet: Fleet, look: Look, memory: Memory, now_seconds: float) -> tuple[_Call, Terms, Memory]:
    arrivals = learn(
        memory.arrivals,
        look.at_seconds,
        look.arrived_requests,
        look.arrived_audio_seconds,
        is_lower_bound=not look.is_complete,
    )
    has_work = look.queued_audio_seconds + look.in_flight_audio_seconds + look.arrived_audio_seconds > NOTHING_SECONDS
    worked_at = now_seconds if has_work or not look.is_complete else memory.worked_at_seconds
    memory = replace(memory, arrivals=arrivals, worked_at_seconds=worked_at)
    idle_seconds = now_seconds - worked_at
    is_idle = idle_seconds >= max(fleet.lead_seconds, policy.idle_timeout_seconds)
    # The last replicas wait out the idle timeout, but none is ordered for it.
    terms = _terms(policy, fleet, look, arrivals, is_active=has_work or (fleet.size > 0 and not is_idle))
    if is_idle:
        return _Call(0, Cause.IDLE, f"no work for {idle_seconds:,.0f} s"), terms, replace(memory, kept=())
    call = _called_for(terms)
    kept = _kept(memory.kept, call.replicas, fleet.lead_seconds, now_seconds)
    return _held(policy, fleet, look, terms, call, kept[0][1], memory, now_seconds), terms, replace(memory, kept=kept)


def _terms(policy: Policy, fleet: Fleet, look: Look, arrivals: Arrivals, *, is_active: bool) -> Terms:
    rate = arrivals.audio_rate
    batch_audio_seconds = policy.slots * policy.window_seconds
    steady = steady_replicas(
        rate / fleet.throughput,
        policy.utilization,
        policy.target_wait_seconds,
        policy.miss_share,
        arrivals.dispersion(batch_audio_seconds),
        batch_audio_seconds / fleet.throughput,
    )
    lead_seconds = max(fleet.lead_seconds, SOONEST_SECONDS)
    horizon_seconds = max(policy.target_wait_seconds, (1.0 + EARNING_LEADS) * lead_seconds)
    due_of_arrivals = rate * (horizon_seconds - policy.target_wait_seconds)
    demand = look.queued_audio_seconds + look.in_flight_audio_seconds + due_of_arrivals
    supply = _supply(fleet, horizon_seconds)
    is_long = look.queued_audio_seconds > max(_calm_audio_seconds(policy, fleet), NOTHING_SECONDS)
    gap = max(demand - supply - NOTHING_SECONDS, 0.0) if is_long else 0.0
    supply_of_one = YIELD * fleet.throughput * (horizon_seconds - lead_seconds)
    return Terms(
        queued_audio_seconds=look.queued_audio_seconds,
        in_flight_audio_seconds=look.in_flight_audio_seconds,
        arrival_rate=rate,
        throughput=fleet.throughput,
        lead_seconds=fleet.lead_seconds,
        ready_replicas=fleet.ready,
        ordered_replicas=len(fleet.pending_lead_seconds),
        mean_request_audio_seconds=arrivals.mean_audio_seconds,
        offered_load=rate / fleet.throughput,
        steady_replicas=max(steady, int(is_active)),
        headroom_replicas=policy.headroom_replicas if is_active else 0,
        horizon_seconds=horizon_seconds,
        demand_audio_seconds=demand,
        supply_audio_seconds=supply,
        gap_audio_seconds=gap,
        extra_replicas=math.ceil(min(gap / supply_of_one, MOST_REPLICAS)),
    )


def _supply(fleet: Fleet, horizon_seconds: float) -> float:
    """Return the seconds of audio that what is there and what is ordered decode within the horizon."""
    ordered = sum(max(0.0, horizon_seconds - max(SOONEST_SECONDS, lead)) for lead in fleet.pending_lead_seconds)
    return YIELD * fleet.throughput * (fleet.ready * horizon_seconds + ordered)


def _calm_audio_seconds(policy: Policy, fleet: Fleet) -> float:
    """Return the seconds of audio beyond which a queue is long: for a shorter one nothing is bought, with a longer none goes."""
    return CALM_SHARE * policy.target_wait_seconds * fleet.ready * fleet.throughput


def _called_for(terms: Terms) -> _Call:
    work = f"{terms.queued_audio_seconds:,.0f} s of audio wait and {terms.arrival_rate:,.1f} s arrive per second"
    steady = terms.steady_replicas + terms.headroom_replicas
    deadline = terms.ready_replicas + terms.ordered_replicas + terms.extra_replicas
    if terms.extra_replicas and deadline > steady:
        fleet = f"{terms.ready_replicas} ready and {terms.ordered_replicas} ordered replicas of {terms.throughput:,.0f} s/s"
        return _Call(deadline, Cause.BACKLOG, f"{work}; {fleet} leave {terms.gap_audio_seconds:,.0f} s too late")
    enough = f"{terms.steady_replicas} replica{'s' * (terms.steady_replicas != 1)} of {terms.throughput:,.0f} s/s will do"
    headroom = f" with {terms.headroom_replicas} of headroom" if terms.headroom_replicas else ""
    ordered = f", {terms.ordered_replicas} ordered already" if terms.ordered_replicas else ""
    return _Call(steady, Cause.STEADY, f"{work}; {enough}{headroom}{ordered}")


def _kept(steps: Steps, replicas: int, lead_seconds: float, now_seconds: float) -> Steps:
    """Add what is called for now to what was within a lead time (or up to 1/14 of it before); the first step is the highest."""
    kept_seconds = max(lead_seconds, SOONEST_SECONDS)
    width = kept_seconds / (STEPS - 2)
    higher = [(min(at, now_seconds), most) for at, most in steps if most > replicas and now_seconds - at <= kept_seconds + width]
    if not higher or now_seconds - higher[-1][0] >= width:
        higher.append((now_seconds, replicas))
    return tuple(higher)


def _held(
    policy: Policy, fleet: Fleet, look: Look, terms: Terms, call: _Call, kept: int, memory: Memory, now_seconds: float
) -> _Call:
    """Return the call, or more where replicas must not go yet."""
    if kept > call.replicas:
        call = _Call(kept, Cause.KEPT_WARM, f"{call.why}, but it took {kept} less than {fleet.lead_seconds:,.0f} s ago")
    least = fleet.size if look.is_complete else max(fleet.size, memory.replicas or 0)
    if call.replicas >= least:
        return call
    if not look.is_complete:
        return _Call(least, Cause.STALE, f"{call.why}, but not all work is known, so that none goes")
    if fleet.pending_lead_seconds and now_seconds - memory.whole_at_seconds <= PATIENCE_LEADS * fleet.lead_seconds:
        return _Call(least, Cause.KEPT_WARM, f"{call.why}, but none goes before those serve")
    if look.queued_audio_seconds > _calm_audio_seconds(policy, fleet):
        return _Call(least, Cause.BACKLOG, f"{call.why}, but none goes before the queue is short")
    needed = min(_without_gap(terms), fleet.size)
    if call.replicas < needed:
        return _Call(needed, Cause.BACKLOG, f"{call.why}, but with fewer than {needed} what waits would call for more again")
    return call


def _without_gap(terms: Terms) -> int:
    """Return the replicas that decode all that is due, were they there already."""
    return math.ceil(min(terms.demand_audio_seconds / (YIELD * terms.throughput * terms.horizon_seconds), MOST_REPLICAS))


def _bounded(policy: Policy, bounds: Bounds, call: _Call) -> tuple[int, Cause, str]:
    """Return the replicas that are allowed, what decided them, and the sentence."""
    floor = max(policy.min_replicas, bounds.floor)
    sentence = f"{call.why[0].upper()}{call.why[1:]}: {call.replicas} wanted"
    if call.replicas < floor:
        return floor, Cause.FLOOR, f"{sentence}, {floor} is the floor."
    ceiling, cause, limit = policy.max_replicas, Cause.LIMIT, "maxReplicas allows"
    if bounds.affordable is not None and bounds.affordable < ceiling:
        ceiling, cause, limit = bounds.affordable, Cause.BUDGET, "the budget pays for"
    if call.replicas <= ceiling:
        return call.replicas, call.cause, f"{sentence}."
    over = f", {floor} is the floor" if floor > ceiling else ""
    return max(floor, ceiling), cause, f"{sentence}, {limit} {ceiling}{over}."
