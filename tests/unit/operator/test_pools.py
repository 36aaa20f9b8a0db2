"""Allotting replicas to pools: floors, weights, money, and on-demand that stands in for spot and gives way to it again."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transcriber_operator.decide.pools import (
    Allotment,
    FallbackRule,
    Memory,
    PoolView,
    affordable,
    allot_with_fallback,
)
from transcriber_operator.decide.scaling_memory import ScalingMemory

RULE = FallbackRule(after_seconds=60.0, return_after_seconds=600.0)
SPOT = PoolView("spot", True, weight=100, floor=0, max_nodes=20, price_per_hour=1.0, desired=0, ready=0)
STEADY = PoolView("steady", False, weight=10, floor=1, max_nodes=5, price_per_hour=3.0, desired=1, ready=1)


def allot(
    *pools: PoolView,
    total: int,
    rule: FallbackRule | None = RULE,
    allowed: float | None = None,
    memory: Memory | None = None,
    now: float = 0.0,
) -> Allotment:
    return allot_with_fallback(pools, total, rule, allowed, memory or Memory(), now)


def spot(desired: int, *waiting: float, **parts: int) -> PoolView:
    """A spot pool that is asked for so many replicas, of which some have waited for a node so long; the others serve."""
    return replace(SPOT, desired=desired, ready=desired - len(waiting), waiting_seconds=waiting, **parts)


def steady(ready: int) -> PoolView:
    return replace(STEADY, desired=ready, ready=ready)


# Floors and weights.


def test_every_pool_has_its_floor_and_then_the_heavier_is_filled():
    assert allot(SPOT, STEADY, total=4).replicas == {"spot": 3, "steady": 1}
    assert allot(SPOT, STEADY, total=22).replicas == {"spot": 20, "steady": 2}


def test_floors_are_kept_where_less_is_wanted():
    assert allot(SPOT, STEADY, total=0).replicas == {"spot": 0, "steady": 1}


def test_full_pools_are_told_of():
    found = allot(SPOT, STEADY, total=30)
    assert (found.replicas, found.is_full) == ({"spot": 20, "steady": 5}, True)
    assert "Every pool is at maxNodes: 25 of 30 replicas." in found.sentences
    assert not allot(SPOT, STEADY, total=25).is_full


# Fallback.


def test_on_demand_stands_in_for_spot_that_does_not_come_and_spot_stays_asked_for():
    found = allot(spot(4, 61.0, 75.0), STEADY, total=5)
    assert found.replicas == {"spot": 4, "steady": 3}
    assert found.fallen_back == 2
    assert "Spot capacity does not come: spot lacks 2; 2 on-demand replicas stand in." in found.sentences


def test_before_its_time_spot_is_waited_for_and_the_time_is_told():
    found = allot(spot(4, 45.0, 20.0), STEADY, total=5, now=1000.0)
    assert found.fallen_back == 0
    assert found.changes_at_seconds == 1015.0


def test_two_refusals_are_not_waited_out():
    assert allot(spot(4, 5.0, refusals=1), STEADY, total=5).fallen_back == 0
    assert allot(spot(4, 5.0, refusals=2), STEADY, total=5).fallen_back == 1


def test_refusals_without_a_replica_that_waits_change_nothing():
    assert allot(spot(4, refusals=9), STEADY, total=5).fallen_back == 0


def test_a_node_that_boots_is_no_spot_that_does_not_come():
    assert allot(spot(4, 100.0, 90.0, arriving=2), STEADY, total=5).fallen_back == 0
    assert allot(spot(4, 100.0, 90.0, arriving=1), STEADY, total=5).fallen_back == 1


def test_without_a_rule_spot_is_waited_for():
    found = allot(spot(4, 999.0), STEADY, total=5, rule=None, memory=Memory(3))
    assert (found.replicas, found.memory, found.changes_at_seconds) == ({"spot": 4, "steady": 1}, Memory(), None)


def test_nobody_stands_in_for_replicas_that_are_not_wanted_any_more():
    assert allot(spot(4, *[999.0] * 4), steady(5), total=3, memory=Memory(4)).replicas == {"spot": 2, "steady": 3}
    assert allot(spot(4, 999.0, 999.0), STEADY, total=3).fallen_back == 0


def test_standing_in_ends_where_on_demand_is_full():
    found = allot(spot(9, *[99.0] * 9), STEADY, total=10)
    assert (found.replicas, found.fallen_back) == ({"spot": 9, "steady": 5}, 4)
    assert "9; 4 on-demand replicas" in found.sentences[0]


# Return.


def returning(now: float, memory: Memory, *waiting: float, ready: int = 3, total: int = 5) -> Allotment:
    return allot(spot(total - 1, *waiting), steady(ready), total=total, memory=memory, now=now)


def test_once_spot_is_whole_on_demand_stays_for_a_while_and_then_goes_one_by_one():
    found = returning(0.0, Memory(2))
    assert (found.fallen_back, found.changes_at_seconds) == (2, 600.0)
    assert returning(599.0, found.memory).fallen_back == 2
    found = returning(600.0, found.memory)
    assert (found.fallen_back, found.changes_at_seconds) == (1, 720.0)
    found = returning(719.0, found.memory, ready=2)
    assert found.fallen_back == 1
    found = returning(720.0, found.memory, ready=2)
    assert (found.fallen_back, found.changes_at_seconds) == (0, None)


def test_spot_that_goes_again_begins_the_time_anew():
    memory = returning(0.0, Memory(2)).memory
    memory = returning(300.0, memory, 61.0, 61.0).memory
    assert memory.return_at_seconds is None
    assert returning(301.0, memory).memory.return_at_seconds == 901.0


def test_replicas_that_have_just_begun_to_wait_do_not_hold_the_return_up():
    memory = returning(0.0, Memory(2)).memory
    assert returning(300.0, memory, 10.0, 10.0).memory == memory


def test_a_replica_that_is_made_anew_and_waits_again_is_no_spot_that_came():
    assert returning(0.0, Memory(2), 1.0, 1.0).memory == Memory(2, return_at_seconds=None, wanted=5)


def test_what_spot_still_lacks_is_stood_in_for_while_the_rest_is_given_back():
    memory, now = Memory(3), 0.0
    for now in range(0, 3000, 30):
        memory = returning(now, memory, 999.0, ready=1 + memory.stand_ins).memory
    assert memory == Memory(1, return_at_seconds=None, wanted=5)


def test_no_replica_is_given_back_that_is_needed_to_serve():
    memory = returning(0.0, Memory(2)).memory
    booting = replace(spot(4), ready=1)
    found = allot(booting, steady(3), total=5, memory=memory, now=700.0)
    assert (found.fallen_back, found.changes_at_seconds) == (2, None)


def test_when_less_is_wanted_what_stands_in_goes_with_it():
    memory = returning(0.0, Memory(2)).memory
    fewer = allot(spot(4), steady(3), total=4, memory=memory, now=5.0)
    assert fewer.replicas == {"spot": 3, "steady": 2}
    booting = allot(replace(spot(4), ready=0), steady(3), total=4, memory=memory, now=5.0)
    assert booting.replicas == {"spot": 3, "steady": 3}


# Money.


def test_the_budget_takes_the_cheapest_first_and_says_what_it_does_not_pay_for():
    found = allot(replace(SPOT, weight=1), STEADY, total=9, allowed=8.0)
    assert found.replicas == {"spot": 5, "steady": 1}
    assert found.is_over_budget
    assert "The budget of $8.00 per hour pays for 6 of 9 replicas." in found.sentences


def test_a_budget_that_pays_for_everything_leaves_the_weights_alone():
    found = allot(replace(SPOT, weight=1), STEADY, total=4, allowed=12.0)
    assert (found.replicas, found.is_over_budget, found.sentences) == ({"spot": 0, "steady": 4}, False, ())


def test_where_weights_cost_too_much_as_many_replicas_come_from_cheaper_pools():
    found = allot(replace(SPOT, weight=1), STEADY, total=4, allowed=6.0)
    assert (found.replicas, found.is_over_budget) == ({"spot": 3, "steady": 1}, False)


def test_floors_are_kept_whatever_they_cost():
    found = allot(SPOT, STEADY, total=5, allowed=0.5)
    assert (found.replicas, found.is_over_budget) == ({"spot": 0, "steady": 1}, True)
    assert "The minReplicas of the pools cost $3.00 per hour, more than the budget allows; they are kept." in found.sentences


def test_standing_in_is_dropped_before_anything_else():
    starving = spot(4, 99.0, 99.0)
    assert allot(starving, STEADY, total=5, allowed=13.0).replicas == {"spot": 4, "steady": 3}
    found = allot(starving, STEADY, total=5, allowed=8.0)
    assert (found.replicas, found.is_over_budget) == ({"spot": 4, "steady": 2}, True)
    assert "The budget does not pay for 1 more that should stand in." in found.sentences


def test_spot_that_does_not_come_is_not_paid_for():
    assert allot(spot(4, *[99.0] * 4), STEADY, total=5, allowed=7.0).replicas == {"spot": 4, "steady": 2}


def test_what_was_dropped_for_want_of_money_does_not_come_back_without_need():
    dropped = allot(spot(4), steady(3), total=5, allowed=7.0, memory=Memory(2))
    assert (dropped.fallen_back, dropped.memory.return_at_seconds) == (0, None)
    assert allot(spot(4), STEADY, total=5, allowed=99.0, memory=dropped.memory).fallen_back == 0


def test_a_pool_of_unknown_price_counts_as_nothing_and_is_told_of():
    unpriced = replace(SPOT, price_per_hour=None)
    found = allot(unpriced, STEADY, total=20, allowed=3.0)
    assert found.replicas == {"spot": 19, "steady": 1}
    assert "The price of pool spot is not known and counts as 0; set its pricePerHour." in found.sentences
    assert allot(unpriced, STEADY, total=20).sentences == ()


@pytest.mark.parametrize(("allowed", "wanted"), [(None, None), (0.0, 1), (3.0, 1), (8.9, 6), (9.0, 7), (26.0, 22), (1000.0, 25)])
def test_the_money_pays_for_so_many(allowed: float | None, wanted: int | None):
    assert affordable([SPOT, STEADY], allowed) == wanted


def test_the_memory_comes_back_from_json():
    memory = ScalingMemory(pools=Memory(3, 12.5, 7))
    assert ScalingMemory.model_validate_json(memory.model_dump_json()) == memory


# Whatever the pools are.


@st.composite
def views(draw: st.DrawFn) -> tuple[PoolView, ...]:
    found = []
    for index in range(draw(st.integers(1, 4))):
        most, desired = draw(st.integers(1, 8)), draw(st.integers(0, 8))
        waiting = draw(st.lists(st.floats(0, 300), max_size=8))
        found.append(
            PoolView(
                name=f"pool-{index}",
                is_spot=draw(st.booleans()),
                weight=draw(st.integers(1, 3)),
                floor=draw(st.integers(0, most)),
                max_nodes=most,
                price_per_hour=draw(st.none() | st.floats(0.1, 5)),
                desired=desired,
                ready=draw(st.integers(0, desired)),
                waiting_seconds=tuple(waiting),
                refusals=draw(st.integers(0, 3)),
                arriving=draw(st.integers(0, 3)),
            )
        )
    return tuple(found)


memories = st.builds(Memory, st.integers(0, 9), st.none() | st.floats(0, 2000), st.integers(0, 40))
money = st.none() | st.floats(0, 60)
totals = st.integers(0, 40)


@given(views(), totals, st.none() | st.just(RULE), money, memories, st.floats(0, 2000))
def test_no_pool_is_below_its_floor_or_above_its_nodes_and_only_stand_ins_exceed_what_is_wanted(
    pools: tuple[PoolView, ...],
    total: int,
    rule: FallbackRule | None,
    allowed: float | None,
    memory: Memory,
    now: float,
):
    found = allot_with_fallback(pools, total, rule, allowed, memory, now)
    assert all(pool.floor <= found.replicas[pool.name] <= pool.max_nodes for pool in pools)
    floors, most = sum(pool.floor for pool in pools), sum(pool.max_nodes for pool in pools)
    assert sum(found.replicas.values()) - found.fallen_back <= max(min(total, most), floors)
    if allowed is None:
        assert sum(found.replicas.values()) - found.fallen_back == max(min(total, most), floors)
    assert found.changes_at_seconds is None or found.changes_at_seconds > now


@given(views(), totals, st.floats(0, 60), memories, st.floats(0, 2000))
def test_what_is_there_and_may_come_costs_no_more_than_is_allowed_beyond_the_floors(
    pools: tuple[PoolView, ...], total: int, allowed: float, memory: Memory, now: float
):
    found = allot_with_fallback(pools, total, RULE, allowed, memory, now)
    floors = sum(pool.floor * pool.price for pool in pools)
    starving = sum(len(pool.waiting_seconds) * pool.price for pool in pools if pool.is_spot)
    cost = sum(found.replicas[pool.name] * pool.price for pool in pools)
    assert cost <= max(allowed, floors) + starving + 1e-6


@given(views(), totals, st.floats(0, 60))
def test_what_is_affordable_is_allotted_in_full(pools: tuple[PoolView, ...], total: int, allowed: float):
    most = affordable(pools, allowed)
    assert most is not None
    wanted = min(total, most)
    found = allot_with_fallback(pools, wanted, None, allowed, Memory(), 0.0)
    assert sum(found.replicas.values()) == max(wanted, sum(pool.floor for pool in pools))


@given(views(), totals, money, memories, st.floats(0, 2000))
def test_deciding_again_at_once_decides_the_same(
    pools: tuple[PoolView, ...], total: int, allowed: float | None, memory: Memory, now: float
):
    first = allot_with_fallback(pools, total, RULE, allowed, memory, now)
    second = allot_with_fallback(pools, total, RULE, allowed, first.memory, now)
    assert second.replicas == first.replicas
    assert second.memory == first.memory


# A market over time.


@dataclass
class Market:
    """Spot nodes that come only while there are any, each `boot` seconds after it is asked for; on-demand always does."""

    capacity: int
    boot: float = 100.0

    asked: tuple[int, ...] = ()  # when each spot replica was asked for, in whole seconds; the oldest get the nodes
    views: tuple[PoolView, PoolView] = (SPOT, STEADY)

    def run(self, total: int, seconds: int, memory: Memory, start: int = 0) -> tuple[list[Allotment], Memory]:
        found = []
        for now in range(start, start + seconds, 5):
            found.append(allot_with_fallback(self.views, total, RULE, None, memory, float(now)))
            self.follow(found[-1].replicas, now)
            memory = found[-1].memory
        return found, memory

    def follow(self, replicas: Mapping[str, int], now: int) -> None:
        wanted = replicas["spot"]
        self.asked = (*self.asked, *[now] * wanted)[:wanted]
        held = min(self.capacity, sum(now - asked >= self.boot for asked in self.asked))
        waiting = tuple(float(now - asked) for asked in self.asked[held:])
        booting = min(self.capacity, wanted) - held
        self.views = (
            replace(SPOT, desired=wanted, ready=held, waiting_seconds=waiting, arriving=booting),
            replace(STEADY, desired=replicas["steady"], ready=replicas["steady"]),
        )


def test_through_a_shortage_what_is_wanted_serves_and_afterwards_spot_serves_alone():
    market = Market(capacity=0)
    found, memory = market.run(5, 300, Memory())
    assert found[-1].replicas == {"spot": 4, "steady": 5}
    market.capacity = 20
    found, memory = market.run(5, 2000, memory, start=300)
    given_back = [made.fallen_back for made in found]
    assert given_back == sorted(given_back, reverse=True)
    assert (given_back[0], given_back[-1], memory.return_at_seconds) == (4, 0, None)


def test_a_load_that_moves_all_the_time_does_not_keep_on_demand_for_ever():
    market = Market(capacity=0)
    _, memory = market.run(5, 300, Memory())
    market.capacity = 20
    for start in range(300, 6300, 150):
        _, memory = market.run(5 + start // 150 % 2, 150, memory, start=start)
    assert memory.stand_ins == 0


def test_spot_that_comes_and_goes_within_the_time_of_return_does_not_move_on_demand():
    market = Market(capacity=0)
    _, memory = market.run(5, 300, Memory())
    for start in range(300, 6300, 400):
        market.capacity = 20 if start // 400 % 2 else 0
        found, memory = market.run(5, 400, memory, start=start)
        assert {made.fallen_back for made in found} == {4}
