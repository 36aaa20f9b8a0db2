"""The scaler: what it calls for, what it keeps, and what it never does whatever it is told."""

import itertools
import json
import math
import random
from dataclasses import asdict, dataclass, replace
from statistics import fmean

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from transcriber_operator.decide.arrivals import Arrivals
from transcriber_operator.decide.autoscale import (
    Bounds,
    Cause,
    Fleet,
    Look,
    Memory,
    Policy,
    Verdict,
    autoscale,
)

LEAD = 230.0
THROUGHPUT = 77.0
EVERY = 5.0  # seconds between looks
FREE = Bounds()
USUAL = Policy()
NEW = Memory()
RESTED = Memory(replicas=0, worked_at_seconds=999.0, whole_at_seconds=999.0)

counts = st.integers(0, 60)
seconds = st.floats(0.0, 1e7)
looks = st.builds(
    Look,
    at_seconds=st.floats(990.0, 1000.0),
    queued_audio_seconds=seconds,
    in_flight_audio_seconds=seconds,
    arrived_audio_seconds=seconds,
    arrived_requests=st.integers(0, 5000).map(float),
)
fleets = st.builds(
    Fleet,
    ready=counts,
    pending_lead_seconds=st.lists(st.floats(-100.0, 1000.0), max_size=20).map(tuple),
    throughput=st.floats(0.5, 1000.0),
    lead_seconds=st.floats(0.0, 3600.0),
)
policies = st.builds(
    Policy,
    min_replicas=st.integers(0, 5),
    max_replicas=st.integers(5, 100),
    target_wait_seconds=st.floats(1.0, 3600.0),
    utilization=st.floats(0.1, 1.0),
    headroom_replicas=st.integers(0, 3),
    slots=st.integers(1, 64),
)
bounds = st.builds(Bounds, floor=st.integers(0, 8), affordable=st.none() | counts)
rates = st.builds(
    Arrivals,
    seen_at_seconds=st.floats(900.0, 990.0),
    changed_at_seconds=st.floats(0.0, 900.0),
    fast_rate=st.floats(0.0, 10.0),
    rate=st.floats(0.0, 10.0),
    requests=st.floats(0.0, 1000.0),
    mean_audio_seconds=st.floats(0.0, 3600.0),
    variance=st.floats(0.0, 1e7),
)
memories = st.builds(
    Memory,
    replicas=st.none() | counts,
    worked_at_seconds=st.floats(0.0, 1100.0),
    whole_at_seconds=st.floats(0.0, 1100.0),
    kept=st.lists(counts, max_size=16, unique=True).map(
        lambda kept: tuple((900.0 + step, n) for step, n in enumerate(sorted(kept, reverse=True)))
    ),
    arrivals=rates,
)


@dataclass
class Running:
    """A fleet that follows its scaler: orders serve after a lead time, and what serves decodes what waits."""

    ready: int
    policy: Policy = USUAL
    bounds: Bounds = FREE
    memory: Memory = NEW
    now: float = 1e6
    queued: float = 0.0
    throughput: float = THROUGHPUT
    ordered_at: tuple[float, ...] = ()
    ordered: int = 0  # in all

    def step(self, arrived: float = 0.0, requests: float = 0.0, *, tells: bool = True) -> Verdict:
        self.now += EVERY
        self.ready += sum(self.now - at >= LEAD for at in self.ordered_at)
        self.ordered_at = tuple(at for at in self.ordered_at if self.now - at < LEAD)
        could = self.ready * self.throughput * EVERY
        decoded = min(self.queued + arrived, could)
        self.queued += arrived - decoded
        look = Look(self.now, self.queued, decoded, arrived, requests) if tells else None
        verdict = autoscale(self.policy, self.fleet, look, self.memory, self.bounds, self.now)
        self.memory = verdict.memory
        self._follow(verdict.replicas)
        return verdict

    def run(self, duration: float, requests_per_second: float = 0.0, audio: float = 0.0, rng: random.Random | None = None):
        verdicts = []
        for _ in range(round(duration / EVERY)):
            requests = poisson(rng, requests_per_second * EVERY) if rng else requests_per_second * EVERY
            verdicts.append(self.step(requests * audio, requests))
        return verdicts

    @property
    def fleet(self) -> Fleet:
        return Fleet(self.ready, tuple(LEAD - (self.now - at) for at in self.ordered_at), self.throughput, LEAD)

    def _follow(self, wanted: int) -> None:
        missing = wanted - self.fleet.size
        if missing >= 0:
            self.ordered_at += (self.now,) * missing
            self.ordered += missing
            return
        given_up = min(-missing, len(self.ordered_at))
        self.ordered_at = self.ordered_at[: len(self.ordered_at) - given_up]
        self.ready -= -missing - given_up


def poisson(rng: random.Random, mean: float) -> float:
    count, left = 0, mean - rng.expovariate(1.0)
    while left > 0:
        count, left = count + 1, left - rng.expovariate(1.0)
    return float(count)


def changes(verdicts: list[Verdict]) -> int:
    sizes = [verdict.replicas for verdict in verdicts]
    return sum(before != after for before, after in itertools.pairwise(sizes))


def once(fleet: Fleet, look: Look | None, policy: Policy = USUAL, memory: Memory | None = None, bounds: Bounds = FREE) -> Verdict:
    """Decide at 1000 s; without `memory` the scaler has run for long, and has nothing to keep."""
    return autoscale(policy, fleet, look, RESTED if memory is None else memory, bounds, 1000.0)


def waiting(audio: float, **other: object) -> Look:
    return Look(1000.0, audio, 0.0, **other)  # type: ignore[arg-type]


# Whatever it is told.


@given(policies, fleets, st.none() | looks, memories, bounds)
def test_bounds_are_kept_and_the_floor_wins_over_the_budget(
    policy: Policy, fleet: Fleet, look: Look | None, memory: Memory, limits: Bounds
):
    verdict = once(fleet, look, policy, memory, limits)
    floor = max(policy.min_replicas, limits.floor)
    assert verdict.replicas >= floor
    assert verdict.replicas <= max(floor, policy.max_replicas)
    if limits.affordable is not None:
        assert verdict.replicas <= max(floor, limits.affordable)


@given(policies, fleets, looks, memories, st.floats(0.0, 1e6))
def test_a_longer_queue_never_calls_for_fewer(policy: Policy, fleet: Fleet, look: Look, memory: Memory, more: float):
    longer = replace(look, queued_audio_seconds=look.queued_audio_seconds + more)
    assert once(fleet, longer, policy, memory).called_for >= once(fleet, look, policy, memory).called_for


@given(policies, fleets, looks, memories)
def test_a_stale_a_missing_or_an_incomplete_look_never_lowers_replicas(policy: Policy, fleet: Fleet, look: Look, memory: Memory):
    stale = replace(look, at_seconds=1000.0 - policy.stale_after_seconds - 0.1)
    for told in (None, stale, replace(look, is_complete=False)):
        verdict = once(fleet, told, replace(policy, max_replicas=100_000), memory)
        assert verdict.replicas >= max(fleet.size, memory.replicas or 0)


@given(policies, fleets, looks, memories)
def test_an_incomplete_look_still_raises_replicas_as_far_as_it_tells(policy: Policy, fleet: Fleet, look: Look, memory: Memory):
    incomplete = replace(look, is_complete=False)
    assert once(fleet, incomplete, policy, memory).called_for >= once(fleet, look, policy, memory).called_for


@given(policies, fleets, looks, memories, st.lists(st.floats(0.0, 400.0), min_size=1, max_size=5))
def test_what_is_ordered_is_credited(policy: Policy, fleet: Fleet, look: Look, memory: Memory, leads: list[float]):
    ordered = replace(fleet, pending_lead_seconds=(*fleet.pending_lead_seconds, *leads))
    with_order, without = once(ordered, look, policy, memory).terms, once(fleet, look, policy, memory).terms
    assert with_order.extra_replicas <= without.extra_replicas


@given(policies, fleets, looks, memories)
def test_an_order_that_was_made_at_once_is_not_made_again(policy: Policy, fleet: Fleet, look: Look, memory: Memory):
    extra = once(fleet, look, policy, memory).terms.extra_replicas
    assume(extra < 10_000)
    made = replace(fleet, pending_lead_seconds=(*fleet.pending_lead_seconds, *[max(fleet.lead_seconds, 5.0)] * extra))
    assert once(made, look, policy, memory).terms.extra_replicas == 0


@given(fleets, looks, st.sampled_from([math.nan, math.inf, -1.0, 1e300]), st.integers(0, 5))
def test_figures_that_cannot_be_computed_with_hold_the_fleet(fleet: Fleet, look: Look, wrong: float, place: int):
    names = ("queued_audio_seconds", "in_flight_audio_seconds", "arrived_audio_seconds", "arrived_requests")
    if place < len(names):
        look = replace(look, **{names[place]: wrong})
    else:
        fleet = replace(fleet, **{("throughput", "lead_seconds")[place - len(names)]: wrong})
    verdict = once(fleet, look, Policy(max_replicas=1000))
    assert (verdict.replicas, verdict.cause) == (fleet.size, Cause.STALE)
    assert all(math.isfinite(figure) for figure in asdict(verdict.memory.arrivals).values() if figure is not None)


def test_a_look_of_an_unknown_time_is_stale():
    assert once(Fleet(3, (), 77.0, LEAD), replace(waiting(0.0), at_seconds=math.nan)).cause is Cause.STALE


@given(policies, fleets, st.lists(st.tuples(st.floats(0.0, 100.0), looks), max_size=20))
def test_memory_is_small_and_survives_json(policy: Policy, fleet: Fleet, told: list[tuple[float, Look]]):
    memory, now = Memory(), 1000.0
    for passed, look in told:
        now += passed
        memory = autoscale(policy, fleet, replace(look, at_seconds=now), memory, FREE, now).memory
        assert len(memory.kept) <= 16
    assert len(json.dumps(asdict(memory), allow_nan=False)) < 1500


@given(st.lists(st.tuples(st.floats(1.0, 300.0), st.integers(0, 50)), min_size=1, max_size=60))
def test_a_staircase_holds_what_was_called_for_within_a_lead_time(called: list[tuple[float, int]]):
    policy, memory, now, so_far = Policy(max_replicas=1000, utilization=1.0), Memory(), 1000.0, []
    for passed, replicas in called:
        now += passed
        # A rate is not learnt here: the queue alone calls, over a fleet of nothing.
        look = Look(now, replicas * 0.95 * THROUGHPUT * 0.2 * LEAD, 1.0)
        verdict = autoscale(policy, Fleet(0, (), THROUGHPUT, LEAD), look, memory, FREE, now)
        memory = verdict.memory
        so_far.append((now, replicas))
        assert verdict.called_for >= max(n for at, n in so_far if now - at <= LEAD)
        assert verdict.called_for <= max(1, *(n + 1 for at, n in so_far if now - at <= LEAD * 15 / 14 + 0.01))


def test_a_staircase_stays_short_however_many_steps_go_down():
    memory, policy = NEW, Policy(max_replicas=1000)
    for step in range(300):
        look = Look(1000.0 + step, (300 - step) * THROUGHPUT * 60.0, 1.0)
        memory = autoscale(policy, Fleet(0, (), THROUGHPUT, LEAD), look, memory, FREE, look.at_seconds).memory
    assert 10 <= len(memory.kept) <= 16


# Work.


def test_two_hundred_files_of_a_second_add_no_replica_to_a_fleet_of_one():
    running = Running(ready=1)
    running.run(600.0, 0.01, 30.0)
    running.step(arrived=200.0, requests=200.0)
    assert running.run(300.0, 0.01, 30.0)[-1].replicas == 1
    assert running.ordered == 0


def test_a_burst_of_two_hundred_files_of_an_hour_is_ordered_in_one_decision():
    running = Running(ready=1, policy=Policy(max_replicas=1000))
    running.run(600.0, 0.01, 30.0)
    verdict = running.step(arrived=200 * 3600.0, requests=200.0)
    at_once = running.ordered
    assert verdict.cause is Cause.BACKLOG
    assert at_once > 50
    running.run(LEAD - EVERY, 0.01, 30.0)
    assert running.ordered <= at_once + 1


def test_the_same_backlog_is_bought_for_once_while_the_order_boots():
    running = Running(ready=2)
    running.run(900.0, 0.3, 300.0)
    ordered = running.ordered
    first = running.step(arrived=60_000.0, requests=200.0)
    assert first.replicas > 2
    bought = running.ordered - ordered
    running.run(LEAD - EVERY, 0.3, 300.0)
    assert running.ordered - ordered == bought


def test_a_queue_that_the_fleet_finishes_in_time_buys_nothing():
    batch = Policy(target_wait_seconds=1800.0)
    in_time = 0.95 * 1800.0 * 2 * 95.0
    assert once(Fleet(2, (), 95.0, LEAD), waiting(in_time - 1.0), batch).terms.extra_replicas == 0
    assert once(Fleet(2, (), 95.0, LEAD), waiting(in_time + 1.0), batch).replicas == 3


def test_a_short_queue_buys_nothing_whatever_rate_is_feared():
    rush = replace(RESTED, arrivals=Arrivals(seen_at_seconds=995.0, rate=2.0, fast_rate=2.0, mean_audio_seconds=300.0))
    short, long = 0.5 * 60.0 * 4 * THROUGHPUT - 1.0, 0.5 * 60.0 * 4 * THROUGHPUT + 1.0
    assert once(Fleet(4, (), THROUGHPUT, LEAD), waiting(short), memory=rush).terms.extra_replicas == 0
    assert once(Fleet(4, (), THROUGHPUT, LEAD), waiting(long), memory=rush).terms.extra_replicas > 0


def test_a_fleet_of_zero_is_woken_to_what_the_backlog_needs_not_to_one():
    assert once(Fleet(0, (), THROUGHPUT, LEAD), waiting(1.0)).replicas == 1
    assert once(Fleet(0, (), THROUGHPUT, LEAD), waiting(50_000.0)).replicas > 3


def test_headroom_is_there_only_while_there_is_work():
    policy = Policy(headroom_replicas=2)
    assert once(Fleet(0, (), THROUGHPUT, LEAD), waiting(0.0), policy).replicas == 0
    assert once(Fleet(0, (), THROUGHPUT, LEAD), waiting(1.0), policy).replicas == 3


def test_the_fleet_grows_to_the_rate_that_arrives():
    running = Running(ready=1)
    verdict = running.run(3600.0, 1.0, 300.0)[-1]  # 300 s of audio per second, 3.9 replicas
    assert verdict.terms.arrival_rate == pytest.approx(300.0, rel=0.02)
    assert verdict.replicas == 5


# What is kept.


def test_idle_goes_to_zero_after_the_timeout_and_not_before():
    running = Running(ready=2, policy=Policy(idle_timeout_seconds=600.0))
    running.run(1200.0, 0.2, 300.0)
    quiet_at = running.now
    verdicts = running.run(1500.0)
    gone = next(step for step, verdict in enumerate(verdicts, 1) if verdict.replicas == 0) * EVERY
    drained = 2 * EVERY
    assert 600.0 <= gone <= 600.0 + drained
    assert verdicts[-1].cause is Cause.IDLE
    assert running.now > quiet_at


def test_idle_keeps_the_floor_and_min_replicas():
    idle = Memory(replicas=4, worked_at_seconds=0.0, whole_at_seconds=999.0)
    assert once(Fleet(4, (), 77.0, LEAD), waiting(0.0), memory=idle).replicas == 0
    assert once(Fleet(4, (), 77.0, LEAD), waiting(0.0), Policy(min_replicas=1), idle).replicas == 1
    assert once(Fleet(4, (), 77.0, LEAD), waiting(0.0), memory=idle, bounds=Bounds(floor=3)).replicas == 3


def test_idle_time_does_not_pass_while_nothing_is_heard():
    running = Running(ready=1, policy=Policy(idle_timeout_seconds=600.0))
    running.run(300.0, 0.2, 30.0)
    for _ in range(400):
        assert running.step(tells=False).replicas == 1
    assert running.step().replicas == 1


def test_a_restart_holds_the_fleet_for_a_lead_time():
    running = Running(ready=9)
    verdicts = running.run(LEAD, 0.1, 30.0)
    assert {verdict.replicas for verdict in verdicts} == {9}
    assert running.run(60.0, 0.1, 30.0)[-1].replicas == 1


def test_a_restart_over_nothing_orders_nothing():
    assert {verdict.replicas for verdict in Running(ready=0).run(60.0)} == {0}


def test_a_clock_that_is_set_back_keeps_nothing_for_longer_than_a_lead_time():
    running = Running(ready=9)
    running.run(900.0, 0.5, 30.0)
    running.step(arrived=600_000.0, requests=20_000.0)
    running.now -= 1e5
    running.ordered_at = ()
    running.queued = 0.0
    assert running.run(2 * LEAD, 0.5, 30.0)[-1].replicas < 9


def test_nothing_is_given_up_while_a_replica_is_ordered():
    known = Memory(replicas=5, worked_at_seconds=999.0, whole_at_seconds=900.0)
    assert once(Fleet(4, (10.0,), 77.0, LEAD), waiting(1.0), memory=known).replicas == 5
    assert once(Fleet(5, (), 77.0, LEAD), waiting(1.0), memory=known).replicas == 1


def test_an_order_that_never_comes_does_not_hold_the_fleet_for_ever():
    known = Memory(replicas=5, worked_at_seconds=999.0, whole_at_seconds=1000.0 - 3 * LEAD)
    assert once(Fleet(4, (5.0,), 77.0, LEAD), waiting(1.0), memory=known).replicas == 1


def test_nothing_is_given_up_before_the_queue_is_drained():
    drained = 0.5 * 60.0 * 5 * 77.0
    assert once(Fleet(5, (), 77.0, LEAD), waiting(drained + 1.0)).replicas == 5
    assert once(Fleet(5, (), 77.0, LEAD), waiting(drained - 1.0)).replicas < 5


@pytest.mark.parametrize("seed", range(8))
def test_constant_load_with_noise_does_not_flap(seed: int):
    running = Running(ready=4)
    rng = random.Random(seed)
    running.run(1800.0, 0.8, 300.0, rng)
    verdicts = running.run(4 * 3600.0, 0.8, 300.0, rng)  # 3.1 replicas
    assert changes(verdicts) <= 6
    assert fmean(verdict.replicas for verdict in verdicts) < 4.2  # 4 are needed


def test_a_square_wave_as_long_as_a_lead_time_does_not_flap():
    running = Running(ready=4)
    for _ in range(10):
        settled = running.run(LEAD / 2, 1.2, 300.0) + running.run(LEAD / 2, 0.2, 300.0)
    waves = [verdict for _ in range(40) for verdict in running.run(LEAD / 2, 1.2, 300.0) + running.run(LEAD / 2, 0.2, 300.0)]
    assert {verdict.replicas for verdict in waves} == {settled[-1].replicas}


@pytest.mark.parametrize("seed", range(4))
def test_a_noisy_square_wave_as_long_as_a_lead_time_is_not_followed(seed: int):
    rng, running = random.Random(seed), Running(ready=4)
    waves = [v.replicas for _ in range(50) for v in running.run(LEAD / 2, 1.2, 300.0, rng) + running.run(LEAD / 2, 0.2, 300.0, rng)]
    settled = waves[len(waves) // 5 :]
    assert max(settled) - min(settled) <= 3  # the wave itself is one of four replicas


# What is said.


def test_a_decision_says_its_deciding_numbers():
    verdict = once(Fleet(2, (100.0,), 95.0, LEAD), waiting(1800.0), memory=Memory(3, 999.0, 999.0, ((990.0, 3),)))
    assert verdict.sentence == (
        "1,800 s of audio wait and 0.0 s arrive per second; 1 replica of 95 s/s will do, 1 ordered already, "
        "but it took 3 less than 230 s ago: 3 wanted."
    )


@pytest.mark.parametrize(
    ("policy", "limits", "cause", "end"),
    [
        (Policy(max_replicas=4), FREE, Cause.LIMIT, "maxReplicas allows 4."),
        (Policy(max_replicas=4), Bounds(affordable=2), Cause.BUDGET, "the budget pays for 2."),
        (Policy(), Bounds(floor=3, affordable=2), Cause.BUDGET, "the budget pays for 2, 3 is the floor."),
        (Policy(max_replicas=1000), Bounds(floor=999), Cause.FLOOR, "999 is the floor."),
    ],
)
def test_a_bound_that_decides_is_named(policy: Policy, limits: Bounds, cause: Cause, end: str):
    verdict = once(Fleet(1, (), 77.0, LEAD), waiting(100_000.0), policy, bounds=limits)
    assert verdict.cause is cause
    assert verdict.sentence.endswith(end)


def test_replicas_that_drain_a_burst_only_go_once_they_are_not_called_for_again():
    policy, throughput, lead = Policy(max_replicas=20, target_wait_seconds=20.0, min_replicas=1), 90.0, 11.0
    queue, memory, ready, booting = 7200.0, Memory(), 1, list[float]()
    decided = []
    for now in range(0, 300, 5):
        ready += sum(at <= now for at in booting)
        booting = [at for at in booting if at > now]
        fleet = Fleet(ready, tuple(at - now for at in booting), throughput, lead)
        verdict = autoscale(policy, fleet, Look(float(now), queue, 90.0 if queue else 0.0), memory, Bounds(), float(now))
        memory = verdict.memory
        booting += [now + lead] * max(verdict.replicas - fleet.size, 0)
        ready -= max(fleet.size - verdict.replicas, 0)
        queue = max(queue - 5 * throughput * ready, 0.0)
        decided.append(verdict.replicas)
    most = decided.index(max(decided))
    assert decided[most:] == sorted(decided[most:], reverse=True)
    assert decided[-1] == 1
