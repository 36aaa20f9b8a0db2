"""Looks at Triton's metrics for whoever needs them: the watch, a drain, the operator that asks for the load."""

import time
from collections.abc import Callable

from transcriber_exporter.load import Known, Scrape
from transcriber_exporter.metrics import Metrics
from transcriber_exporter.triton import ScrapeError, Triton, TritonGoneError


class Looks:
    """What was seen of one Triton: `known`, and when this began (monotonic seconds)."""

    def __init__(
        self, triton: Triton, metrics: Metrics, clock: Callable[[], float], unix_time: Callable[[], float] = time.time
    ) -> None:
        self.known = Known(asked_at=clock())
        self._triton = triton
        self._metrics = metrics
        self._clock = clock
        self._unix_time = unix_time
        metrics.show(
            "transcriber_load_age_seconds",
            "Since Triton last told its load, or since the start of this process",
            lambda: clock() - self.known.asked_at,
        )

    async def look(self) -> Scrape:
        """Ask Triton; raises TritonGoneError and ScrapeError."""
        asked_at, since = self._clock(), self.known.counters_since
        try:
            scrape = await self._triton.scrape()
        except (TritonGoneError, ScrapeError) as error:
            self.known = self.known.without(str(error))
            raise
        else:
            self.known = self.known.with_scrape(scrape, asked_at, self._unix_time())
            return scrape
        finally:
            is_another = since is not None and self.known.counters_since != since
            self._metrics.looked(self._clock() - asked_at, succeeded=self.known.reason is None, is_another=is_another)
