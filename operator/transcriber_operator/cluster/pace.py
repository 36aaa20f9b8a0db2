"""How fast the API server is called: a token bucket that a throttling answer empties."""

import asyncio
from typing import Final

from transcriber_operator.clock import Clock

ENOUGH: Final = 1 - 1e-9  # of a token: rounding must not make anyone wait for nothing


class Pace:
    """A token bucket: `rate` calls per second in the long run, twice as many at once; first come, first served."""

    def __init__(self, rate: float, clock: Clock) -> None:
        self._rate = rate
        self._burst = 2 * rate
        self._clock = clock
        self._tokens = self._burst
        self._filled_at = clock.monotonic()
        self._paused_until = 0.0
        self._turn = asyncio.Lock()

    async def wait(self) -> None:
        """Wait for a token and take it."""
        async with self._turn:  # asyncio's Lock is fair
            while (seconds := self._seconds_to_wait()) > 0:
                await self._clock.sleep(seconds)
            self._tokens -= 1

    def pause(self, seconds: float) -> None:
        """Let no call out for so long, and then only at the long-run rate: the server asked for it."""
        self._paused_until = max(self._paused_until, self._clock.monotonic() + seconds)

    def _seconds_to_wait(self) -> float:
        now = self._clock.monotonic()
        if now < self._paused_until:
            self._tokens, self._filled_at = 1.0, self._paused_until
            return self._paused_until - now
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._filled_at) * self._rate)
        self._filled_at = max(now, self._filled_at)
        return (1 - self._tokens) / self._rate if self._tokens < ENOUGH else 0.0
