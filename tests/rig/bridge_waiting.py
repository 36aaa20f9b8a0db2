"""Two ways to wait that the pod bridge needs beside those of asyncio."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any


async def first(*coroutines: Coroutine[Any, Any, object]) -> None:
    """Wait until one of them is done and cancel the others; raises what the done ones raised."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


class Deadline:
    """A moment that can be brought forward while others wait for it."""

    def __init__(self, seconds: float) -> None:
        """Set it so many seconds from now."""
        self._at = asyncio.get_running_loop().time() + seconds
        self._moved = asyncio.Event()

    def shorten(self, seconds: float) -> None:
        """Let it be in so many seconds, unless it is sooner anyway."""
        self._at = min(self._at, asyncio.get_running_loop().time() + seconds)
        self._moved.set()
        self._moved = asyncio.Event()

    @property
    def seconds_left(self) -> float:
        """Seconds until then; not positive when it has passed."""
        return self._at - asyncio.get_running_loop().time()

    async def reached(self) -> None:
        """Wait until then."""
        while (seconds := self.seconds_left) > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._moved.wait(), seconds)
