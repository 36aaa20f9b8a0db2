"""How long drafts are: the length with most tokens a second, learnt per kind of row, given up where it does not pay."""

import random
from collections.abc import Sequence
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.test_exactness import decode, random_request
from tests.engine.toy import toy_pair
from transcriber_engine.draft_length import Acceptance, Costs, Expectation, choose_lengths, expected_tokens, fit_costs

pytestmark = pytest.mark.usefixtures("one_thread")

CHEAP_DRAFT = Costs(draft_base=0.005, draft_per_row=0.0005, verify_base=0.02, verify_per_row=0.001, verify_per_token=0.003)
DEAR_DRAFT = Costs(draft_base=0.02, draft_per_row=0.002, verify_base=0.02, verify_per_row=0.001, verify_per_token=0.003)

rates = st.floats(0.0, 1.0)


def costs() -> st.SearchStrategy[Costs]:
    part = st.floats(1e-4, 1e-2)
    return st.builds(Costs, part, part, part, part, part)


@given(acceptance=rates, count=st.integers(0, 16))
def test_a_cycle_is_expected_to_commit_one_token_and_at_most_all_drafts_more(acceptance: float, count: int) -> None:
    assert 1.0 <= expected_tokens(acceptance, count) <= count + 1.0


def tokens_per_second(acceptances: Sequence[float], lengths: Sequence[int], costs: Costs) -> float:
    return sum(map(expected_tokens, acceptances, lengths)) / costs.cycle_seconds(lengths)


def test_a_better_draft_is_made_longer_and_a_bad_one_not_at_all() -> None:
    lengths = [choose_lengths([rate], [16], CHEAP_DRAFT)[0] for rate in (0.0, 0.3, 0.6, 0.9, 1.0)]
    assert lengths == sorted(lengths)
    assert lengths[0] == 0
    assert lengths[-1] == 16


@given(rows=st.lists(st.tuples(rates, st.integers(0, 3)), min_size=1, max_size=3), costs=costs())
def test_no_other_lengths_commit_more_tokens_a_second(rows: list[tuple[float, int]], costs: Costs) -> None:
    acceptances, most = [rate for rate, _ in rows], [cap for _, cap in rows]
    chosen = choose_lengths(acceptances, most, costs)
    assert all(length <= cap for length, cap in zip(chosen, most, strict=True))
    others = [tokens_per_second(acceptances, lengths, costs) for lengths in product(*(range(cap + 1) for cap in most))]
    assert tokens_per_second(acceptances, chosen, costs) == pytest.approx(max(others))


def test_rows_side_by_side_draft_each_as_long_as_it_is_good() -> None:
    long, short, none = choose_lengths([0.95, 0.6, 0.05], [16] * 3, CHEAP_DRAFT)
    assert long > short > none == 0


def test_a_draft_that_costs_more_than_it_brings_does_not_pay() -> None:
    assert all(choose_lengths([0.8] * 4, [8] * 4, CHEAP_DRAFT))
    assert not any(choose_lengths([0.8] * 4, [8] * 4, DEAR_DRAFT))


def test_costs_are_read_off_measurements() -> None:
    verify = {(rows, width): 0.02 + rows * (0.001 + 0.003 * width) for rows in (1, 8) for width in (1, 9)}
    costs = fit_costs({1: 0.0055, 8: 0.009}, verify)
    assert costs.draft_base == pytest.approx(0.005)
    assert costs.draft_per_row == pytest.approx(0.0005)
    assert costs.verify_base == pytest.approx(0.02)
    assert costs.verify_per_row == pytest.approx(0.001)
    assert costs.verify_per_token == pytest.approx(0.003)


def test_a_new_row_starts_where_earlier_rows_of_its_kind_ended() -> None:
    kind = Expectation()
    for _ in range(20):
        row = Acceptance(kind)
        for _ in range(10):
            row.observe(accepted=0, offered=4)
    assert Acceptance(kind).rate < 0.1
    assert Acceptance(Expectation()).rate > 0.5


def test_a_row_of_a_new_kind_starts_where_rows_of_all_kinds_stand() -> None:
    of_all = Expectation()
    known = Acceptance(Expectation(of_all))
    for _ in range(20):
        known.observe(accepted=0, offered=4)
    assert Acceptance(Expectation(of_all)).rate < 0.3


def test_a_draft_that_is_always_wrong_is_given_up_within_a_few_tokens() -> None:
    row = Acceptance(Expectation())
    cycles = 0
    while choose_lengths([row.rate], [8], CHEAP_DRAFT) != [0]:
        row.observe(accepted=0, offered=1)
        cycles += 1
    assert cycles <= 6


def test_a_cycle_without_drafts_says_nothing_of_the_draft() -> None:
    row = Acceptance(Expectation())
    before = row.rate
    row.observe(accepted=0, offered=0)
    assert row.rate == before


def test_a_draft_that_is_always_wrong_is_nearly_never_asked() -> None:
    pair = toy_pair(3, draft_noise=50.0)
    requests = [random_request(random.Random(seed)) for seed in range(120)]
    alone, _ = decode(pair, requests, slots=1, source="none", most=0)
    _, eager = decode(pair, requests, slots=4, source="model", most=4)
    learnt, frugal = decode(pair, requests, slots=4, source="model", most=4, costs=DEAR_DRAFT)
    assert [row.tokens for row in learnt] == [row.tokens for row in alone]
    assert 0 < frugal.counters.draft_tokens < eager.counters.draft_tokens / 4
