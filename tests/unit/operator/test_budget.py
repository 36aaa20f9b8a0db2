"""The bucket of a month's money: what it allows, what it remembers, and that no way of spending beats it."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transcriber_operator.decide.budget import BURST_HOURS, HOURS_PER_MONTH, Memory, allowance

PER_MONTH = 730.0  # an income of one dollar per hour
money = st.floats(0, 1000)


def spend(per_hour: float, hours: float, memory: Memory, per_month: float = PER_MONTH) -> tuple[float, Memory]:
    """What is allowed after so many hours of spending at this rate."""
    start = memory.at_seconds or 0.0
    found = allowance(None, per_month, per_hour, memory, start + hours * 3600)
    assert found.per_hour is not None
    return found.per_hour, found.memory


def full(per_month: float = PER_MONTH) -> Memory:
    return allowance(None, per_month, 0.0, Memory(), 0.0).memory


def test_without_a_budget_everything_is_allowed():
    assert allowance(None, None, 50.0, Memory(), 0.0).per_hour is None


def test_an_hourly_cap_stands_whatever_was_spent():
    assert allowance(20.0, None, 500.0, Memory(), 3600.0).per_hour == 20.0


def test_a_full_bucket_allows_a_burst_of_a_day_s_money_over_six_hours():
    assert allowance(None, PER_MONTH, 0.0, Memory(), 0.0).per_hour == pytest.approx(1 + 24 / 6)


def test_the_lower_of_both_caps_holds():
    assert allowance(2.0, PER_MONTH, 0.0, Memory(), 0.0).per_hour == 2.0
    assert allowance(20.0, PER_MONTH, 0.0, Memory(), 0.0).per_hour == pytest.approx(5.0)


def test_an_empty_bucket_allows_what_comes_in():
    allowed, _ = spend(5.0, 6.0, full())
    assert allowed == pytest.approx(1.0)


def test_what_floors_cost_above_it_is_paid_back():
    allowed, in_debt = spend(9.0, 5.0, full())
    assert allowed == 0.0
    assert spend(0.0, 40.0, in_debt)[0] == pytest.approx(5.0)


def test_a_debt_is_never_more_than_a_day_s_money():
    _, memory = spend(1000.0, 1000.0, full())
    assert memory.level == pytest.approx(-24.0)


def test_a_clock_that_goes_back_changes_nothing():
    before = allowance(None, PER_MONTH, 2.0, full(), 36_000.0)
    after = allowance(None, PER_MONTH, 2.0, before.memory, 10.0)
    assert after.per_hour == before.per_hour


def test_a_replica_does_not_come_and_go_with_every_cent():
    memory, replicas, changes = full(), 0, []
    for minute in range(7 * 24 * 60):
        allowed, memory = spend(0.7 * replicas, 1 / 60, memory)
        if int(allowed / 0.7) != replicas:
            replicas = int(allowed / 0.7)
            changes.append(minute)
    late = [minute for minute in changes if minute > 24 * 60]
    assert late, "an income between one replica and two moves between them"
    assert min(later - earlier for earlier, later in pairwise(late)) >= 45


def test_a_bucket_that_is_full_again_gives_all_it_has():
    _, memory = spend(1.5, 1.0, full())
    assert spend(0.0, 24.0, memory)[0] == pytest.approx(5.0)


def test_a_smaller_budget_empties_the_bucket_to_its_size():
    assert allowance(None, 73.0, 0.0, full(), 0.0).per_hour == pytest.approx(0.5)


def test_a_budget_of_nothing_allows_nothing():
    assert allowance(None, 0.0, 0.0, Memory(), 0.0).per_hour == 0.0


@given(per_month=st.floats(1, 10_000), steps=st.lists(st.floats(0.01, 50), min_size=1, max_size=60))
def test_who_spends_what_is_allowed_never_spends_more_than_the_income_and_one_burst(per_month: float, steps: list[float]):
    allowed, memory, spent, hours = 0.0, full(per_month), 0.0, 0.0
    for minutes in steps:
        spent += allowed * minutes / 60
        hours += minutes / 60
        allowed, memory = spend(allowed, minutes / 60, memory, per_month)
    income = per_month / HOURS_PER_MONTH
    assert spent <= income * (hours + BURST_HOURS) * (1 + 1e-9)


@given(money, money, st.lists(st.tuples(money, st.floats(0, 100)), max_size=20))
def test_what_is_allowed_is_never_negative_and_never_above_the_hourly_cap(
    per_hour: float, per_month: float, steps: list[tuple[float, float]]
):
    memory, now = Memory(), 0.0
    for spending, hours in steps:
        now += hours * 3600
        found = allowance(per_hour, per_month, spending, memory, now)
        memory = found.memory
        assert found.per_hour is not None
        assert 0 <= found.per_hour <= per_hour
