"""Constant load on the replicas of a resource: clients that know the addresses as a headless Service gives them, and retry once."""

import asyncio
import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import grpc.aio
from tritonclient.grpc import service_pb2_grpc as kserve_grpc

from tests.triton.client import audio
from transcriber_engine.result import Transcript

RESOLVE_SECONDS: Final = 1.0  # how late clients hear that an address has come or gone
PAUSE_SECONDS: Final = 0.2
CALL_SECONDS: Final = 120.0  # so that a slow machine is not taken for a lost call
GRPC_PORT: Final = 8001
LENGTH_BYTES: Final = 4  # before a string in a raw tensor
OPTIONS: Final = {"language": "en", "timestamps": "none"}


@dataclass(frozen=True)
class Call:
    """One call of a client, retry included; times of the event loop's clock. `text` is None where all attempts failed."""

    recording: str
    began_at: float
    ended_at: float
    addresses: tuple[str, ...]
    text: str | None
    errors: tuple[str, ...]


class Load:
    """Clients that transcribe recordings, in turn, again and again; use as an async context manager, which ends when all have."""

    def __init__(self, ready: Callable[[], Sequence[str]], recordings: Mapping[str, bytes], clients: int) -> None:
        """`ready` returns the addresses of the ready pods."""
        self.calls: list[Call] = []
        self._ready = ready
        self._recordings = recordings
        self._clients = clients
        self._resolved: tuple[str, ...] = ()
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._ending = asyncio.Event()
        self._called = asyncio.Event()  # replaced each time that it is set

    async def __aenter__(self) -> Self:
        self._resolved = tuple(self._ready())
        self._resolving = asyncio.create_task(self._resolve())
        self._tasks = [asyncio.create_task(self._run(number)) for number in range(self._clients)]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ending.set()
        self._resolving.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        for channel in self._channels.values():
            await channel.close()
        for result in results:
            if isinstance(result, Exception) and error is None:
                raise result

    async def answered(self, count: int) -> None:
        """Wait for so many calls from now on."""
        wanted = len(self.calls) + count
        while len(self.calls) < wanted:
            await self._called.wait()

    def failed(self) -> list[Call]:
        """Return the calls whose attempts all failed."""
        return [call for call in self.calls if call.text is None]

    def wrong(self, expected: Mapping[str, str]) -> list[Call]:
        """Return the calls that were answered with another text."""
        return [call for call in self.calls if call.text is not None and call.text != expected[call.recording]]

    def figures(self) -> dict[str, Any]:
        """Return counts and times for a report."""
        seconds = sorted(call.ended_at - call.began_at for call in self.calls)
        return {
            "calls": len(self.calls),
            "failed": len(self.failed()),
            "retried": sum(len(call.addresses) > 1 for call in self.calls),
            "median_seconds": round(statistics.median(seconds), 2),
            "longest_seconds": round(seconds[-1], 2),
            "addresses": len({call.addresses[-1] for call in self.calls if call.addresses}),
        }

    async def _resolve(self) -> None:
        while True:
            await asyncio.sleep(RESOLVE_SECONDS)  # as a client does whose answer from DNS has run out
            self._resolved = tuple(self._ready())

    async def _run(self, number: int) -> None:
        recordings = itertools.islice(itertools.cycle(self._recordings), number, None)
        for turn, recording in enumerate(recordings, start=number):
            if self._ending.is_set():
                return
            self.calls.append(await self._call(recording, turn))
            self._called.set()
            self._called = asyncio.Event()
            await asyncio.sleep(PAUSE_SECONDS)

    async def _call(self, recording: str, turn: int) -> Call:
        """Call one address and, if that fails, another one, if there is another."""
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        tried: list[str] = []
        errors: list[str] = []
        for _ in range(2):
            choice = [address for address in self._resolved if address not in tried] or list(self._resolved)
            if not choice:
                errors.append("no address")
                continue
            tried.append(choice[turn % len(choice)])
            try:
                text = await self.transcribe(recording, tried[-1])
            except grpc.aio.AioRpcError as error:
                errors.append(f"{tried[-1]}: {error.code().name} {error.details()}")
            else:
                return Call(recording, began_at, loop.time(), tuple(tried), text, tuple(errors))
        return Call(recording, began_at, loop.time(), tuple(tried), None, tuple(errors))

    async def transcribe(self, recording: str, address: str) -> str:
        """Return a recording's text from one address; raises AioRpcError."""
        channel = self._channels.get(address)
        if channel is None:
            channel = self._channels[address] = grpc.aio.insecure_channel(f"{address}:{GRPC_PORT}")
        answer = await kserve_grpc.GRPCInferenceServiceStub(channel).ModelInfer(
            audio(self._recordings[recording], **OPTIONS), timeout=CALL_SECONDS
        )
        return Transcript.model_validate_json(answer.raw_output_contents[0][LENGTH_BYTES:]).text
