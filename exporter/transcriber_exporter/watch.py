"""Keeps an eye on Triton: looks at its metrics every second, also while a canary is on its way, and sends one when it is due."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from transcriber_exporter.canary import CanaryState, Timing
from transcriber_exporter.looks import Looks
from transcriber_exporter.metrics import Metrics
from transcriber_exporter.triton import ScrapeError, Triton, TritonGoneError

POLL_SECONDS: Final = 1.0
log = logging.getLogger("transcriber_exporter")


class Watch:
    """What canaries and progress say of Triton: `state`."""

    def __init__(
        self,
        triton: Triton,
        looks: Looks,
        timing: Timing,
        metrics: Metrics,
        clock: Callable[[], float],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.state = CanaryState(timing)
        self._triton = triton
        self._looks = looks
        self._metrics = metrics
        self._clock = clock
        self._pause = pause
        self._canary: asyncio.Task[None] | None = None  # on its way
        self._blindness: str | None = None  # why Triton says nothing, though it is there
        self._said: tuple[bool, str | None, str | None] | None = None

    async def run(self) -> None:
        """Watch until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self.look()
                if self._canary is None and self._clock() >= self.state.next_canary_at:
                    self._canary = group.create_task(self._send_canary(), name="canary")
                await self._pause(self._until_next_seconds())

    async def look(self) -> None:
        """Look at Triton's metrics once."""
        # While a canary is on its way some of the growth is its own, and so no sign of life.
        counts_progress = self._canary is None
        blindness = None
        try:
            scrape = await self._looks.look()
        except TritonGoneError as error:
            self.state = self.state.with_triton_gone(str(error))
        except ScrapeError as error:
            blindness = str(error)
        else:
            if counts_progress:
                self.state = self.state.with_output_tokens(scrape.counters.output_tokens_total, self._clock())
        self._blindness = blindness
        self._tell()

    async def _send_canary(self) -> None:
        try:
            result = await self._triton.run_canary(self.state.timing.deadline)
        finally:
            self._canary = None
        self.state = self.state.with_result(result, self._clock())
        self._metrics.canary_ended(result)
        self._tell()

    def _until_next_seconds(self) -> float:
        if self._canary is not None:
            return POLL_SECONDS
        return min(POLL_SECONDS, max(self.state.next_canary_at - self._clock(), 0.0))

    def _tell(self) -> None:
        """Say what has changed."""
        verdict = self.state.readiness(self._clock())
        news = (verdict.holds, self.state.failure, self._blindness)
        if news == self._said:
            return
        self._said = news
        log.info("%s", "ready" if verdict.holds else f"not ready: {verdict.message}")
        if self._blindness is not None:
            log.warning("%s; canaries alone tell how Triton is, until it answers again", self._blindness)
