"""A Triton that does as it is told, and a clock that moves when it is told to."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from transcriber_exporter.canary import Outcome, Result
from transcriber_exporter.load import Counters, Load, Scrape
from transcriber_exporter.looks import Looks
from transcriber_exporter.metrics import Metrics
from transcriber_exporter.triton import ScrapeError

TURNS_TO_SETTLE = 20  # of the event loop, in which all that can go on without time does


class Clock:
    """Whoever pauses moves it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.now += seconds


class SteppedClock(Clock):
    """Moves when `advance` says, and wakes those that pause on the way."""

    def __init__(self) -> None:
        super().__init__()
        self._sleepers: list[tuple[float, asyncio.Event]] = []

    async def pause(self, seconds: float) -> None:
        awake = asyncio.Event()
        self._sleepers.append((self.now + seconds, awake))
        await awake.wait()

    async def advance(self, seconds: float) -> None:
        until = self.now + seconds
        await self._settle()
        while due := [sleeper for sleeper in self._sleepers if sleeper[0] <= until]:
            sleeper = min(due, key=lambda entry: entry[0])
            self._sleepers.remove(sleeper)
            self.now = sleeper[0]
            sleeper[1].set()
            await self._settle()
        self.now = until

    async def _settle(self) -> None:
        for _ in range(TURNS_TO_SETTLE):
            await asyncio.sleep(0)


class FakeTriton:
    """Stands where `transcriber_exporter.triton.Triton` does."""

    def __init__(self) -> None:
        self.outcome = Outcome.PASSED
        self.load = Load()
        self.counters = Counters()
        self.started_at = 1_800_000_000.0
        self.canaries_in_progress = 0.0
        self.broken: Exception | None = None
        self.canaries = 0
        self.on_scrape: Callable[[], None] = lambda: None
        self.on_canary: Callable[[], object] = lambda: None
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.may_tell = asyncio.Event()
        self.may_tell.set()

    def decode(self, tokens: float) -> None:
        """Commit tokens for somebody."""
        self.counters = replace(self.counters, output_tokens_total=self.counters.output_tokens_total + tokens)

    async def run_canary(self, deadline_seconds: float) -> Result:
        self.canaries += 1
        self.on_canary()
        await self.may_answer.wait()
        return Result(self.outcome, f"it {self.outcome} within {deadline_seconds:g} s", 0.5)

    async def scrape(self) -> Scrape:
        self.on_scrape()
        await self.may_tell.wait()
        if self.broken is not None:
            raise self.broken
        return Scrape(self.load, self.counters, self.started_at, self.canaries_in_progress)


def looks(triton: FakeTriton, clock: Clock) -> Looks:
    """Looks at a Triton, with metrics of their own."""
    return Looks(triton, Metrics(), clock)


SILENT = ScrapeError("metrics: timed out")
