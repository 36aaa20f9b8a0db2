"""Sends the files of a trace to the stubs of a resource, as a client does that balances over ready pods and tries again."""

import asyncio
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, Self

import aiohttp

WORK_PORT: Final = 8003
PAUSE_SECONDS: Final = 0.5  # before another try; doubled up to the longest
LONGEST_PAUSE_SECONDS: Final = 4.0
GIVE_UP_SECONDS: Final = 600.0
RETRIABLE: Final = frozenset({HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS})
CUT: Final = "cut"  # an answer that did not come: the connection ended


@dataclass(frozen=True)
class File:
    """A file of a trace; `at_seconds` from the start of the feeder."""

    at_seconds: float
    audio_seconds: float


@dataclass(frozen=True)
class Try:
    """One attempt; `answer` is a status, or CUT."""

    address: str
    began_at: float
    ended_at: float
    answer: int | str

    @property
    def is_retriable(self) -> bool:
        """Whether another replica may be asked."""
        return self.answer in RETRIABLE or self.answer == CUT


@dataclass
class Call:
    """A file as it is sent; times of the event loop's clock."""

    file: File
    sent_at: float
    tries: list[Try] = field(default_factory=list)
    ended_at: float | None = None

    @property
    def is_finished(self) -> bool:
        """Whether it has its result."""
        return bool(self.tries) and self.tries[-1].answer == HTTPStatus.OK

    @property
    def seconds(self) -> float:
        """From sending to the answer; only of one that ended."""
        assert self.ended_at is not None
        return self.ended_at - self.sent_at


class Feeder:
    """Use as an async context manager; leaving it gives up what is not finished, which then counts as lost."""

    def __init__(self, ready: Callable[[], Iterable[str]], give_up_seconds: float = GIVE_UP_SECONDS) -> None:
        """`ready` returns the addresses of the ready pods at the moment."""
        self.calls: list[Call] = []
        self._ready = ready
        self._give_up_seconds = give_up_seconds
        self._held: Counter[str] = Counter()  # files that each address has now

    async def __aenter__(self) -> Self:
        # A connection for each file: a pooled one to a pod that has gone would be a fault of the client's own.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        self._session = aiohttp.ClientSession(connector=connector, trust_env=False, timeout=aiohttp.ClientTimeout(total=None))
        self._tasks: list[asyncio.Task[None]] = []
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for task in self._tasks:
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()
        for result in results:
            if isinstance(result, Exception) and error is None:
                raise result

    def feed(self, trace: Sequence[File]) -> None:
        """Send files at their times, from now on."""
        self._tasks += [asyncio.create_task(self._send(file)) for file in trace]

    async def finished(self) -> None:
        """Wait until every file is finished or given up."""
        await asyncio.gather(*self._tasks)

    def lost(self) -> list[Call]:
        """Return the calls that ended without a result: refused for good, or given up."""
        return [call for call in self.calls if call.ended_at is not None and not call.is_finished]

    def figures(self) -> dict[str, Any]:
        """Return counts and seconds for a report."""
        seconds = sorted(call.seconds for call in self.calls if call.is_finished)
        return {
            "files": len(self.calls),
            "audio_seconds": round(sum(call.file.audio_seconds for call in self.calls)),
            "finished": len(seconds),
            "retriable_failures": dict(
                Counter(str(tried.answer) for call in self.calls for tried in call.tries if tried.is_retriable)
            ),
            "lost": len(self.lost()),
            "median_seconds": round(statistics.median(seconds), 1) if seconds else None,
            "longest_seconds": round(seconds[-1], 1) if seconds else None,
        }

    async def _send(self, file: File) -> None:
        await asyncio.sleep(file.at_seconds)
        clock = asyncio.get_running_loop().time
        call = Call(file, clock())
        self.calls.append(call)
        pause = PAUSE_SECONDS
        try:
            async with asyncio.timeout(self._give_up_seconds):
                while True:
                    tried = await self._try(file)
                    if tried is not None:
                        call.tries.append(tried)
                        if not tried.is_retriable:
                            break
                    await asyncio.sleep(pause)
                    pause = PAUSE_SECONDS if tried is None else min(2 * pause, LONGEST_PAUSE_SECONDS)
        except TimeoutError:
            pass  # given up
        finally:
            call.ended_at = clock()

    async def _try(self, file: File) -> Try | None:
        """Send a file to the ready pod that has fewest of ours; None where no pod is ready."""
        address = min(self._ready(), key=lambda address: self._held[address], default=None)
        if address is None:
            return None
        clock = asyncio.get_running_loop().time
        began_at = clock()
        self._held[address] += 1
        try:
            url = f"http://{address}:{WORK_PORT}/work"
            async with self._session.post(url, json={"audio_seconds": file.audio_seconds}) as response:
                await response.read()
                return Try(address, began_at, clock(), response.status)
        except (aiohttp.ClientError, OSError):
            return Try(address, began_at, clock(), CUT)
        finally:
            self._held[address] -= 1
