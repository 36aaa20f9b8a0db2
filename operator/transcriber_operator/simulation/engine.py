"""The simulation itself: a heap of events over work, fleet, market and one scaler."""

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from math import ceil, inf
from random import Random
from typing import Any, Final, Generic

from transcriber_operator.decide.pools import PoolView
from transcriber_operator.simulation.fleet import Deployment, Replica, Supply
from transcriber_operator.simulation.outcome import Outcome
from transcriber_operator.simulation.trace import HOUR, Trace
from transcriber_operator.simulation.view import Scaler, State, View, Wanted
from transcriber_operator.simulation.work import Batch, Work
from transcriber_operator.simulation.world import WINDOW_SECONDS, World

REFUSALS_WITHIN_SECONDS: Final = 180.0
LEAD_PRIOR_SECONDS: Final = 240.0
LEAD_GAIN: Final = 0.2  # of a new start in the learnt lead time
FIRST_HOUR_UTILIZATION: Final = 0.8  # every scaler begins with the fleet that the first hour calls for


def simulate(world: World, trace: Trace, scaler: Scaler[State], random: Random) -> Outcome:
    """Run a scaler over a trace until all work is done; the same `random` state gives the same outcome."""
    simulation = Simulation(world, trace, scaler, random)
    while simulation.step():
        pass
    return simulation.outcome()


class Simulation(Generic[State]):
    """One run; `step` takes it one event further."""

    def __init__(self, world: World, trace: Trace, scaler: Scaler[State], random: Random) -> None:
        self.world = world
        self.trace = trace
        self.work = Work(world.target_wait_seconds)
        self.now = 0.0
        self.is_over = False
        self._scaler = scaler
        self._state = scaler.start()
        # Seeds of their own: that one scaler starts more replicas than another does not change when nodes are taken back.
        self._lead_random, self._market_random = (Random(random.random()) for _ in range(2))  # noqa: S311 (no secret)
        self._heap: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._sequence = count()
        self._arrivals = iter(zip(trace.at_seconds, trace.audio_seconds, strict=True))
        self._next_at, self._next_audio = next(self._arrivals, (inf, 0.0))
        supplies = tuple(Supply(offer) for offer in sorted(world.offers, key=lambda offer: -offer.weight))
        self.supplies = supplies
        self.deployments = (
            [Deployment(supply.offer.name, (supply,), spares_busy=True) for supply in supplies]
            if scaler.splits_pools
            else [Deployment("all", supplies, spares_busy=False)]
        )
        self._idle: list[Replica] = []
        self.ready = self.busy = 0  # replicas that serve, also those that leave after their batch
        self.active_request_seconds = self.busy_seconds = self.ready_seconds = 0.0
        self._billed_hours = dict.fromkeys(supplies, 0.0)
        self._on_node: dict[Replica, None] = {}  # in the order of launch: sums of floats are the same in every run
        self._lead_seconds = LEAD_PRIOR_SECONDS
        self.scale_ups = self.interruptions = 0
        self._backlog_since: float | None = None
        self._longest_backlog_seconds = 0.0
        self._start_warm()
        self._at(0.0, self._tick, None)

    def step(self) -> bool:
        """Take the next event; False: the run is over."""
        if self._next_at <= self._heap[0][0]:
            self._pass_time(self._next_at)
            self._arrive()
        else:
            at, _, handler, subject = heappop(self._heap)
            self._pass_time(at)
            handler(subject)
        return not self.is_over

    def outcome(self) -> Outcome:
        """Tell how the run went."""
        hours = dict(self._billed_hours)
        for replica in self._on_node:
            assert replica.supply is not None
            hours[replica.supply] += (self.now - replica.node_at) / HOUR
        work, gpu_hours = self.work, sum(hours.values())
        return Outcome(
            audio_seconds=work.arrived_audio_seconds,
            missed_percent=100 * work.waits.missed_share,
            wait_mean_seconds=work.waits.mean_seconds,
            wait_p50_seconds=work.waits.percentile(50),
            wait_p95_seconds=work.waits.percentile(95),
            wait_p99_seconds=work.waits.percentile(99),
            gpu_hours=gpu_hours,
            dollars=sum(supply.offer.price_per_hour * used for supply, used in hours.items()),
            scale_ups=self.scale_ups,
            interruptions=self.interruptions,
            repeated_windows=work.repeated_windows,
            lost_windows=work.arrived_windows - work.done_windows - sum(self.count_windows()),
            unserved_windows=sum(self.count_windows()),
            longest_backlog_seconds=self._longest_backlog_seconds,
            utilization_percent=100 * self.busy_seconds / (gpu_hours * HOUR) if gpu_hours else 0.0,
        )

    def count_windows(self) -> tuple[int, int]:
        """Count, window by window, what waits and what replicas have; to hold the running sums against."""
        waiting = sum(file.waiting for file in set(self.work.queue))
        in_flight = sum(windows for replica in self._on_node if replica.batch for _, windows in replica.batch.parts)
        return waiting, in_flight

    def _start_warm(self) -> None:
        """Begin with what the first hour calls for, ready."""
        first = [audio for at, audio in zip(self.trace.at_seconds, self.trace.audio_seconds, strict=True) if at < HOUR]
        throughput = self.world.service.windows_per_second * WINDOW_SECONDS
        deployment = self.deployments[0]
        deployment.desired = ceil(sum(first) / HOUR / throughput / FIRST_HOUR_UTILIZATION)
        for _ in range(deployment.desired):
            replica = Replica(deployment, 0.0)
            deployment.replicas.append(replica)
            self._launch(replica, deployment.supplies[0])
            self._become_ready(replica)

    def _at(self, at: float, handler: Callable[[Any], None], subject: object) -> None:
        heappush(self._heap, (at, next(self._sequence), handler, subject))

    def _pass_time(self, at: float) -> None:
        passed = at - self.now
        self.now = at
        self.active_request_seconds += passed * self.work.active_files
        self.busy_seconds += passed * self.busy
        self.ready_seconds += passed * self.ready

    # Work.

    def _arrive(self) -> None:
        self.work.arrive(self.now, self._next_audio)
        self._next_at, self._next_audio = next(self._arrivals, (inf, 0.0))
        self._serve_idle()
        if self._backlog_since is None and self.work.queue:
            self._backlog_since = self.now

    def _serve_idle(self) -> None:
        while self._idle and self.work.queued_windows:
            self._serve(self._idle.pop())

    def _serve(self, replica: Replica) -> None:
        service = self.world.service
        replica.batch = self.work.take(service.slots)
        replica.batch_at = self.now
        self.busy += 1
        self._at(self.now + service.batch_seconds(replica.batch.windows), self._finish, (replica, replica.batch))
        if self._backlog_since is not None and not self.work.queued_windows:
            self._longest_backlog_seconds = max(self._longest_backlog_seconds, self.now - self._backlog_since)
            self._backlog_since = None

    def _finish(self, served: tuple[Replica, Batch]) -> None:
        replica, batch = served
        if replica.batch is not batch or replica.batch is None:
            return  # the node was gone before
        self.work.finish(replica.batch, replica.batch_at)
        replica.batch = None
        self.busy -= 1
        if replica.is_leaving:
            self._remove(replica)
        elif self.work.queued_windows:
            self._serve(replica)
        else:
            self._idle.append(replica)

    # Fleet.

    def _order(self, deployment: Deployment) -> None:
        replica = Replica(deployment, self.now)
        deployment.replicas.append(replica)
        self._seek_node(replica)

    def _seek_node(self, replica: Replica) -> None:
        """Get a node from the first pool that has one, as Karpenter does; otherwise try again when one is offered anew."""
        if replica.is_gone or replica.supply is not None:
            return
        market, again = self.trace.market, inf
        for supply in replica.deployment.supplies:
            hidden_until = supply.refused_at + market.hidden_seconds
            if supply.nodes >= supply.offer.max_nodes:
                again = min(again, self.now + market.hidden_seconds)
            elif supply.refused_at < self.now < hidden_until:
                again = min(again, hidden_until)
            elif supply.offer.is_spot and market.is_short(self.now):
                supply.refused_at = self.now
                supply.refusals.append(self.now)
                again = min(again, self.now + market.hidden_seconds)
            else:
                self._launch(replica, supply)
                self._at(self.now + self.world.lead.draw(self._lead_random), self._become_ready, replica)
                return
        self._at(again, self._seek_node, replica)

    def _launch(self, replica: Replica, supply: Supply) -> None:
        replica.supply, replica.node_at = supply, self.now
        supply.nodes += 1
        self._on_node[replica] = None
        if supply.offer.is_spot:
            life = self.trace.market.draw_life(self._market_random)
            is_announced = self._market_random.random() >= self.trace.market.unannounced_share
            if life < inf:
                self._at(self.now + life, self._notice if is_announced else self._take_back, replica)

    def _become_ready(self, replica: Replica) -> None:
        if replica.is_gone:
            return
        if self.now > replica.node_at:
            self._lead_seconds += LEAD_GAIN * (self.now - replica.node_at - self._lead_seconds)
        replica.ready_at = self.now
        self.ready += 1
        self._idle.append(replica)
        self._serve_idle()

    def _leave(self, replica: Replica) -> None:
        """Take no more work, finish the batch, go."""
        replica.deployment.replicas.remove(replica)
        replica.is_leaving = True
        if replica.batch is None:
            self._remove(replica)

    def _remove(self, replica: Replica) -> None:
        replica.is_gone = True
        if replica.ready_at is not None:
            self.ready -= 1
        if replica in self._idle:
            self._idle.remove(replica)
        if replica.supply is not None:
            replica.supply.nodes -= 1
            del self._on_node[replica]
            self._billed_hours[replica.supply] += (self.now - replica.node_at) / HOUR

    def _notice(self, replica: Replica) -> None:
        """The node will be taken back: Karpenter evicts the replica at once, and its Deployment orders another."""
        if replica.is_gone:
            return
        self._at(self.now + self.trace.market.notice_seconds, self._take_back, replica)
        if not replica.is_leaving:
            self.interruptions += 1
            self._leave(replica)
            self._fill(replica.deployment)

    def _take_back(self, replica: Replica) -> None:
        """The node is gone, and what it decoded goes back to the front of the queue."""
        if replica.is_gone:
            return
        if replica.batch is not None:
            self.work.give_back(replica.batch)
            replica.batch = None
            self.busy -= 1
        if replica.is_leaving:
            self._remove(replica)
        else:
            self.interruptions += 1
            self._leave(replica)
            self._fill(replica.deployment)
        self._serve_idle()

    # Scaling.

    def _tick(self, _: None) -> None:
        wanted, self._state = self._scaler.decide(self.view(), self._state, self.now)
        self._scale(wanted)
        left = self.work.queued_windows + self.work.in_flight_windows
        if self.now >= self.trace.horizon_seconds and not left and self._next_at == inf:
            self.is_over = True
        elif self.now >= self.trace.horizon_seconds + self.world.patience_seconds:
            self.work.give_up(self.now)
            self.is_over = True
        self._at(self.now + self._scaler.interval_seconds, self._tick, None)

    def _scale(self, wanted: Wanted) -> None:
        for deployment in self.deployments:
            desired = wanted.replicas if wanted.by_pool is None else wanted.by_pool.get(deployment.name, 0)
            self.scale_ups += max(desired - deployment.desired, 0)
            deployment.desired = desired
            for victim in deployment.victims(len(deployment.replicas) - desired) if len(deployment.replicas) > desired else ():
                self._leave(victim)
            self._fill(deployment)

    def _fill(self, deployment: Deployment) -> None:
        for _ in range(deployment.desired - len(deployment.replicas)):
            self._order(deployment)

    def view(self) -> View:
        """What a scaler sees now."""
        work = self.work
        replicas = [replica for deployment in self.deployments for replica in deployment.replicas]
        window_audio = work.done_audio_seconds / work.done_windows if work.done_windows else WINDOW_SECONDS
        return View(
            queued_windows=work.queued_windows,
            in_flight_windows=work.in_flight_windows,
            queued_audio_seconds=work.queued_audio_seconds,
            in_flight_audio_seconds=work.in_flight_audio_seconds,
            queued_requests=len(work.queue),
            active_requests=work.active_files,
            arrived_audio_seconds=work.arrived_audio_seconds,
            arrived_requests=work.arrived_files,
            active_request_seconds=self.active_request_seconds,
            busy_seconds=self.busy_seconds,
            ready_seconds=self.ready_seconds,
            desired=sum(deployment.desired for deployment in self.deployments),
            ready=sum(replica.ready_at is not None for replica in replicas),
            starting_seconds=tuple(
                self.now - replica.node_at for replica in replicas if replica.supply is not None and replica.ready_at is None
            ),
            waiting=sum(replica.supply is None for replica in replicas),
            throughput=self.world.service.windows_per_second * window_audio,
            lead_seconds=self._lead_seconds,
            pools=self._pools() if self._scaler.splits_pools else (),
        )

    def _pools(self) -> tuple[PoolView, ...]:
        return tuple(self._pool(deployment, deployment.supplies[0]) for deployment in self.deployments)

    def _pool(self, deployment: Deployment, supply: Supply) -> PoolView:
        offer = supply.offer
        return PoolView(
            name=offer.name,
            is_spot=offer.is_spot,
            weight=offer.weight,
            floor=offer.floor,
            max_nodes=offer.max_nodes,
            price_per_hour=offer.price_per_hour,
            desired=deployment.desired,
            ready=sum(replica.ready_at is not None for replica in deployment.replicas),
            waiting_seconds=tuple(self.now - replica.ordered_at for replica in deployment.replicas if replica.supply is None),
            refusals=supply.recent_refusals(self.now, REFUSALS_WITHIN_SECONDS),
        )
