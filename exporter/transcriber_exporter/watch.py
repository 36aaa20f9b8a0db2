"""Keeps an eye on Triton: looks at its metrics every second and sends a canary when one is due."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from transcriber_exporter.canary import CanaryState, Timing
from transcriber_exporter.load import Scrape
from transcriber_exporter.metrics import Metrics
from transcriber_exporter.triton import ScrapeError, Triton, TritonGoneError

POLL_SECONDS: Final = 1.0
log = logging.getLogger("transcriber_exporter")


class Watch:
    """What is known of Triton: `state`, and the last `scrape`, None where it failed."""

    def __init__(
        self,
        triton: Triton,
        timing: Timing,
        metrics: Metrics,
        clock: Callable[[], float],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.state = CanaryState(timing)
        self.scrape: Scrape | None = None
        self._triton = triton
        self._metrics = metrics
        self._clock = clock
        self._pause = pause
        self._said: tuple[bool, str | None, str | None] | None = None

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await self.step()
            until_canary_seconds = self.state.next_canary_at - self._clock()
            await self._pause(min(POLL_SECONDS, max(until_canary_seconds, 0.0)))

    async def step(self) -> None:
        """Look once, send a canary if one is due, and say what has changed."""
        blindness = await self._look()
        if self._clock() >= self.state.next_canary_at:
            await self._send_canary()
        verdict = self.state.readiness(self._clock())
        news = (verdict.holds, self.state.failure, blindness)
        if news != self._said:
            self._said = news
            log.info("%s", "ready" if verdict.holds else f"not ready: {verdict.message}")
            if blindness is not None:
                log.warning("%s; canaries alone tell how Triton is, until it answers again", blindness)

    async def _look(self) -> str | None:
        """Scrape Triton; returns why it did not say anything."""
        self.scrape = blindness = None
        try:
            self.scrape = await self._triton.scrape()
            self.state = self.state.with_output_tokens(self.scrape.output_tokens, self._clock())
        except TritonGoneError as error:
            self.state = self.state.with_triton_gone(str(error))
        except ScrapeError as error:
            blindness = str(error)
        self._metrics.scraped(succeeded=self.scrape is not None)
        return blindness

    async def _send_canary(self) -> None:
        result = await self._triton.run_canary(self.state.timing.deadline)
        self.state = self.state.with_result(result, self._clock())
        self._metrics.canary_ended(result)
