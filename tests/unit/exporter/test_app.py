"""The endpoints, over HTTP, with a Triton that does as it is told and a clock that moves when it is told to."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client.parser import text_string_to_metric_families

from tests.unit.exporter.fakes import SILENT, Clock, FakeTriton, SteppedClock, looks
from transcriber_exporter.app import Sidecar
from transcriber_exporter.canary import Outcome, Timing
from transcriber_exporter.drain import Drain
from transcriber_exporter.load import Counters, Load
from transcriber_exporter.looks import Looks
from transcriber_exporter.metrics import Metrics
from transcriber_exporter.triton import TritonGoneError
from transcriber_exporter.watch import Watch

TIMING = Timing()
UNIX_SECONDS = 1_800_000_000.0


@dataclass
class Rig:
    """A sidecar and all around it."""

    triton: FakeTriton
    clock: SteppedClock
    watch: Watch
    client: TestClient
    watching: asyncio.Task[None] | None = None

    async def get(self, path: str) -> tuple[int, str]:
        async with self.client.get(path) as answer:
            return answer.status, (await answer.text()).strip()

    async def codes(self) -> tuple[int, int, int]:
        """What startup, readiness and liveness answer."""
        startup, ready, live = [(await self.get(f"/triton/{name}"))[0] for name in ("startup", "ready", "live")]
        return startup, ready, live

    async def pass_time(self, seconds: float) -> None:
        """Let the watch, which begins at the first call, look every second meanwhile."""
        if self.watching is None:
            self.watching = asyncio.create_task(self.watch.run())
        await self.clock.advance(seconds)

    async def load(self) -> dict[str, Any]:
        return dict(json.loads((await self.get("/load"))[1]))

    async def metrics(self) -> dict[str, float]:
        _, text = await self.get("/metrics")
        samples = [sample for family in text_string_to_metric_families(text + "\n") for sample in family.samples]
        return {sample.name + "".join(f" {value}" for value in sample.labels.values()): sample.value for sample in samples}


@pytest_asyncio.fixture
async def rig() -> AsyncIterator[Rig]:
    triton, clock, metrics = FakeTriton(), SteppedClock(), Metrics()
    seen = Looks(triton, metrics, clock, lambda: UNIX_SECONDS + clock.now)
    watch = Watch(triton, seen, TIMING, metrics, clock, clock.pause)
    drain = Drain(seen, 30, clock, Clock.pause.__get__(clock))  # nothing else goes on in a drain: it may move the time
    async with TestClient(TestServer(Sidecar(watch, seen, drain, metrics, clock).application())) as client:
        rig = Rig(triton, clock, watch, client)
        yield rig
    if rig.watching is not None:
        rig.watching.cancel()


@pytest.mark.asyncio
async def test_probes_follow_triton_from_its_start_to_its_failure_and_back(rig: Rig) -> None:
    rig.triton.broken, rig.triton.outcome = TritonGoneError("nobody listens"), Outcome.UNREACHABLE
    await rig.pass_time(30)
    assert await rig.codes() == (503, 503, 200)
    rig.triton.broken, rig.triton.outcome = None, Outcome.PASSED
    await rig.pass_time(3)
    assert await rig.codes() == (200, 200, 200)
    rig.triton.outcome = Outcome.FAILED
    await rig.pass_time(9)
    assert await rig.codes() == (200, 503, 200)
    assert await rig.get("/triton/ready") == (503, "it failed within 30 s")
    await rig.pass_time(TIMING.restart_after)
    assert await rig.codes() == (200, 503, 503)
    rig.triton.outcome = Outcome.PASSED
    await rig.pass_time(3)
    assert await rig.codes() == (200, 200, 200)


@pytest.mark.asyncio
async def test_a_busy_triton_stays_ready_and_is_asked_once_a_minute(rig: Rig) -> None:
    await rig.pass_time(1)
    rig.triton.outcome, rig.triton.load = Outcome.TIMED_OUT, Load(requests=40, queued_audio_seconds=9000)
    asked = rig.triton.canaries
    for _ in range(600):
        rig.triton.decode(25)
        await rig.pass_time(1)
        assert (await rig.get("/triton/ready"))[0] == 200
    assert rig.triton.canaries - asked <= 11
    assert (await rig.get("/triton/live"))[0] == 200


@pytest.mark.asyncio
async def test_an_idle_triton_is_asked_every_interval(rig: Rig) -> None:
    await rig.pass_time(1 + 10 * TIMING.interval)
    assert rig.triton.canaries == 11


@pytest.mark.asyncio
async def test_a_canary_that_is_due_between_two_looks_is_not_late() -> None:
    triton, clock = FakeTriton(), Clock()
    sent_at: list[float] = []
    watch = Watch(triton, looks(triton, clock), Timing(interval=7.5), Metrics(), clock, clock.pause)
    triton.on_canary = lambda: sent_at.append(clock.now)
    watching = asyncio.create_task(watch.run())
    while len(sent_at) < 3:
        await asyncio.sleep(0)
    watching.cancel()
    assert sent_at == [100, 107.5, 115]


@pytest.mark.asyncio
async def test_canaries_alone_tell_where_the_metrics_do_not(rig: Rig) -> None:
    rig.triton.broken = SILENT
    await rig.pass_time(100)
    assert await rig.codes() == (200, 200, 200)
    rig.triton.outcome = Outcome.FAILED
    await rig.pass_time(9)
    assert (await rig.get("/triton/ready"))[0] == 503


@pytest.mark.asyncio
async def test_a_triton_that_is_not_live_is_not_waited_for(rig: Rig) -> None:
    await rig.pass_time(1)
    rig.triton.outcome, rig.triton.load = Outcome.TIMED_OUT, Load(active_slots=2)
    await rig.pass_time(TIMING.restart_after + 1)
    assert await rig.codes() == (200, 503, 503)
    async with rig.client.get("/drain") as answer:
        report = await answer.json()
    assert (report["drained"], report["waited_seconds"], report["left"]["active_slots"]) == (False, 0, 2)


@pytest.mark.asyncio
async def test_a_drain_makes_it_unready_for_good_and_says_what_is_left(rig: Rig) -> None:
    await rig.pass_time(1)
    rig.triton.load = Load(active_slots=2)
    async with rig.client.get("/drain") as answer:
        report = await answer.json()
    assert answer.status == 200
    assert (report["drained"], report["left"]["active_slots"]) == (False, 2)
    assert await rig.codes() == (200, 503, 200)
    assert await rig.get("/triton/ready") == (503, "draining: this pod takes no new work")
    rig.clock.now += 10 * TIMING.restart_after
    assert (await rig.get("/triton/live"))[0] == 200  # no canaries any more, and a restart would lose what is in flight
    assert (await rig.metrics())["transcriber_draining"] == 1


@pytest.mark.asyncio
async def test_metrics_are_there_from_the_start_and_count_every_outcome(rig: Rig) -> None:
    before = await rig.metrics()
    assert {name: value for name, value in before.items() if name.startswith("transcriber_canaries_total")} == {
        f"transcriber_canaries_total {outcome}": 0 for outcome in Outcome
    }
    assert (before["transcriber_ready"], before["transcriber_live"], before["transcriber_draining"]) == (0, 1, 0)
    await rig.pass_time(1)
    rig.triton.outcome = Outcome.WRONG
    await rig.pass_time(TIMING.interval - 1)
    rig.triton.broken = SILENT
    await rig.pass_time(1)
    after = await rig.metrics()
    assert (after["transcriber_canaries_total passed"], after["transcriber_canaries_total wrong"]) == (1, 1)
    assert (after["transcriber_canary_success"], after["transcriber_ready"]) == (0, 0)
    assert (after["transcriber_canary_duration_seconds_count"], after["transcriber_canary_duration_seconds_sum"]) == (2, 1)
    assert (after["transcriber_exporter_scrapes_total"], after["transcriber_exporter_scrape_failures_total"]) == (9, 1)
    assert after["transcriber_canary_last_success_timestamp_seconds"] > 0


@pytest.mark.asyncio
async def test_load_tells_the_operator_what_is_held_and_done_and_how_old_that_is(rig: Rig) -> None:
    rig.triton.load = Load(2, queued_audio_seconds=90, in_flight_audio_seconds=30, pending_requests=7, active_slots=3)
    rig.triton.canaries_in_progress = 1
    rig.triton.counters = Counters(5, 700.5, 580.5, 900, 800, 640, 300)
    await rig.pass_time(1)
    rig.clock.now += 0.4
    assert await rig.load() == {
        "load": {
            "age_seconds": 0.4,
            "queued_audio_seconds": 90,
            "in_flight_audio_seconds": 30,
            "requests": 2,
            "active_slots": 2,  # the canary may hold one
            "admitted_requests_total": 5,
            "admitted_audio_seconds_total": 700.5,
            "processed_audio_seconds_total": 580.5,
            "output_tokens_total": 900,
            "draft_tokens_total": 800,
            "accepted_tokens_total": 640,
            "cycles_total": 300,
        },
        "server_started_at": rig.triton.started_at,
        "draining": False,
        "reason": None,
    }


@pytest.mark.asyncio
async def test_load_is_null_with_a_reason_before_the_first_look_and_where_triton_is_gone_or_does_not_say(rig: Rig) -> None:
    assert await rig.load() == {
        "load": None,
        "server_started_at": None,
        "draining": False,
        "reason": "Triton has not been asked yet",
    }
    await rig.pass_time(1)
    for broken in (SILENT, TritonGoneError("Triton does not listen")):
        rig.triton.broken = broken
        await rig.pass_time(1)
        told = await rig.load()
        assert (told["load"], told["reason"], told["server_started_at"]) == (None, str(broken), rig.triton.started_at)
        assert (await rig.metrics())["transcriber_load_age_seconds"] >= 1
        rig.triton.broken = None
        await rig.pass_time(1)
        assert (await rig.load())["load"]["age_seconds"] == 0


@pytest.mark.asyncio
async def test_a_slow_triton_leaves_the_last_load_and_its_age_says_so(rig: Rig) -> None:
    await rig.pass_time(1)
    rig.triton.may_tell.clear()
    await rig.pass_time(4)
    assert (await rig.load())["load"]["age_seconds"] == 4
    assert (await rig.metrics())["transcriber_load_age_seconds"] == 4
    rig.triton.may_tell.set()
    await rig.pass_time(0.5)
    assert (await rig.load())["load"]["age_seconds"] == 3.5  # it may have been true when it was asked, a second after the last look
    await rig.pass_time(0.5)
    assert (await rig.load())["load"]["age_seconds"] == 0
    assert (await rig.metrics())["transcriber_exporter_scrape_duration_seconds_sum"] == 3


@pytest.mark.asyncio
async def test_load_goes_on_while_a_canary_waits_in_a_long_queue(rig: Rig) -> None:
    rig.triton.may_answer.clear()
    rig.triton.load = Load(queued_audio_seconds=9000)
    await rig.pass_time(25)
    rig.triton.load = Load(queued_audio_seconds=8000)
    await rig.pass_time(1)
    told = (await rig.load())["load"]
    assert (told["queued_audio_seconds"], told["age_seconds"], rig.triton.canaries) == (8000, 0, 1)


@pytest.mark.asyncio
async def test_tokens_decoded_while_a_canary_that_passes_nothing_is_on_its_way_keep_nobody_alive(rig: Rig) -> None:
    rig.triton.outcome = Outcome.WRONG
    for _ in range(int(TIMING.restart_after)):
        rig.triton.may_answer.clear()
        await rig.pass_time(2)
        rig.triton.decode(12)  # its own
        await rig.pass_time(1)
        rig.triton.may_answer.set()
        await rig.pass_time(1)
    assert await rig.codes() == (503, 503, 503)


@pytest.mark.asyncio
async def test_another_server_shows_by_its_start_or_by_a_counter_that_fell(rig: Rig) -> None:
    rig.triton.decode(50)
    await rig.pass_time(1)
    rig.triton.broken = SILENT
    await rig.pass_time(1)
    rig.triton.broken, rig.triton.started_at, rig.triton.counters = None, rig.triton.started_at + 60, Counters()
    rig.triton.decode(90)  # more than the other had: no counter fell
    await rig.pass_time(1)
    assert (await rig.load())["server_started_at"] == rig.triton.started_at
    assert (await rig.metrics())["transcriber_server_restarts_total"] == 1
    rig.triton.counters = Counters()
    await rig.pass_time(1)
    fell_at = UNIX_SECONDS + rig.clock.now
    assert (await rig.load())["server_started_at"] == fell_at
    rig.triton.decode(10)
    await rig.pass_time(5)
    assert (await rig.load())["server_started_at"] == fell_at
    assert (await rig.metrics())["transcriber_server_restarts_total"] == 2


@pytest.mark.asyncio
async def test_load_goes_on_in_a_drain_and_says_that_it_is_one(rig: Rig) -> None:
    rig.triton.load = Load(requests=1, in_flight_audio_seconds=30)
    async with rig.client.get("/drain"):
        pass
    told = await rig.load()
    assert (told["draining"], told["load"]["in_flight_audio_seconds"], told["load"]["age_seconds"]) == (True, 30, 0)


@pytest.mark.asyncio
async def test_a_watch_that_is_ended_with_a_canary_on_its_way_can_begin_anew(rig: Rig) -> None:
    rig.triton.may_answer.clear()
    await rig.pass_time(2)
    assert rig.watching is not None
    rig.watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await rig.watching
    rig.watching = None
    rig.triton.may_answer.set()
    await rig.pass_time(2)
    assert await rig.codes() == (200, 200, 200)


@pytest.mark.asyncio
async def test_status_tells_people_everything(rig: Rig) -> None:
    rig.triton.outcome, rig.triton.load = Outcome.WRONG, Load(requests=1)
    await rig.pass_time(1)
    rig.clock.now += 1.5
    async with rig.client.get("/status") as answer:
        status = await answer.json()
    assert status["ready"] == {"holds": False, "message": "no canary has passed yet: it wrong within 30 s"}
    assert status["last_canary"] == {
        "outcome": "wrong",
        "message": "it wrong within 30 s",
        "duration_seconds": 0.5,
        "ended_seconds_ago": 2.5,
    }
    assert status["load"]["requests"] == 1


@pytest.mark.asyncio
async def test_the_log_tells_each_change_once(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "transcriber_exporter")
    await rig.pass_time(20)
    rig.triton.outcome = Outcome.FAILED
    await rig.pass_time(20)
    rig.triton.broken = SILENT
    await rig.pass_time(20)
    assert [record.message for record in caplog.records] == [
        "not ready: no canary has passed yet: none has ended",
        "ready",
        "not ready: it failed within 30 s",
        "not ready: it failed within 30 s",
        "metrics: timed out; canaries alone tell how Triton is, until it answers again",
    ]
