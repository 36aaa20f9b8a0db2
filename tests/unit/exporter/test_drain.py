"""A drain: over when nothing is in flight for long enough, or when its time is."""

import asyncio

import pytest

from tests.unit.exporter.fakes import SILENT, Clock, FakeTriton, looks
from transcriber_exporter.drain import SETTLE_SECONDS, Drain, DrainState
from transcriber_exporter.load import Load
from transcriber_exporter.triton import TritonGoneError

BUSY = Load(requests=1, queued_audio_seconds=30)


def test_an_idle_triton_is_drained_once_it_stayed_idle() -> None:
    state = DrainState(began_at=0, limit_seconds=100).with_load(Load(), 1)
    assert not state.is_over(1)
    assert not state.is_over(1 + SETTLE_SECONDS - 0.1)
    assert state.with_load(Load(), 3).is_drained(1 + SETTLE_SECONDS)


def test_work_that_comes_in_late_starts_the_wait_anew() -> None:
    state = DrainState(began_at=0, limit_seconds=100).with_load(Load(), 1).with_load(BUSY, 3).with_load(Load(), 5)
    assert not state.is_over(5 + SETTLE_SECONDS - 0.1)
    assert state.is_drained(5 + SETTLE_SECONDS)


@pytest.mark.parametrize("load", [BUSY, None], ids=["busy", "unknown"])
def test_a_triton_that_is_busy_or_does_not_say_is_waited_for_until_the_time_is_up(load: Load | None) -> None:
    state = DrainState(began_at=0, limit_seconds=100).with_load(Load(), 1).with_load(load, 2)
    assert not state.is_over(99.9)
    assert state.is_over(100)
    assert state.report(100)["drained"] is False


def test_a_triton_that_has_ended_holds_nothing() -> None:
    state = DrainState(began_at=0, limit_seconds=100).with_load(BUSY, 1).with_triton_gone()
    assert state.is_over(1)
    assert state.report(1) == {"drained": True, "waited_seconds": 1, "left": no_load()}


def no_load() -> dict[str, float]:
    return dict.fromkeys(("requests", "queued_audio_seconds", "in_flight_audio_seconds", "pending_requests", "active_slots"), 0.0)


@pytest.mark.asyncio
async def test_the_drain_waits_for_what_is_in_flight_and_reports_that_nothing_is_left() -> None:
    triton, clock = FakeTriton(), Clock()
    triton.load = BUSY

    def finish_after_20_seconds() -> None:
        if clock.now >= 120:
            triton.load = Load()

    triton.on_scrape = finish_after_20_seconds
    report = await Drain(looks(triton, clock), 200, clock, clock.pause).wait()
    assert report == {"drained": True, "waited_seconds": 20 + SETTLE_SECONDS, "left": no_load()}


@pytest.mark.asyncio
async def test_the_drain_ends_with_its_time_and_reports_what_is_left() -> None:
    triton, clock = FakeTriton(), Clock()
    triton.load = BUSY
    report = await Drain(looks(triton, clock), 30, clock, clock.pause).wait()
    assert report == {"drained": False, "waited_seconds": 30, "left": no_load() | {"requests": 1, "queued_audio_seconds": 30}}


@pytest.mark.asyncio
async def test_what_is_left_is_null_where_triton_does_not_say() -> None:
    triton, clock = FakeTriton(), Clock()
    triton.broken = SILENT
    assert (await Drain(looks(triton, clock), 30, clock, clock.pause).wait())["left"] is None


@pytest.mark.asyncio
async def test_the_drain_of_a_triton_that_is_stuck_waits_for_nothing() -> None:
    triton, clock = FakeTriton(), Clock()
    triton.load = BUSY
    report = await Drain(looks(triton, clock), 30, clock, clock.pause).wait(is_stuck=True)
    assert (report["drained"], report["waited_seconds"], report["left"]["requests"]) == (False, 0, 1)


@pytest.mark.asyncio
async def test_a_triton_that_is_gone_is_drained_at_once() -> None:
    triton, clock = FakeTriton(), Clock()
    triton.broken = TritonGoneError("nobody listens")
    report = await Drain(looks(triton, clock), 30, clock, clock.pause).wait()
    assert (report["drained"], report["waited_seconds"]) == (True, 0)


@pytest.mark.asyncio
async def test_a_second_call_joins_the_drain_that_runs_and_one_that_gives_up_does_not_end_it() -> None:
    triton, clock = FakeTriton(), Clock()
    drain = Drain(looks(triton, clock), 30, clock, clock.pause)
    first, second = asyncio.create_task(drain.wait()), asyncio.create_task(drain.wait())
    await asyncio.sleep(0)
    assert drain.begun.is_set()
    first.cancel()
    report = await second
    assert report["drained"] is True
    triton.load = BUSY  # whoever asks later hears how it ended; there is no second drain
    assert await drain.wait() == report


@pytest.mark.asyncio
async def test_a_drain_is_undone_by_another_triton_and_not_by_the_one_that_it_is_for() -> None:
    triton, clock = FakeTriton(), Clock()
    drain = Drain(looks(triton, clock), 30, clock, clock.pause)
    await drain.wait()
    undone = asyncio.create_task(drain.undone())
    for broken in (None, SILENT, None, TritonGoneError("nobody listens"), SILENT):
        triton.broken = broken
        scraped = asyncio.Event()
        triton.on_scrape = scraped.set
        await scraped.wait()
        assert drain.begun.is_set()
    triton.broken = None
    await undone
    assert not drain.begun.is_set()
    triton.broken = TritonGoneError("nobody listens")
    assert (await drain.wait())["drained"] is True
