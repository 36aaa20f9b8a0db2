"""A Triton that does as it is told, and a clock that moves when it is told to."""

import asyncio
from collections.abc import Callable

from transcriber_exporter.canary import Outcome, Result
from transcriber_exporter.load import Load, Scrape
from transcriber_exporter.triton import ScrapeError


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    async def pause(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


class FakeTriton:
    """Stands where `transcriber_exporter.triton.Triton` does."""

    def __init__(self) -> None:
        self.outcome = Outcome.PASSED
        self.load = Load()
        self.output_tokens = 0.0
        self.broken: Exception | None = None
        self.canaries = 0
        self.on_scrape: Callable[[], None] = lambda: None
        self.on_canary: Callable[[], object] = lambda: None

    async def run_canary(self, deadline_seconds: float) -> Result:
        self.canaries += 1
        self.on_canary()
        return Result(self.outcome, f"it {self.outcome} within {deadline_seconds:g} s", 0.5)

    async def scrape(self) -> Scrape:
        self.on_scrape()
        if self.broken is not None:
            raise self.broken
        return Scrape(self.load, self.output_tokens)


SILENT = ScrapeError("metrics: timed out")
