"""Waits before a pod ends until nothing is in flight: Triton that is told to end refuses the windows of files it still decodes."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from transcriber_exporter.load import Load
from transcriber_exporter.looks import Looks
from transcriber_exporter.triton import ScrapeError, TritonGoneError

POLL_SECONDS: Final = 0.5
SETTLE_SECONDS: Final = 3.0  # until proxies and clients have heard that this pod takes no more, and between the steps of a window
log = logging.getLogger("transcriber_exporter")


@dataclass(frozen=True)
class DrainState:
    """A drain as far as it was observed; times are monotonic seconds."""

    began_at: float
    limit_seconds: float
    idle_since: float | None = None
    left: Load | None = None  # None: not known
    is_gone: bool = False

    def with_load(self, load: Load | None, at: float) -> "DrainState":
        """Take in what Triton holds, None where it did not say: unknown is not idle."""
        if load is None or not load.is_idle:
            return replace(self, left=load, idle_since=None)
        return replace(self, left=load, idle_since=at if self.idle_since is None else self.idle_since)

    def with_triton_gone(self) -> "DrainState":
        """Take in that Triton has ended: it holds nothing."""
        return replace(self, left=Load(), is_gone=True)

    def is_drained(self, at: float) -> bool:
        """Whether nothing is left, and has not been for long enough to trust it."""
        return self.is_gone or (self.idle_since is not None and at - self.idle_since >= SETTLE_SECONDS)

    def is_over(self, at: float) -> bool:
        """Whether it is drained, or the time is up."""
        return self.is_drained(at) or at - self.began_at >= self.limit_seconds

    def report(self, at: float) -> dict[str, Any]:
        """Return what /drain answers: whether all was finished, how long that took, and what is left (null: not known)."""
        left = None if self.left is None else asdict(self.left)
        return {"drained": self.is_drained(at), "waited_seconds": round(at - self.began_at, 1), "left": left}


class Drain:
    """The drain of this pod, which begins once; it is over where Triton was only restarted, for that calls the same hook."""

    def __init__(
        self,
        looks: Looks,
        limit_seconds: float,
        clock: Callable[[], float],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._looks = looks
        self._limit_seconds = limit_seconds
        self._clock = clock
        self._pause = pause
        self._task: asyncio.Task[dict[str, Any]] | None = None
        self.begun = asyncio.Event()

    async def wait(self, *, is_stuck: bool = False) -> dict[str, Any]:
        """Begin it, or join the one that runs; returns its report. One that begins for a Triton that is stuck waits for nothing."""
        if self._task is None:
            self.begun.set()
            self._task = asyncio.create_task(self._run(0.0 if is_stuck else self._limit_seconds), name="drain")
        return await asyncio.shield(self._task)  # whoever asked may go away, as the drain may not

    async def undone(self) -> None:
        """Wait until another Triton listens, which is none that the drain was for, and forget the drain.

        The kubelet calls a preStop hook also where a probe has failed; then the pod goes on with a new Triton.
        """
        await self.wait()
        has_ended = False
        while True:
            try:
                await self._looks.look()
            except TritonGoneError:
                has_ended = True
            except ScrapeError:
                pass  # it does not say, and it may still be the old one
            else:
                if has_ended:
                    break
            await self._pause(POLL_SECONDS)
        log.info("the drain is over: Triton was restarted, and this pod goes on")
        self._task = None
        self.begun.clear()

    async def _run(self, limit_seconds: float) -> dict[str, Any]:
        state = DrainState(self._clock(), limit_seconds)
        log.info("draining: not ready any more, waiting for at most %g s", limit_seconds)
        while True:
            state = await self._observe(state)
            now = self._clock()
            if state.is_over(now):
                report = state.report(now)
                log.info("drain ended: %s", report)
                return report
            await self._pause(POLL_SECONDS)

    async def _observe(self, state: DrainState) -> DrainState:
        try:
            scrape = await self._looks.look()
        except TritonGoneError:
            return state.with_triton_gone()
        except ScrapeError as error:
            log.warning("draining: %s", error)
            return state.with_load(None, self._clock())
        return state.with_load(scrape.load, self._clock())
