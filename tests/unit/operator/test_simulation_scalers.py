"""The formulas of the scalers that the operator's is compared with, in small tables."""

from dataclasses import replace
from math import ceil

import pytest

from transcriber_operator.decide.autoscale import Bounds, Fleet, Look, Memory, Policy, Verdict, autoscale
from transcriber_operator.decide.pools import PoolView
from transcriber_operator.simulation.scalers.hpa import (
    AverageValue,
    Signal,
    Utilization,
    average_value_replicas,
    behave,
    utilization_replicas,
)
from transcriber_operator.simulation.scalers.keda import Keda
from transcriber_operator.simulation.scalers.knative import Knative, mean_concurrency, within_delay
from transcriber_operator.simulation.scalers.kubeai import KubeAi
from transcriber_operator.simulation.scalers.own import Own
from transcriber_operator.simulation.view import Scaler, View

NOTHING = View(
    queued_windows=0,
    in_flight_windows=0,
    queued_audio_seconds=0.0,
    in_flight_audio_seconds=0.0,
    queued_requests=0,
    active_requests=0,
    arrived_audio_seconds=0.0,
    arrived_requests=0,
    active_request_seconds=0.0,
    busy_seconds=0.0,
    ready_seconds=0.0,
    desired=0,
    ready=0,
    starting_seconds=(),
    waiting=0,
    throughput=75.0,
    lead_seconds=230.0,
    pools=(),
)


def fleet(ready: int, **figures: object) -> View:
    return replace(NOTHING, desired=ready, ready=ready, **figures)  # type: ignore[arg-type]


def follow(scaler: Scaler[object], views: list[View], step_seconds: float | None = None) -> list[int]:
    """What is wanted of each view, each `step_seconds` after the one before; the fleet does as it is told at once."""
    state, wanted, desired = scaler.start(), [], views[0].desired
    for number, view in enumerate(views):
        now = number * (step_seconds or scaler.interval_seconds)
        told, state = scaler.decide(replace(view, desired=desired, ready=desired), state, now)
        desired = told.replicas
        wanted.append(desired)
    return wanted


@pytest.mark.parametrize(
    ("value", "target", "replicas", "expected"),
    [
        (100, 10, 5, 10),
        (101, 10, 5, 11),
        (109, 10, 10, 10),  # within 10 % of 10 per replica
        (111, 10, 10, 12),
        (91, 10, 10, 10),
        (89, 10, 10, 9),
        (0, 10, 10, 0),
        (1, 10, 0, 1),
    ],
)
def test_hpa_average_value_is_the_rounded_up_quotient_outside_of_the_tolerance(
    value: float, target: float, replicas: int, expected: int
) -> None:
    assert average_value_replicas(value, target, replicas) == expected


@pytest.mark.parametrize(
    ("busy", "ready", "starting", "expected"),
    [
        (1.0, 7, 0, 10),  # at most 1 / 0.7 of what is ready, however long the queue is
        (0.75, 10, 0, 10),  # tolerance
        (0.35, 10, 0, 5),
        (1.0, 7, 3, 10),  # those that start count as idle: what is there is enough
        (1.0, 7, 1, 10),
        (1.0, 7, 5, 12),  # more than enough: they stay
        (0.35, 10, 4, 5),
        (0.0, 0, 3, 3),  # nothing to measure
    ],
)
def test_hpa_utilization_multiplies_ready_replicas(busy: float, ready: int, starting: int, expected: int) -> None:
    assert utilization_replicas(busy, 0.7, ready, starting, ready + starting) == expected


@pytest.mark.parametrize(("replicas", "expected"), [(1, 5), (3, 7), (4, 8), (5, 10), (40, 80)])
def test_hpa_goes_up_by_the_double_or_four_at_most(replicas: int, expected: int) -> None:
    assert behave(1000, replicas, (), 0.0)[0] == expected


def test_hpa_goes_down_to_the_most_that_was_recommended_in_300_seconds() -> None:
    assert behave(1, 9, ((0.0, 7), (100.0, 4)), 299.0)[0] == 7
    assert behave(1, 9, ((0.0, 7), (100.0, 4)), 300.0)[0] == 4
    assert behave(1, 9, ((0.0, 12),), 10.0)[0] == 9


def test_hpa_keeps_the_fleet_that_it_finds_for_300_seconds() -> None:
    idle = [fleet(6)] * 30
    wanted = follow(AverageValue(Signal.WINDOWS, 10), idle)
    assert wanted.index(1) * 15.0 == 300.0


def test_hpa_never_goes_below_its_minimum() -> None:
    idle = [fleet(3, ready_seconds=45.0 * n) for n in range(30)]
    assert follow(AverageValue(Signal.WINDOWS, 10, min_replicas=1), idle)[-1] == 1
    assert follow(Utilization(0.7, min_replicas=2), idle)[-1] == 2


def test_hpa_utilization_takes_the_share_since_the_last_sync() -> None:
    views = [fleet(4, busy_seconds=60.0 * n, ready_seconds=60.0 * n) for n in range(3)]
    assert follow(Utilization(0.5), views)[1] == 8


@pytest.mark.parametrize(("signal", "value"), [(Signal.REQUESTS, 3), (Signal.WINDOWS, 15), (Signal.QUEUED_WINDOWS, 5)])
def test_signals_count_what_their_names_say(signal: Signal, value: int) -> None:
    assert signal.read(replace(NOTHING, queued_windows=5, in_flight_windows=10, active_requests=3)) == value


def test_keda_wakes_a_fleet_of_zero_with_a_single_replica_at_its_next_poll() -> None:
    work = replace(NOTHING, queued_windows=200)
    wanted = follow(Keda(Signal.WINDOWS, 10), [NOTHING, work, work, work])
    assert wanted[0] == wanted[1] == 0  # polls every 30 s, at 0 and 30
    assert wanted[2] == 5  # 1 by the poll, and its HPA adds at most 4


def test_keda_goes_to_zero_300_seconds_after_the_last_work_and_no_sooner() -> None:
    scaler = Keda(Signal.WINDOWS, 10)
    views = [replace(NOTHING, desired=1, in_flight_windows=1), *([NOTHING] * 30)]
    wanted = follow(scaler, views)
    assert wanted.index(0) * scaler.interval_seconds == 300.0
    assert follow(Keda(Signal.WINDOWS, 10, min_replicas=1), views)[-1] == 1


def test_keda_on_the_queue_alone_scales_a_busy_fleet_that_keeps_up_away() -> None:
    busy = replace(NOTHING, desired=5, in_flight_windows=80)
    assert follow(Keda(Signal.QUEUED_WINDOWS, 5), [busy] * 30)[-1] == 0
    assert follow(Keda(Signal.WINDOWS, 16), [busy] * 30)[-1] == 5


def test_knative_averages_over_its_window() -> None:
    samples = tuple((2.0 * n, 10.0 * 2.0 * n if n <= 27 else 10.0 * 54 + 40.0 * 2.0 * (n - 27)) for n in range(31))
    assert mean_concurrency(samples, 60.0) == pytest.approx((10 * 54 + 40 * 6) / 60)
    assert mean_concurrency(samples, 6.0) == pytest.approx(40.0)


def concurrency(level: float, seconds: int, begun: float = 0.0, ready: int = 0) -> list[View]:
    return [fleet(ready, active_request_seconds=begun + level * 2.0 * n) for n in range(seconds // 2)]


def test_knative_wants_concurrency_by_seven_tenths_of_its_target() -> None:
    assert follow(Knative(4), concurrency(20.0, 80, ready=6))[-1] == ceil(20 / 2.8)


def test_knative_panics_at_twice_the_ready_replicas_and_never_goes_down_meanwhile() -> None:
    calm = concurrency(2.8, 70, ready=1)
    burst = concurrency(28.0, 6, begun=calm[-1].active_request_seconds, ready=1)
    after = concurrency(0.0, 40, begun=burst[-1].active_request_seconds, ready=1)
    wanted = follow(Knative(4), calm + burst + after)
    assert max(wanted) > 3
    assert wanted[-1] == max(wanted)


def test_knative_at_most_halves_per_tick_and_keeps_its_last_replica_for_30_seconds() -> None:
    wanted = follow(Knative(4), concurrency(0.0, 60, ready=9))
    assert wanted[:4] == [4, 2, 1, 1]
    assert (wanted[17], wanted[18]) == (1, 0)


def test_knative_delays_going_down() -> None:
    decisions = within_delay(within_delay((), 9, 300.0, 0.0), 2, 300.0, 100.0)
    assert decisions[0][1] == 9
    assert within_delay(decisions, 2, 300.0, 301.0)[0][1] == 2
    assert within_delay(decisions, 2, 0.0, 101.0) == ((101.0, 2),)


def test_kubeai_averages_over_its_window_and_goes_down_at_the_third_time_in_a_row() -> None:
    views = [replace(NOTHING, active_requests=12)] + [replace(NOTHING, active_requests=1)] * 9
    wanted = follow(KubeAi(target_requests=3, window_seconds=60), views)
    assert wanted[:4] == [4, 4, 4, 2]  # of means 12, 6.5, 4.7 and 3.75
    assert wanted[-1] == 1


def test_kubeai_wakes_with_one_replica_as_soon_as_a_request_comes() -> None:
    views = [NOTHING] * 60 + [replace(NOTHING, active_requests=1)]
    assert follow(KubeAi(target_requests=100), views)[-1] == 1


def pool(name: str, **figures: object) -> PoolView:
    spot = {"is_spot": name == "spot", "weight": 100 if name == "spot" else 10, "price_per_hour": 0.5}
    return PoolView(name=name, floor=0, max_nodes=100, ready=0, **{"desired": 0, **spot, **figures})  # type: ignore[arg-type]


def test_own_hands_its_allotment_to_the_pools() -> None:
    scaler = Own(Policy(slots=16))
    view = replace(NOTHING, arrived_requests=2, queued_audio_seconds=600.0, pools=(pool("spot"), pool("on-demand")))
    wanted, _ = scaler.decide(view, scaler.start(), 5.0)
    assert wanted.replicas == 1
    assert wanted.by_pool == {"spot": 1, "on-demand": 0}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Fleet, Look]]:
    """What the operator's function was asked."""
    seen: list[tuple[Fleet, Look]] = []

    def spy(policy: Policy, fleet: Fleet, look: Look, memory: Memory, bounds: Bounds, now_seconds: float) -> Verdict:
        seen.append((fleet, look))
        return autoscale(policy, fleet, look, memory, bounds, now_seconds)

    monkeypatch.setattr("transcriber_operator.simulation.scalers.own.autoscale", spy)
    return seen


def test_own_tells_the_operator_what_came_since_the_look_before(asked: list[tuple[Fleet, Look]]) -> None:
    scaler, state = Own(Policy(slots=16)), Own(Policy()).start()
    for number in (1, 2):
        view = replace(NOTHING, arrived_audio_seconds=600.0 * number, arrived_requests=2 * number, pools=(pool("spot"),))
        _, state = scaler.decide(view, state, 5.0 * number)
    assert [(look.arrived_audio_seconds, look.arrived_requests) for _, look in asked] == [(600.0, 2), (600.0, 2)]


def test_own_counts_what_starts_by_what_is_left_and_what_has_no_node_by_a_whole_lead_time(asked: list[tuple[Fleet, Look]]) -> None:
    scaler = Own(Policy(slots=16))
    view = replace(NOTHING, starting_seconds=(100.0, 300.0), waiting=3, pools=(pool("spot"),))
    scaler.decide(view, scaler.start(), 5.0)
    scaler.decide(view, replace(scaler.start(), fallen_back=2), 5.0)
    assert asked[0][0].pending_lead_seconds == (130.0, 5.0, 230.0, 230.0, 230.0)
    assert asked[1][0].pending_lead_seconds == (130.0, 5.0, 230.0)  # on-demand ones stand in for the others


def test_own_orders_no_more_than_the_budget_pays_for() -> None:
    scaler = Own(Policy(slots=16), dollars_per_hour=1.6)
    view = replace(NOTHING, queued_audio_seconds=1e6, pools=(pool("spot"), replace(pool("on-demand"), price_per_hour=0.9)))
    wanted, _ = scaler.decide(view, scaler.start(), 5.0)
    assert wanted.by_pool == {"spot": 3, "on-demand": 0}


def test_own_keeps_the_floors_of_pools_without_any_work() -> None:
    scaler = Own(Policy(slots=16))
    view = replace(NOTHING, pools=(pool("spot"), replace(pool("on-demand"), floor=2)))
    wanted, _ = scaler.decide(view, scaler.start(), 5.0)
    assert wanted.by_pool is not None
    assert wanted.by_pool["on-demand"] == 2
