"""Staffing for a rate: no fewer than carry it, and few enough that wait."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transcriber_operator.decide.queueing import steady_replicas

HALF_SECOND = 0.5


def staffed(load: float, utilization: float = 0.8, wait: float = 60.0, share: float = 0.05, batch: float = 6.2) -> int:
    return steady_replicas(load, utilization, wait, share, 1.0, batch)


def test_no_load_needs_no_replica():
    assert staffed(0.0) == 0


def test_one_replica_is_planned_at_its_utilization():
    assert (staffed(0.79), staffed(0.81)) == (1, 2)


def test_a_large_fleet_is_planned_with_a_smaller_share_of_spare():
    assert staffed(100.0) == 103  # 100 + 0.25 sqrt(100), not 125


# P(W > t) of M/M/n with a mean service of 1: Erlang's C times exp(-(n - a) t); the formula's decay is 2 / (dispersion batch).
@pytest.mark.parametrize(("share", "servers"), [(0.51, 2), (0.50, 3), (0.12, 3), (0.022, 4), (0.020, 5), (0.001, 6)])
def test_the_tail_of_the_wait_is_that_of_erlang(share: float, servers: int):
    # a = 1.5: C(2) = 0.643, C(3) = 0.237, C(4) = 0.075, C(5) = 0.020, times exp(-0.5 (n - a))
    assert steady_replicas(1.5, 1.0, HALF_SECOND, share, 2.0, 1.0) == servers


@given(st.floats(0.0, 300.0), st.floats(0.0, 50.0), st.floats(0.1, 1.0), st.floats(1.0, 600.0), st.floats(0.001, 0.5))
def test_more_load_never_needs_fewer_and_all_of_it_is_carried(
    load: float, more: float, utilization: float, wait: float, share: float
):
    needed = staffed(load, utilization, wait, share)
    assert needed >= load
    assert staffed(load + more, utilization, wait, share) >= needed


def test_what_cannot_be_built_is_cut():
    assert staffed(1e300) == 10_000
