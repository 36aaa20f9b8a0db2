"""The simulator against theory: queues whose waits are known, and work that is never lost."""

from dataclasses import dataclass, replace
from math import factorial, sqrt
from random import Random

import pytest

from transcriber_operator.decide.autoscale import Policy
from transcriber_operator.simulation.engine import Simulation, simulate
from transcriber_operator.simulation.fleet import Deployment, Replica, Supply
from transcriber_operator.simulation.scalers.hpa import Signal
from transcriber_operator.simulation.scalers.keda import Keda
from transcriber_operator.simulation.scalers.own import Own
from transcriber_operator.simulation.trace import Trace, draw_trace
from transcriber_operator.simulation.view import View, Wanted
from transcriber_operator.simulation.work import Batch, Work
from transcriber_operator.simulation.world import ON_DEMAND, SPOT, LeadTime, Market, Service, World

ONE_SECOND = Service(fixed_seconds=0.4, per_window_seconds=0.6, slots=1)


@dataclass(frozen=True)
class Fixed:
    """As many replicas as at first; or what a table of times says."""

    replicas: int
    later: tuple[tuple[float, int], ...] = ()
    interval_seconds: float = 5.0
    splits_pools: bool = False

    def start(self) -> None:
        return None

    def decide(self, view: View, state: None, now_seconds: float) -> tuple[Wanted, None]:
        due = [count for at, count in self.later if now_seconds >= at]
        return Wanted(due[-1] if due else self.replicas), None


def poisson(files_per_second: float, windows: int, files: int, seed: int = 1) -> Trace:
    random, now, at = Random(seed), 0.0, []
    for _ in range(files):
        now += random.expovariate(files_per_second)
        at.append(now)
    return Trace("poisson", tuple(at), (30.0 * windows,) * files, now, Market())


def files(*arrivals: tuple[float, float], market: Market | None = None, horizon: float = 1000.0) -> Trace:
    at, audio = zip(*arrivals, strict=True)
    return Trace("files", at, audio, horizon, market or Market())


def fixed_world(service: Service = ONE_SECOND, lead_seconds: float = 1e-6) -> World:
    return World(service=service, lead=LeadTime(lead_seconds, 1e-9))


def erlang_c(servers: int, load: float) -> float:
    waiting = load**servers / factorial(servers) * servers / (servers - load)
    return waiting / (sum(load**k / factorial(k) for k in range(servers)) + waiting)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_one_replica_with_one_slot_waits_as_an_m_d_1_queue(load: float) -> None:
    outcome = simulate(fixed_world(), poisson(load, windows=1, files=30_000), Fixed(1), Random(1))
    assert outcome.wait_mean_seconds == pytest.approx(load / (2 * (1 - load)), rel=0.06)


def test_files_of_many_windows_wait_as_a_queue_with_bulk_arrivals() -> None:
    windows, files_per_second = 5, 0.14
    load = windows * files_per_second
    outcome = simulate(fixed_world(), poisson(files_per_second, windows, files=20_000), Fixed(1), Random(1))
    for_others = files_per_second * windows**2 / (2 * (1 - load))
    assert outcome.wait_mean_seconds == pytest.approx(for_others + (windows - 1) / 2, rel=0.06)


@pytest.mark.parametrize(("servers", "load"), [(3, 2.4), (8, 6.8)])
def test_several_replicas_wait_as_an_m_d_c_queue(servers: int, load: float) -> None:
    outcome = simulate(fixed_world(), poisson(load, windows=1, files=40_000), Fixed(servers), Random(1))
    used = load / servers
    as_m_m_c = erlang_c(servers, load) / (servers - load)
    cosmetatos = 1 + (1 - used) * (servers - 1) * (sqrt(4 + 5 * servers) - 2) / (16 * used * servers)
    assert outcome.wait_mean_seconds == pytest.approx(0.5 * cosmetatos * as_m_m_c, rel=0.1)


def test_a_batch_of_b_windows_takes_alpha_plus_beta_b() -> None:
    world = World(service=Service(fixed_seconds=0.6, per_window_seconds=0.35, slots=16), lead=LeadTime(1e-6, 1e-9))
    simulation = Simulation(world, files((100.0, 30.0 * 20), horizon=100.0), Fixed(1), Random(1))
    done = {}
    while simulation.step():
        done.setdefault(simulation.work.done_windows, simulation.now)
    assert done[16] == pytest.approx(100 + 0.6 + 0.35 * 16)
    assert done[20] == pytest.approx(done[16] + 0.6 + 0.35 * 4)


def test_a_fleet_that_always_has_full_batches_serves_its_stated_windows_per_second() -> None:
    service = Service()
    trace = files((0.0, 30.0 * 10_000), horizon=1.0)
    outcome = simulate(replace(fixed_world(service), patience_seconds=1e6), trace, Fixed(2), Random(1))
    assert outcome.longest_backlog_seconds == pytest.approx(10_000 / (2 * service.windows_per_second), rel=0.01)


def test_an_ordered_replica_serves_after_its_lead_time() -> None:
    world = World(service=ONE_SECOND, lead=LeadTime(200.0, 1e-9))
    outcome = simulate(world, files((4000.0, 30.0), horizon=4000.0), Fixed(0, ((4000.0, 1),)), Random(1))
    assert outcome.wait_mean_seconds == pytest.approx(200.0)
    assert outcome.missed_percent == 100.0


def test_lead_times_have_the_stated_mean_and_variation() -> None:
    lead, random = LeadTime(230.0, 0.2), Random(1)
    drawn = [lead.draw(random) for _ in range(20_000)]
    mean = sum(drawn) / len(drawn)
    deviation = sqrt(sum((seconds - mean) ** 2 for seconds in drawn) / len(drawn))
    assert mean == pytest.approx(230.0, rel=0.01)
    assert deviation / mean == pytest.approx(0.2, rel=0.03)


def test_spot_nodes_live_as_long_as_the_hazard_says() -> None:
    market, random = Market(hazard_per_hour=0.15), Random(1)
    lives = [market.draw_life(random) for _ in range(20_000)]
    assert sum(lives) / len(lives) == pytest.approx(3600 / 0.15, rel=0.03)


def test_a_noticed_replica_finishes_its_batch_and_takes_no_more() -> None:
    simulation = running((0.0, 30.0 * 8), service=Service(0.0, 10.0, 1))
    [replica] = simulation.deployments[0].replicas
    simulation._notice(replica)
    assert simulation.view().ready == 0
    assert len(simulation.deployments[0].replicas) == 1  # another was ordered at once
    while not simulation.work.done_windows:
        simulation.step()
    assert simulation.now == pytest.approx(10.0)
    assert replica.is_gone
    assert simulation.work.repeated_windows == 0


def test_windows_of_a_lost_node_go_back_to_the_front_and_are_decoded_again() -> None:
    simulation = running((0.0, 30.0 * 8), (1.0, 30.0), service=Service(0.0, 10.0, 4))
    [replica] = simulation.deployments[0].replicas
    while simulation.now < 1.0:
        simulation.step()
    simulation._take_back(replica)
    assert simulation.work.queue[0].arrived_at == 0.0
    assert simulation.work.queue[0].waiting == 8
    while simulation.step():
        pass
    outcome = simulation.outcome()
    assert (outcome.repeated_windows, outcome.lost_windows, outcome.unserved_windows) == (4, 0, 0)
    assert simulation.work.done_windows == 9


def test_a_lost_file_that_was_handed_out_whole_comes_before_those_that_wait() -> None:
    work = Work(60.0)
    work.arrive(0.0, 90.0)
    work.arrive(1.0, 90.0)
    batch = work.take(3)
    work.give_back(batch)
    assert [file.arrived_at for file in work.queue] == [0.0, 1.0]
    assert work.take(4).parts[0][1] == 3
    assert (work.queued_windows, work.in_flight_windows) == (2, 4)


def test_a_file_that_stands_in_line_twice_is_handed_out_once() -> None:
    work = Work(60.0)
    work.arrive(0.0, 30.0 * 6)
    work.arrive(1.0, 30.0)
    batches = [work.take(2), work.take(2)]
    for batch in batches:
        work.give_back(batch)
    taken = work.take(16)
    assert taken.windows == sum(count for _, count in taken.parts) == 7
    assert not work.queue


def running(*arrivals: tuple[float, float], service: Service) -> Simulation[None]:
    simulation = Simulation(World(service=service, lead=LeadTime(50.0, 1e-9)), files(*arrivals, horizon=1.0), Fixed(1), Random(1))
    while not simulation.busy:
        simulation.step()
    return simulation


@pytest.mark.parametrize("name", ["spot-storm", "bulk", "on-off"])
@pytest.mark.parametrize("scaler", [Own(Policy(slots=16)), Keda(Signal.REQUESTS, 3)], ids=["own", "keda"])
def test_every_window_is_waiting_in_flight_or_done_at_every_event(name: str, scaler: Own | Keda) -> None:
    world = World()
    trace = draw_trace(name, 1, 4.0, world.service, Random(3))
    trace = replace(trace, market=Market(hazard_per_hour=3.0, unannounced_share=0.5, shortages=((3600.0, 5400.0),)))
    simulation = Simulation(world, trace, scaler, Random(3))
    while simulation.step():
        work = simulation.work
        assert simulation.count_windows() == (work.queued_windows, work.in_flight_windows)
        assert work.arrived_windows == work.queued_windows + work.in_flight_windows + work.done_windows
        assert work.queued_audio_seconds >= 0
        assert work.in_flight_audio_seconds >= 0
    outcome = simulation.outcome()
    assert outcome.interruptions > 0
    assert (outcome.lost_windows, outcome.unserved_windows) == (0, 0)
    assert simulation.work.active_files == 0


def test_the_same_seed_gives_the_same_outcome_and_another_seed_another() -> None:
    world = World()

    def run(seed: int) -> object:
        return simulate(
            world, draw_trace("spot-storm", 1, 6.0, world.service, Random(seed)), Keda(Signal.REQUESTS, 3), Random(seed)
        )

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_what_a_scaler_orders_changes_neither_the_files_nor_the_lead_times_of_others() -> None:
    world = World()
    trace = draw_trace("steady", 1, 2.0, world.service, Random(1))
    few = simulate(world, trace, Fixed(2), Random(1))
    many = simulate(world, trace, Fixed(9), Random(1))
    assert few.audio_seconds == many.audio_seconds == pytest.approx(trace.total_audio_seconds)


def test_one_deployment_over_all_pools_gets_on_demand_nodes_while_spot_is_short() -> None:
    market = Market(shortages=((0.0, 10_000.0),))
    simulation = Simulation(World(), files((0.0, 30.0), market=market), Fixed(3), Random(1))
    simulation.step()
    simulation.step()
    assert {supply.offer.name: supply.nodes for supply in simulation.supplies} == {"spot": 1, "on-demand": 2}


def test_a_spot_pool_alone_waits_until_the_offer_is_back_and_karpenter_looks_again() -> None:
    market = Market(shortages=((0.0, 1000.0),), hidden_seconds=180.0)
    world = World(service=ONE_SECOND, lead=LeadTime(100.0, 1e-9), offers=(SPOT,))
    outcome = simulate(world, files((2.0, 30.0), horizon=2.0, market=market), Fixed(0, ((5.0, 1),)), Random(1))
    served_at = 5.0 + 6 * 180.0 + 100.0  # refused at 5, 185, … and 905; given a node at 1085
    assert outcome.wait_mean_seconds == pytest.approx(served_at - 2.0)


def test_an_offer_that_was_refused_is_left_alone_for_three_minutes() -> None:
    market = Market(shortages=((0.0, 6.0),), hidden_seconds=180.0)
    world = World(service=ONE_SECOND, lead=LeadTime(100.0, 1e-9), offers=(SPOT,))
    simulation = Simulation(world, files((7000.0, 30.0), market=market), Fixed(1, ((10.0, 2),)), Random(1))
    while simulation.now < 175.0:
        simulation.step()
    assert simulation.view().waiting == 2
    while simulation.now < 186.0:  # refused at 0, and tried again at 180
        simulation.step()
    assert simulation.view().waiting == 0


def test_a_replica_that_was_given_up_before_it_got_a_node_gets_none() -> None:
    market = Market(shortages=((0.0, 50.0),))
    world = World(service=ONE_SECOND, offers=(SPOT,))
    outcome = simulate(world, files((7000.0, 30.0), market=market), Fixed(1, ((20.0, 0),)), Random(1))
    assert outcome.gpu_hours == pytest.approx(0.0)


def test_pools_are_told_how_long_each_replica_has_waited_and_how_often_capacity_was_refused() -> None:
    market = Market(shortages=((0.0, 1000.0),))
    scaler = replace(Own(Policy(slots=16, min_replicas=2)), fallback=None)
    simulation = Simulation(World(), files((7000.0, 30.0), horizon=7000.0, market=market), scaler, Random(1))
    while simulation.now < 100.0:
        simulation.step()
    spot, on_demand = simulation.view().pools
    assert (spot.desired, spot.ready, spot.refusals, spot.waiting_seconds) == (2, 0, 2, (100.0, 100.0))
    assert (on_demand.desired, on_demand.waiting_seconds) == (0, ())


def test_the_lead_time_is_learnt_from_starts() -> None:
    world = World(service=ONE_SECOND, lead=LeadTime(400.0, 1e-9))
    simulation = Simulation(world, files((9000.0, 30.0), horizon=9000.0), Fixed(0, ((10.0, 20),)), Random(1))
    assert simulation.view().lead_seconds == 240.0
    while simulation.step():
        pass
    assert simulation.view().lead_seconds == pytest.approx(400.0, abs=3.0)


@pytest.mark.parametrize(("spares_busy", "first"), [(True, "idle"), (False, "busy")])
def test_replicas_without_node_go_first_then_those_that_start_then_the_idlest_or_the_newest(spares_busy: bool, first: str) -> None:
    deployment, supply = Deployment("spot", (), spares_busy), Supply(SPOT)
    idle = Replica(deployment, 0.0, supply, 0.0, ready_at=10.0)
    busy = Replica(deployment, 1.0, supply, 0.0, ready_at=20.0, batch=Batch([], 0, 0.0))
    starting, waiting = Replica(deployment, 2.0, supply), Replica(deployment, 3.0)
    deployment.replicas = [busy, idle, starting, waiting]
    last = [idle, busy] if first == "idle" else [busy, idle]
    assert deployment.victims(4) == [waiting, starting, *last]
    assert deployment.victims(1) == [waiting]


def test_nodes_are_paid_from_their_launch_until_their_replica_is_gone() -> None:
    world = World(service=ONE_SECOND, lead=LeadTime(100.0, 1e-9), offers=(ON_DEMAND,))
    trace = files((7199.0, 30.0), horizon=7200.0)
    outcome = simulate(world, trace, Fixed(0, ((1800.0, 2), (5400.0, 1))), Random(1))
    assert outcome.gpu_hours == pytest.approx(1.5 + 1.0, abs=0.01)
    assert outcome.dollars == pytest.approx(ON_DEMAND.price_per_hour * outcome.gpu_hours)
    assert outcome.scale_ups == 2


def test_a_queue_that_is_never_served_counts_as_missed_and_ends_the_run() -> None:
    world = replace(fixed_world(), patience_seconds=600.0)
    outcome = simulate(world, files((4000.0, 300.0), horizon=4000.0), Fixed(0), Random(1))
    assert outcome.missed_percent == 100.0
    assert outcome.unserved_windows == 10
    assert outcome.lost_windows == 0
