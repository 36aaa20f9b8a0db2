"""Rates of arrivals: averages, changes, batches handed in at once, and sources that do not tell everything."""

import math
import random
from dataclasses import astuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transcriber_operator.decide.arrivals import Arrivals, learn

EVERY = 5.0


def told(counts: list[float], audio: float = 300.0, before: Arrivals | None = None) -> Arrivals:
    """Learn from looks of so many requests each."""
    arrivals = learn(Arrivals(), 0.0, 0.0, 0.0, is_lower_bound=False) if before is None else before
    for count in counts:
        arrivals = learn(arrivals, (arrivals.seen_at_seconds or 0.0) + EVERY, count, count * audio, is_lower_bound=False)
    return arrivals


def test_a_constant_rate_is_found_within_five_minutes():
    assert told([5.0] * 60).audio_rate == pytest.approx(300.0, rel=0.05)


@pytest.mark.parametrize(("before", "after"), [(5.0, 40.0), (40.0, 5.0), (5.0, 0.0), (0.0, 5.0)])
def test_a_change_of_the_rate_is_found_within_two_minutes(before: float, after: float):
    settled = told([before] * 720)
    assert told([after] * 24, before=settled).rate == pytest.approx(after / EVERY, rel=0.3, abs=0.05)


def test_a_rate_that_differs_by_chance_stays_a_slow_average():
    settled = told([5.0] * 720)
    assert told([8.0, 2.0, 7.0, 6.0], before=settled).rate == pytest.approx(1.0, rel=0.05)


def test_a_batch_that_is_handed_in_at_once_is_no_rate():
    settled = told([1.0] * 720)
    assert told([2500.0], before=settled).rate < 2.5 * settled.rate
    assert told([2500.0] + [1.0] * 60, before=settled).rate == pytest.approx(settled.rate, rel=0.2)


def test_the_length_of_a_batch_does_not_outweigh_the_lengths_before():
    settled = told([1.0] * 720)
    after = learn(settled, 3605.0, 500.0, 500 * 3600.0, is_lower_bound=False)
    assert after.mean_audio_seconds < 1.2 * settled.mean_audio_seconds


def test_a_lower_bound_lowers_no_rate():
    settled = told([5.0] * 720)
    arrivals = settled
    for look in range(1, 100):
        arrivals = learn(arrivals, 3600.0 + look * EVERY, 0.0, 0.0, is_lower_bound=True)
    assert (arrivals.rate, arrivals.fast_rate) == (settled.rate, settled.fast_rate)


def test_the_same_look_counts_once():
    settled = told([5.0] * 10)
    assert learn(settled, 50.0, 5.0, 1500.0, is_lower_bound=False) == settled


def test_audio_without_a_count_of_requests_counts_as_one():
    arrivals = learn(told([0.0]), 10.0, 0.0, 60.0, is_lower_bound=False)
    assert (arrivals.requests, arrivals.mean_audio_seconds) == (1.0, 60.0)


def test_a_clock_that_is_set_back_keeps_the_age_of_the_rate():
    settled = told([5.0] * 720)
    back = learn(settled, 10.0, 5.0, 1500.0, is_lower_bound=False)
    assert (back.rate, back.changed_at_seconds - 10.0) == (settled.rate, settled.changed_at_seconds - 3600.0)
    assert told([5.0] * 10, before=back).rate == pytest.approx(1.0, rel=0.01)


def test_lengths_have_mean_and_variance():
    rng, arrivals = random.Random(1), told([])
    for look in range(1, 20_000):
        arrivals = learn(arrivals, look * EVERY, 1.0, rng.expovariate(1 / 300.0), is_lower_bound=False)
    assert arrivals.mean_audio_seconds == pytest.approx(300.0, rel=0.1)
    assert math.sqrt(arrivals.variance) == pytest.approx(300.0, rel=0.2)
    assert arrivals.dispersion(480.0) == pytest.approx(600.0 / 480.0, rel=0.3)  # E[x^2] / E[x] is twice the mean


@given(st.lists(st.tuples(st.floats(-10.0, 1e4), st.floats(0.0, 1e12), st.floats(0.0, 1e12), st.booleans()), max_size=30))
def test_figures_stay_finite(looks: list[tuple[float, float, float, bool]]):
    arrivals, at = Arrivals(), 0.0
    for passed, requests, audio, is_lower_bound in looks:
        at += passed
        arrivals = learn(arrivals, at, requests, audio, is_lower_bound=is_lower_bound)
        assert all(math.isfinite(figure) for figure in astuple(arrivals) if figure is not None)
        assert min(arrivals.rate, arrivals.mean_audio_seconds, arrivals.variance) >= 0.0
