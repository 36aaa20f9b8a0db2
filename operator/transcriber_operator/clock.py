"""The clock, as something that a test can hold in its hands."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Final, Protocol

# Unlike CLOCK_MONOTONIC it goes on while the machine is suspended: a Lease runs out meanwhile.
_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock(Protocol):
    """Where the operator's time comes from."""

    def now(self) -> datetime:
        """Return the time of day, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds since some moment; never runs backwards."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return once so much time has passed."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """Return the time of day, aware, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds since the machine started, with the time that it was suspended."""
        return time.clock_gettime(_CLOCK)

    async def sleep(self, seconds: float) -> None:
        """Return once so much time has passed."""
        await asyncio.sleep(seconds)
