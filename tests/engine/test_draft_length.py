"""How long drafts are: the length with most tokens a second, learnt per kind of row, given up where it does not pay."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.test_exactness import decode, random_request
from tests.engine.toy import toy_pair
from transcriber_engine.draft_length import Acceptance, Costs, Expectation, choose_length, expected_tokens, fit_costs, pays

pytestmark = pytest.mark.usefixtures("one_thread")

CHEAP_DRAFT = Costs(draft_base=0.005, draft_per_row=0.0005, verify_base=0.02, verify_per_token=0.003)
DEAR_DRAFT = Costs(draft_base=0.02, draft_per_row=0.002, verify_base=0.02, verify_per_token=0.003)

rates = st.floats(0.0, 1.0)


@given(acceptance=rates, count=st.integers(0, 16))
def test_a_cycle_is_expected_to_commit_one_token_and_at_most_all_drafts_more(acceptance: float, count: int) -> None:
    assert 1.0 <= expected_tokens(acceptance, count) <= count + 1.0


def test_a_better_draft_is_made_longer_and_a_bad_one_not_at_all() -> None:
    lengths = [choose_length([rate], 0, CHEAP_DRAFT, 16) for rate in (0.0, 0.3, 0.6, 0.9, 1.0)]
    assert lengths == sorted(lengths)
    assert lengths[0] == 0
    assert lengths[-1] == 16


@given(acceptances=st.lists(rates, min_size=1, max_size=8), resting=st.integers(0, 8), most=st.integers(0, 16))
def test_no_other_length_commits_more_tokens_a_second(acceptances: list[float], resting: int, most: int) -> None:
    def tokens_per_second(count: int) -> float:
        tokens = sum(expected_tokens(a, count) for a in acceptances) + resting
        return tokens / CHEAP_DRAFT.cycle_seconds(len(acceptances), resting, count)

    chosen = choose_length(acceptances, resting, CHEAP_DRAFT, most)
    assert tokens_per_second(chosen) == max(map(tokens_per_second, range(most + 1)))


def test_rows_that_rest_make_long_drafts_of_the_others_dearer() -> None:
    assert choose_length([0.9], 15, CHEAP_DRAFT, 16) < choose_length([0.9], 0, CHEAP_DRAFT, 16)


def test_a_draft_that_costs_more_than_it_brings_does_not_pay() -> None:
    assert pays(0.8, 4, CHEAP_DRAFT, 8)
    assert not pays(0.8, 4, DEAR_DRAFT, 8)


def test_costs_are_read_off_measurements() -> None:
    verify = {(rows, width): 0.02 + 0.003 * rows * width for rows in (1, 8) for width in (1, 9)}
    costs = fit_costs({1: 0.0055, 8: 0.009}, verify)
    assert costs.draft_base == pytest.approx(0.005)
    assert costs.draft_per_row == pytest.approx(0.0005)
    assert costs.verify_base == pytest.approx(0.02)
    assert costs.verify_per_token == pytest.approx(0.003)


def test_a_new_row_starts_where_earlier_rows_of_its_kind_ended() -> None:
    kind = Expectation()
    for _ in range(20):
        row = Acceptance(kind)
        for _ in range(10):
            row.observe(accepted=0, offered=4)
    assert Acceptance(kind).rate < 0.1
    assert Acceptance(Expectation()).rate > 0.5


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
