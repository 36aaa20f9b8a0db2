"""Doing something only as long as nobody asks to stop."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


async def unless(stopping: asyncio.Future[Any], work: Coroutine[Any, Any, T]) -> T | None:
    """Return what `work` returns, or None if `stopping` is done first: the work is then cancelled, and has ended."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        if not task.done():
            task.cancel()
    if stopping.done() and (not task.done() or task.cancelled()):
        with suppress(asyncio.CancelledError):
            await task
        return None
    return await task
